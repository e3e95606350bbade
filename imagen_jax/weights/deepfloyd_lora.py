"""LoRA files that diffusers writes for DeepFloyd IF, as adapters, and back.

A file has two factors of each matrix that it adds to: A (rank, inputs) and B (outputs, rank), under
the name of diffusers' module. Two kinds of names occur: `to_q.lora_A.weight`, which are written,
and `to_q.lora.down.weight`, of older versions. The factor alpha / rank is 1, unless a file says an
alpha: beside the factors, or in PEFT's settings, which newer versions keep in the file's header.
"""

import re
from collections.abc import Iterable

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from scipy.linalg import block_diag

from imagen_jax.config import AdapterConfig
from imagen_jax.config.choices import Dtype
from imagen_jax.errors import UsageError
from imagen_jax.models.low_rank import DOWN, UP
from imagen_jax.networks import Params
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.json_text import is_number, parse_object, shown
from imagen_jax.weights.deepfloyd_if import stored_names
from imagen_jax.weights.stored import StoredTensor, listed, open_file
from imagen_jax.weights.tensors import ParamPath, write_tensors

_UNET = "unet."
_FACTORS = {DOWN: "lora_A.weight", UP: "lora_B.weight"}
_ALPHA = "alpha"
_SETTINGS = "lora_adapter_metadata"
"""Key of the header with PEFT's settings, as JSON."""
_OTHER_SCALES = ("alpha_pattern", "use_rslora")
"""Settings by which the factor is another one than alpha / rank."""
_NAME = re.compile(
    rf"(?:{re.escape(_UNET)})?(?P<module>.+?)\.(?:(?P<{DOWN}>lora_A\.weight|lora\.down\.weight)"
    rf"|(?P<{UP}>lora_B\.weight|lora\.up\.weight)|(?P<{_ALPHA}>(?:lora\.)?alpha))"
)

Factors = dict[str, dict[str, np.ndarray]]
"""Module of diffusers -> its factors, by the names of ours, and alpha where there is one."""


