"""Prompts as the stages of a cascade read them: embedded before any U-Net is loaded."""

import copy
import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float

from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError, naming
from imagen_jax.networks import Params, build_networks
from imagen_jax.parallel import mesh as meshes
from imagen_jax.stored.stages import StoredStage
from imagen_jax.text.cache import EmbeddingCache
from imagen_jax.text.tokenizer import Tokenizer
from imagen_jax.weights.tensors import digest

HostNullText = tuple[Float[np.ndarray, "1 length text_width"], Bool[np.ndarray, "1 length"]]
"""`arrays.NullText` on the host."""


@dataclasses.dataclass(frozen=True)
class PromptEmbeddings:
    """All prompts as one text encoder embeds them; on the host.

    Attributes:
        text: float32.
        mask: True where a token is real.
        null: embeddings and mask of the empty caption; None where no text is zeros.
        encoder_sha256: of the encoder's weights; empty where none ran.
        prompts: themselves.
    """

    text: Float[np.ndarray, "prompts length text_width"]
    mask: Bool[np.ndarray, "prompts length"]
    null: HostNullText | None
    encoder_sha256: str
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raises a UsageError that names a prompt whose embedding is not finite."""
        finite = np.isfinite(self.text).all((1, 2))
        for prompt, is_finite in zip(self.prompts, finite, strict=True):
            if not is_finite:
                raise UsageError(
                    f"The text embedding of {prompt!r} holds numbers that are not finite."
                )
        if self.null is not None and not np.isfinite(self.null[0]).all():
            raise UsageError("The embedding of the empty text holds numbers that are not finite.")

    def of(self, rows: slice) -> "PromptEmbeddings":
        """Those of some of the prompts; one prompt stands for all."""
        rows = rows if len(self.prompts) > 1 else slice(None)
        return dataclasses.replace(
            self, text=self.text[rows], mask=self.mask[rows], prompts=self.prompts[rows]
        )


def check_prompts(stages: Sequence[StoredStage], prompts: Sequence[str]) -> None:
    """Raises a UsageError for a prompt that some stage cannot read, and for a stage without the
    tokenizer that it was trained with; warns of what is cut off."""
    for stage in filter(lambda stage: stage.config.conditions.text, stages):
        stage.load_tokenizer()(prompts, stage.config.text_encoder.max_length)


class PromptReader:
    """A text encoder to hold: its weights are read once and it is compiled once."""

    def __init__(self, stored: StoredStage, mesh: Mesh):
        """Reads no weights yet.

        Args:
            stored: the stage whose text encoder it is.
        """
        self._stored, self._mesh = stored, mesh
        self._params: Params | None = None

    @property
    def params(self) -> Params:
        if self._params is None:
            self._params = self._stored.text_encoder.load(self._mesh)
        return self._params

    @functools.cached_property
    def sha256(self) -> str:
        """The digest of the encoder's weights."""
        return digest(self.params)

    def __call__(self, prompts: Sequence[str], batch_size: int) -> PromptEmbeddings:
        """The prompts and, where the stage's null text is that, the empty caption embedded.

        Args:
            batch_size: prompts at once, as `meshes.batch_starts` rounds it.
        """
        encoder = self._stored.config.text_encoder
        token_ids, mask = self._tokenizer(prompts, encoder.max_length)
        if encoder.null == "empty":  # It takes a row beside the prompts.
            empty = self._tokenizer.empty(encoder.max_length)
            token_ids = np.concatenate([token_ids, empty[0]])
            mask = np.concatenate([mask, empty[1]])
        text, count = self._embed(token_ids, mask, batch_size), len(prompts)
        null = (text[count:], mask[count:]) if encoder.null == "empty" else None
        with naming(self._stored.text_encoder.origin):
            return PromptEmbeddings(text[:count], mask[:count], null, self.sha256, tuple(prompts))

    def without_prompt(self, batch_size: int) -> PromptEmbeddings:
        """The null text as if it were one prompt; only where that is text the encoder runs."""
        encoder = self._stored.config.text_encoder
        token_ids, mask = self._tokenizer.empty(encoder.max_length)
        if encoder.null == "zeros":
            text = np.zeros((*mask.shape, encoder.width), np.float32)
            return PromptEmbeddings(text, mask, None, "", ("",))
        text = self._embed(token_ids, mask, batch_size)
        return PromptEmbeddings(text, mask, (text, mask), self.sha256, ("",))

    def _embed(self, token_ids: np.ndarray, mask: np.ndarray, batch_size: int) -> np.ndarray:
        count = len(mask)
        starts = meshes.batch_starts(count, batch_size, self._mesh)

        def batch(first: int) -> np.ndarray:
            rows = np.arange(first, first + starts.step) % count
            inputs = meshes.place_rows((token_ids[rows], mask[rows]), self._mesh)
            return meshes.to_host(self._compiled({"text_encoder": self.params}, *inputs))

        return np.concatenate([batch(first) for first in starts])[:count]

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return self._stored.load_tokenizer()

    @functools.cached_property
    def _compiled(self) -> Callable:
        gather = functools.partial(meshes.gather_parameters, mesh=self._mesh)
        return jax.jit(build_networks(self._stored.config, gather).embed)


