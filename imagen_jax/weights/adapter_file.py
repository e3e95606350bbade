"""A low-rank adapter as one `.safetensors` file, with what it fits in the header."""

import dataclasses
import re

from flax.traverse_util import unflatten_dict

from imagen_jax.config import AdapterConfig, json_form
from imagen_jax.config.choices import Dtype, Weights
from imagen_jax.errors import UsageError
from imagen_jax.networks import Params
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.json_text import shown
from imagen_jax.weights.hugging_face import TORCH
from imagen_jax.weights.stored import open_file
from imagen_jax.weights.tensors import ParamPath, StoredParams, write_tensors

FORMAT = "imagen-jax adapter 1"
_NETWORKS = ("unet.", "text_encoder.")
_NUMBER = re.compile("[0-9]{1,9}")


@dataclasses.dataclass(frozen=True)
class AdapterFile:
    """What the header of a file says, and its tensors, of which none is read.

    Attributes:
        config: of the adapter; its `base` is empty.
        fits: network -> fingerprint of the weights that it was trained beside.
        tensors: its factors.
    """

    config: AdapterConfig
    fits: dict[str, str]
    tensors: StoredParams

    def load(self) -> Params:
        """The factors, float32, on the host.

        Raises:
            UsageError: a number is not finite, or is not what was written.
        """
        return unflatten_dict({path: x.whole("float32") for path, x in self.tensors.items()})


def save_adapter_file(
    path: AnyPath,
    config: AdapterConfig,
    fits: dict[str, str],
    params: Params,
    dtype: Dtype,
    weights: Weights,
) -> None:
    """Writes an adapter; where its stage lies stays out of the header."""
    config = dataclasses.replace(config, base="")
    about = {"format": FORMAT, "adapter": json_form.to_json(config), "weights": weights}
    about |= {f"fits_{network}": fingerprint for network, fingerprint in fits.items()}
    write_tensors(path, params, dtype, about)


def is_adapter_file(path: AnyPath) -> bool:
    """Whether a file of weights says that it is an adapter.

    Raises:
        UsageError: it is damaged, or is neither safetensors nor named as PyTorch's files are.
    """
    return path.suffix != TORCH and open_file(path)[0].get("format") == FORMAT


def open_adapter_file(path: AnyPath) -> AdapterFile:
    """An adapter that `save_adapter_file` wrote.

    Raises:
        UsageError: no such file, damaged, or of another format.
    """
    header, tensors = open_file(path)
    if header.get("format") != FORMAT:
        raise UsageError(
            f"{path} is not an adapter: its header says format {header.get('format')!r}, not "
            f"{FORMAT!r}."
        )
    for name in tensors:
        if not name.startswith(_NETWORKS):
            raise UsageError(f"{path} holds {shown(name)}, which is no factor of a network.")
    config = json_form.from_json(header.get("adapter", ""), f"{path} (header)", AdapterConfig)
    prefix = "fits_"
    fits = {k.removeprefix(prefix): x for k, x in header.items() if k.startswith(prefix)}
    return AdapterFile(config, fits, {_path(name): x for name, x in tensors.items()})


def _path(name: str) -> ParamPath:
    """Blocks that are numbered have numbers in their paths."""
    return tuple(int(part) if _NUMBER.fullmatch(part) else part for part in name.split("."))