def read_lora(path: AnyPath, unet: Params) -> tuple[AdapterConfig, Params]:
    """The adapter in a file of diffusers.

    Args:
        path: of the file, such as `pytorch_lora_weights.safetensors`.
        unet: parameters of the U-Net that it is for, which may be abstract.

    Raises:
        UsageError: it is damaged, holds something else, or is for another network.
    """
    factors, made = _read(path), {}
    for kernel, leaf in flatten_dict(unet).items():
        modules = _modules(kernel)
        parts = [factors.pop(module, None) for module in modules]
        if any(part is not None for part in parts):
            inputs, outputs = leaf.shape[-2:]
            sizes = [outputs // len(modules)] * len(modules)
            for name, value in _side_by_side(path, kernel, parts, inputs, sizes).items():
                made["unet", *kernel, name] = value
    if factors or not made:
        raise UsageError(
            f"{path} adds to no attention of this network"
            + (f" by {listed(factors)}." if factors else ".")
        )
    rank = max(value.shape[-1] for name, value in made.items() if name[-1] == DOWN)
    kernels = sorted({".".join(map(str, name[:-1])) for name in made})
    return AdapterConfig(rank=rank, targets=tuple(kernels)), unflatten_dict(made)


def lora_tensors(adapter: Params, scale: float) -> dict[str, np.ndarray]:
    """The tensors of a file of diffusers, by name.

    Args:
        adapter: of a U-Net in the form of DeepFloyd IF.
        scale: what the product of its factors is multiplied by; it becomes part of B.

    Raises:
        UsageError: it adds to what diffusers' files cannot say, such as a convolution or T5.
    """
    factors, tensors = flatten_dict(adapter), {}
    for path in dict.fromkeys(path[:-1] for path in factors):
        network, *kernel = path
        down, up = (np.asarray(factors[*path, name], np.float32) for name in (DOWN, UP))
        modules = _modules(tuple(kernel)) if network == "unet" else ()
        if not modules or down.ndim != 2:
            raise UsageError(
                f"The adapter adds to {'.'.join(map(str, path))}; diffusers' files hold factors of "
                "the attention of U-Nets alone."
            )
        for module, part in zip(modules, np.split(up, len(modules), axis=-1), strict=True):
            names = {key: f"{_UNET}{module}.{name}" for key, name in _FACTORS.items()}
            tensors[names[DOWN]] = np.ascontiguousarray(down.T)
            tensors[names[UP]] = np.ascontiguousarray(scale * part.T)
    return tensors


def save_lora(path: AnyPath, adapter: Params, scale: float, dtype: Dtype) -> None:
    """Writes an adapter as diffusers' pipelines load it (`load_lora_weights`).

    Raises:
        UsageError: as `lora_tensors`, or the file cannot be written.
    """
    tensors = lora_tensors(adapter, scale)
    write_tensors(path, tensors, dtype, {"format": "pt"})


def _modules(kernel: ParamPath) -> tuple[str, ...]:
    """diffusers' modules of a kernel of the attention blocks; none of any other parameter."""
    attends = kernel[-1] == "kernel" and ("attentions" in kernel or "attention" in kernel)
    names = stored_names(kernel) if attends else ()
    return tuple(name.removesuffix(".weight") for name in names)


def _read(path: AnyPath) -> Factors:
    factors: Factors = {}
    header, tensors = open_file(path)
    alpha = _alpha_of_all(header, path)
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise UsageError(f"{path} holds {name!r}, which is no factor of a LoRA of a U-Net.")
        factors.setdefault(match["module"], {})[str(match.lastgroup)] = _value(tensor)
    for module, pair in factors.items():
        if alpha is not None:
            pair.setdefault(_ALPHA, np.asarray(alpha))
        _check_pair(path, module, pair)
    return factors


def _alpha_of_all(header: dict[str, str], path: AnyPath) -> float | None:
    """The alpha that the file's header says for all modules; None where it says none.

    Raises:
        UsageError: the header is damaged, or scales modules in other ways.
    """
    if _SETTINGS not in header:
        return None
    settings = parse_object(header[_SETTINGS], f"{_SETTINGS} of {path}")
    for name in _OTHER_SCALES:
        if settings.get(f"{_UNET}{name}"):
            raise UsageError(
                f"{path} was trained with {name} {shown(settings[f'{_UNET}{name}'])}; only files "
                "whose factors all have one alpha are read."
            )
    alpha = settings.get(f"{_UNET}lora_{_ALPHA}")
    if alpha is not None and not is_number(alpha):
        raise UsageError(f"{path} has lora_alpha {shown(alpha)}; it must be a number.")
    return alpha if alpha is None else float(alpha)


def _value(tensor: StoredTensor) -> np.ndarray:
    return np.asarray(tensor.whole("float32"))


def _check_pair(path: AnyPath, module: str, pair: dict[str, np.ndarray]) -> None:
    shapes = [pair[name].shape if name in pair else () for name in (DOWN, UP)]
    (*_, down), (*_, up) = (shape or (0,) for shape in shapes)
    fits = all(len(shape) == 2 for shape in shapes) and shapes[0][0] == up > 0 and down > 0
    if not fits:
        raise UsageError(
            f"{path}: {module} has factors of {shapes[0]} and {shapes[1]}; they must be "
            "(rank, inputs) and (outputs, rank)."
        )
    if _ALPHA in pair and pair[_ALPHA].size != 1:
        raise UsageError(f"{path}: {module} has an alpha of {pair[_ALPHA].shape}; it is a number.")


def _side_by_side(
    path: AnyPath,
    kernel: ParamPath,
    parts: list[dict[str, np.ndarray] | None],
    inputs: int,
    sizes: Iterable[int],
) -> dict[str, np.ndarray]:
    """The factors of matrices that lie side by side in one kernel: of each a block of rows of B.

    A matrix without factors has rank 0.
    """
    downs, ups = [], []
    for part, outputs in zip(parts, sizes, strict=True):
        down, up = _ours(part) if part else (np.zeros((inputs, 0)), np.zeros((0, outputs)))
        if down.shape[0] != inputs or up.shape[1] != outputs:
            raise UsageError(
                f"{path}: the factors of {'.'.join(map(str, kernel))} make a matrix of "
                f"{down.shape[0]}x{up.shape[1]}; this network has one of {inputs}x{outputs}."
            )
        downs.append(down)
        ups.append(up)
    down = np.concatenate(downs, axis=1)
    return {DOWN: down.astype(np.float32), UP: block_diag(*ups).astype(np.float32)}


def _ours(part: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    down, up = part[DOWN].T, part[UP].T
    scale = part[_ALPHA].item() / down.shape[1] if _ALPHA in part else 1.0
    return down, scale * up