class TextEncoders:
    """The text encoders of a cascade's stages.

    Stages that name the same one share what it gave; where two places hold equal ones, that is
    found out once they are loaded.
    """

    def __init__(self, stages: Sequence[StoredStage], mesh: Mesh, *, held: bool = False):
        """Reads no weights yet.

        Args:
            held: they stay in memory; else one is there at a time.
        """
        self._stages, self._mesh, self._held = stages, mesh, held
        self._readers: dict[tuple, PromptReader] = {}

    def __call__(self, prompts: Sequence[str], batch_size: int) -> list[PromptEmbeddings | None]:
        """The prompts as each stage reads them; None for one that reads no text.

        Args:
            batch_size: prompts at once, as `meshes.batch_starts` rounds it.

        Raises:
            UsageError: a stage cannot read a prompt.
        """
        check_prompts(self._stages, prompts)
        embedded: dict[tuple, PromptEmbeddings] = {}
        reads_text = [stage.config.conditions.text for stage in self._stages]
        for stage in itertools.compress(self._stages, reads_text):
            if place_of(stage) not in embedded:
                embedded[place_of(stage)] = self._embed(stage, prompts, batch_size, embedded)
        return [
            embedded[place_of(stage)] if reads else None
            for stage, reads in zip(self._stages, reads_text, strict=True)
        ]

    def first(self, count: int) -> "TextEncoders":
        """Those of the first `count` stages; both share what is loaded."""
        part = copy.copy(self)
        part._stages = self._stages[:count]
        return part

    def without_prompt(self, batch_size: int) -> list[PromptEmbeddings | None]:
        """What each stage reads where there is no prompt; arguments as in a call."""
        nothing: dict[tuple, PromptEmbeddings] = {}
        for stage in filter(lambda stage: stage.config.conditions.text, self._stages):
            if place_of(stage) not in nothing:
                nothing[place_of(stage)] = self._reader(stage).without_prompt(batch_size)
        return [
            nothing[place_of(stage)] if stage.config.conditions.text else None
            for stage in self._stages
        ]

    def release(self) -> None:
        """Frees the devices' memory; weights are read again when needed."""
        self._readers.clear()

    def _embed(
        self,
        stage: StoredStage,
        prompts: Sequence[str],
        batch_size: int,
        embedded: dict[tuple, PromptEmbeddings],
    ) -> PromptEmbeddings:
        """Embeds for one stage; an encoder that is not held is gone when this returns."""
        reader = self._reader(stage)
        same = (reader.sha256, reading_of(stage.config))
        if same not in embedded:
            embedded[same] = reader(prompts, batch_size)
        return embedded[same]

    def _reader(self, stage: StoredStage) -> PromptReader:
        reader = self._readers.get(place_of(stage)) or PromptReader(stage, self._mesh)
        if self._held:
            self._readers[place_of(stage)] = reader
        return reader


def place_of(stage: StoredStage) -> tuple:
    """Stages for which this is equal read the same embeddings."""
    return (*stage.text_encoder.place, reading_of(stage.config))


def read_prompts(
    stages: Sequence[StoredStage], prompts: Sequence[str], caches: Sequence[EmbeddingCache]
) -> list[PromptEmbeddings | None]:
    """The prompts for every stage, from embeddings that `embed` made for it; no encoder is loaded.

    None for a stage that reads no text; its cache is not looked at.

    Raises:
        UsageError: a prompt is not among them, or a stage reads those of another encoder or
            tokenizer.
    """
    pairs = list(zip(stages, caches, strict=True))
    for stage, cache in pairs:
        if not stage.config.conditions.text:
            continue
        cache.check(stage.config)
        if stage.encoder_fingerprint() not in (None, cache.metadata.encoder):
            raise UsageError(
                f"{cache.directory} was embedded by another text encoder "
                f"({cache.metadata.source}) than that of {stage.origin}."
            )
        if stage.tokenizer not in ("", cache.metadata.encoding.vocabulary):
            raise UsageError(
                f"{cache.directory} was embedded with another tokenizer "
                f"({cache.metadata.encoding.tokenizer!r}) than {stage.origin} was trained with."
            )
        for prompt in cache.missing(prompts):
            raise UsageError(
                f"The prompt {prompt!r} has no embedding in {cache.directory}; write it into a "
                f"file and add it: python -m imagen_jax embed prompts:FILE {cache.directory} "
                f"--stage {stage.origin}"
            )
    return [
        _stored(stage.config, prompts, cache) if stage.config.conditions.text else None
        for stage, cache in pairs
    ]


def _stored(config: StageConfig, prompts: Sequence[str], cache: EmbeddingCache) -> PromptEmbeddings:
    def read(captions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        found = cache(captions)
        return found["text"].astype(np.float32), found["mask"]

    null = read([""]) if config.text_encoder.null == "empty" else None
    with naming(cache.directory):
        return PromptEmbeddings(*read(prompts), null, cache.metadata.encoder_sha256, tuple(prompts))


def reading_of(config: StageConfig) -> tuple:
    """All that a stage's embeddings depend on but the encoder's weights."""
    text = config.text_encoder
    network = dataclasses.replace(text.network, remat="none")
    layer = text.clip_layer if text.clip else ""
    return (network, layer, text.tokenizer, text.max_length, text.lowercase, text.null)
