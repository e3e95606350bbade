"""What a run reads: records, how their captions are read, and parameters that it does not train."""

import dataclasses
import json
from collections.abc import Callable

from flax.traverse_util import flatten_dict

from imagen_jax.checkpoints.about import Fingerprints
from imagen_jax.config import StageConfig
from imagen_jax.data.pipeline import ReadCaptions
from imagen_jax.data.records import Source
from imagen_jax.data.sources import open_source
from imagen_jax.networks import Params
from imagen_jax.parallel import distributed
from imagen_jax.storage.files import AnyPath
from imagen_jax.stored.encoders import keep_account_of_embeddings, keep_frozen_encoder
from imagen_jax.text.cache import EmbeddingCache
from imagen_jax.training.evaluation import open_held_out
from imagen_jax.training.text_inputs import CaptionTokens, load_caption_reader
from imagen_jax.weights.tensors import fingerprint


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        read: of captions; None for a stage without text.
        frozen: what the step needs but does not train.
        source: the records.
        fingerprints: of all these.
        held_out: records that the run is judged by, if it is.
    """

    read: ReadCaptions | None
    frozen: Params
    source: Source
    fingerprints: Fingerprints
    held_out: Source | None

    def keep_account(self, config: StageConfig, workdir: AnyPath) -> None:
        """Keeps in the training directory what its networks cannot be used without."""
        if "text_encoder" in self.frozen:
            keep_frozen_encoder(config, self.frozen["text_encoder"], workdir)
        if isinstance(self.read, EmbeddingCache):
            keep_account_of_embeddings(self.read.metadata, workdir)


def open_inputs(
    config: StageConfig,
    load_frozen: Callable[[AnyPath, ReadCaptions | None], Params],
    workdir: AnyPath,
    others: Params,
) -> Inputs:
    """Opens all that a run of `config` in `workdir` reads.

    Args:
        load_frozen: loads what the stage itself needs, as `Trainer.load_frozen`.
        others: parameters that the objective reads beside these.

    Raises:
        UsageError: data, tokenizer, embeddings or a text encoder cannot be read.
    """
    read = load_caption_reader(config) if config.conditions.text else None
    frozen = others | load_frozen(workdir, read)
    with distributed.leader_first("opened the data"):  # It may have to be built.
        source = open_source(config.data, config.low_resolution, config.conditions)
        held_out = open_held_out(config) if config.training.eval_every else None
    return Inputs(read, frozen, source, _fingerprints(source, read, frozen), held_out)


def _fingerprints(
    source: Source, read: CaptionTokens | EmbeddingCache | None, frozen: Params
) -> Fingerprints:
    """The first process's: where each has files of its own, their times differ."""
    found = {"data": source.fingerprint}
    if "text_encoder" in frozen:
        found["encoder"] = fingerprint(flatten_dict(frozen["text_encoder"]))
    if isinstance(read, CaptionTokens):
        found["tokenizer"] = read.fingerprint
    elif read is not None:
        made = read.metadata
        found |= {"tokenizer": made.encoding.vocabulary, "encoder": made.encoder}
    return Fingerprints(**json.loads(distributed.said_by_all(json.dumps(found))[0]))
