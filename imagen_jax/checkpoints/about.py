"""What a checkpoint says of itself beside its arrays."""

import contextlib
import dataclasses
import json
from typing import Any

import orbax.checkpoint as ocp

from imagen_jax.config import StageConfig, json_form
from imagen_jax.config.checked import Checked
from imagen_jax.storage.digests import sealed, unsealed
from imagen_jax.storage.files import AnyPath

ITEM = "about"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fingerprints:
    """Of what a run reads from files; empty where there is none, or it is not known.

    Attributes:
        data: of the records that it is trained on.
        tokenizer: of the vocabulary that captions are read by.
        encoder: of a text encoder that is not trained.
    """

    data: str = ""
    tokenizer: str = ""
    encoder: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class About(Checked):
    """A checkpoint's run and position, and what its arrays add up to.

    Attributes:
        config: that it was trained with.
        pictures: seen so far; the data goes on with the next one.
        checksums: of each item, by `checksums.checksums`.
        versions: of the packages that wrote it.
        step: that it is of; None in what an older version wrote.
        data, tokenizer, encoder: what it was trained on, as in `Fingerprints`.
    """

    config: StageConfig
    pictures: int
    checksums: dict[str, dict[str, int]]
    versions: dict[str, str]
    step: int | None = None
    data: str = ""
    tokenizer: str = ""
    encoder: str = ""

    @property
    def fingerprints(self) -> Fingerprints:
        return Fingerprints(data=self.data, tokenizer=self.tokenizer, encoder=self.encoder)

    def to_json(self) -> dict[str, Any]:
        """The values with a digest, which `read_about` checks."""
        return sealed(json.loads(json_form.to_json(self)))


def read_about(checkpoint: AnyPath) -> About:
    """What the checkpoint in a directory says.

    Raises:
        UsageError: it is not what was written.
        ValueError, OSError: it is not there, or no JSON.
    """
    path = checkpoint / ITEM
    with contextlib.closing(ocp.JsonCheckpointHandler()) as handler:
        values = unsealed(handler.restore(path), str(path))
    return json_form.from_json(json.dumps(values), str(path), About)
