"""Trained stages and text encoders, from wherever a user keeps them."""

import dataclasses
from collections.abc import Sequence

from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from imagen_jax.checkpoints.directory import is_training_directory, read_config
from imagen_jax.config import MeshConfig, StageConfig, T5Config
from imagen_jax.config.choices import Weights
from imagen_jax.config.python_file import read_config_file
from imagen_jax.data.emoji_words import Vocabulary
from imagen_jax.errors import UsageError
from imagen_jax.networks import Params, abstract_frozen_encoder, abstract_sampled_unet
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.storage.files import AnyPath, on_hub, to_path
from imagen_jax.storage.hub import stage_path
from imagen_jax.stored.adapters import StoredAdapter, adapted, holds_adapter, open_adapter
from imagen_jax.stored.encoders import copied_encoder, is_stage, load_trained_tokenizer, trained_on
from imagen_jax.stored.network import StoredNetwork
from imagen_jax.text.tokenizer import Tokenizer
from imagen_jax.weights.clip_names import open_clip_text
from imagen_jax.weights.hugging_face import PIPELINE_INDEX
from imagen_jax.weights.stage_file import (
    load_stage_file,
    open_stage_file,
    read_stage_config,
    read_tokenizer,
    read_weights,
)
from imagen_jax.weights.stored import open_file
from imagen_jax.weights.t5_names import open_t5
from imagen_jax.weights.tensors import fit_params

WeightedAdapter = tuple[StoredAdapter, float]


@dataclasses.dataclass(frozen=True)
class StoredStage:
    """A trained stage where it is kept: its config and headers are read, its weights are not.

    `text_encoder` is None for a stage that reads no text, and where nobody needs it. `adapters`
    are where those lie that were added to it, with their weights. `tokenizer` is the fingerprint of
    the one that it was trained with; empty where that is unknown.
    """

    origin: AnyPath
    config: StageConfig
    unet: StoredNetwork
    text_encoder: StoredNetwork | None
    adapters: tuple[tuple[AnyPath, float], ...] = ()
    tokenizer: str = ""

    def load_tokenizer(self) -> Tokenizer:
        """What reads its prompts.

        Raises:
            UsageError: as `load_trained_tokenizer`.
        """
        return load_trained_tokenizer(self.config, self.tokenizer, self.origin)

    def encoder_fingerprint(self) -> str | None:
        """The fingerprint of the encoder that made the stage's embeddings; None without one."""
        if self.text_encoder is not None:
            return self.text_encoder.fingerprint()
        made = trained_on(self.origin)
        return made.encoder if made else None

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words that it has learned, where they are known; an adapter may add others."""
        return None if self.adapters else Vocabulary.of(self.config.data)


def open_stage(
    path: AnyPath,
    weights: Weights | None = None,
    *,
    needs_encoder: bool = True,
    adapters: Sequence[WeightedAdapter] = (),
) -> StoredStage:
    """A stage to sample from, in a training directory or an exported file.

    The training directory of an adapter is the stage that it adapts, with the adapter.

    Args:
        path: of either.
        weights: as `load_weights` takes it.
        needs_encoder: False takes a stage too whose text encoder is nowhere to be found.
        adapters: what is added to it, each with its weight.

    Raises:
        UsageError: neither, without what its config says, without a text encoder that fits, or
            with an adapter of another stage.
    """
    if holds_adapter(path):
        own = open_adapter(path, weights or "ema")
        base, adapters = stage_path(own.config.base), [(own, 1.0), *adapters]
        return open_stage(base, needs_encoder=needs_encoder, adapters=adapters)
    stage = _open_stage(path, weights, needs_encoder)
    for adapter, weight in adapters:
        encoder = stage.text_encoder
        stage = dataclasses.replace(
            stage,
            unet=adapted(stage.unet, adapter, weight),
            text_encoder=encoder and adapted(encoder, adapter, weight),
            adapters=(*stage.adapters, (adapter.origin, weight)),
        )
    return stage


def _open_stage(path: AnyPath, weights: Weights | None, needs_encoder: bool) -> StoredStage:
    held, step = None, None
    if is_training_directory(path):
        # Orbax loads slowly.
        from imagen_jax.checkpoints.checkpoint import newest_fingerprints, newest_step

        config, step, weights = read_config(path), newest_step(path), weights or "ema"
        if step is None:
            raise UsageError(f"{path} holds no checkpoint yet.")
        holds_encoder, tokenizer = config.text_encoder.train, newest_fingerprints(path).tokenizer
    elif path.is_file():
        weights = held_weights(path, weights)
        tokenizer = read_tokenizer(path)
        config, held = open_stage_file(path)
        holds_encoder = any(name == "text_encoder" for name, *_ in held)
    else:
        raise _no_stage(path)

    def network(name: str, abstract: Params) -> StoredNetwork:
        tensors = None
        if held is not None:
            tensors = {key[1:]: tensor for key, tensor in held.items() if key[0] == name}
        return StoredNetwork(name, path, abstract, tensors, weights, step)

    unet = network("unet", abstract_sampled_unet(config))
    if not config.conditions.text:
        encoder = None
    elif holds_encoder:
        encoder = network("text_encoder", abstract_frozen_encoder(config.text_encoder.network))
    else:
        workdir = path if held is None else None
        found = needs_encoder or _finds_encoder(config, workdir)
        encoder = open_frozen_encoder(config, workdir) if found else None
    return StoredStage(path, config, unet, encoder, tokenizer=tokenizer)


@dataclasses.dataclass(frozen=True)
class LoadedStage:
    """A trained stage with its text encoder; of what was trained here, the `weights` named.

    `tokenizer` is that of `StoredStage`.
    """

    origin: AnyPath
    config: StageConfig
    params: Params
    weights: Weights = "ema"
    tokenizer: str = ""


def load_weights(
    path: AnyPath, weights: Weights | None = None, *, with_encoder: bool = True
) -> LoadedStage:
    """A stage from a training directory or an exported file, adapted by what its directory holds.

    All is float32, but for an encoder that the stage does not train.

    Args:
        path: of either.
        weights: None takes the EMA of a training directory, and what a file holds.
        with_encoder: an encoder that the stage does not train is loaded too.

    Raises:
        UsageError: neither, damaged, of another format, or a file with the other weights.
    """
    if holds_adapter(path):
        stage = open_stage(path, weights := weights or "ema", needs_encoder=with_encoder)
        loaded = load_opened(stage, with_encoder=with_encoder)
        return dataclasses.replace(loaded, origin=path, weights=weights)
    if is_training_directory(path):
        from imagen_jax.checkpoints.checkpoint import newest_fingerprints  # As above.
        from imagen_jax.checkpoints.weights import load_directory

        weights, tokenizer = weights or "ema", newest_fingerprints(path).tokenizer
        config, params = load_directory(path, make_mesh(MeshConfig()), weights)
    elif path.is_file():
        weights, tokenizer = held_weights(path, weights), read_tokenizer(path)
        config, params = load_stage_file(path)
    else:
        raise _no_stage(path)
    if config.conditions.text and "text_encoder" not in params and with_encoder:
        workdir = path if path.is_dir() else None
        encoder = load_frozen_encoder(config, workdir, make_mesh(MeshConfig()))
        params = {**params, "text_encoder": encoder}
    return LoadedStage(path, config, params, weights, tokenizer)


def open_unet_params(path: AnyPath, weights: Weights | None = None) -> tuple[StageConfig, Params]:
    """Config and U-Net of a stage; of a file no tensor is read, a training directory's are in
    float32. Arguments and errors are those of `load_weights`."""
    if path.is_file():
        stage = open_stage(path, weights, needs_encoder=False)
        return stage.config, unflatten_dict(stage.unet.tensors)
    loaded = load_weights(path, weights, with_encoder=False)
    return loaded.config, loaded.params["unet"]


def load_opened(stage: StoredStage, *, with_encoder: bool = True) -> LoadedStage:
    """The weights of a stage that is open, in float32: of a run that goes on, those of then."""
    networks = {"unet": stage.unet}
    if with_encoder and stage.text_encoder is not None:
        networks["text_encoder"] = stage.text_encoder
    mesh = make_mesh(MeshConfig())
    params = {name: network.in_float32().load(mesh) for name, network in networks.items()}
    return LoadedStage(stage.origin, stage.config, params, stage.unet.weights, stage.tokenizer)


def held_weights(path: AnyPath, weights: Weights | None) -> Weights:
    """Those that a file holds, where they are the ones that were asked for."""
    held = read_weights(path)
    if weights not in (None, held):
        raise UsageError(f"{path} holds {held} weights only; {weights} were asked for.")
    return held


def _no_stage(path: AnyPath) -> UsageError:
    if (path / PIPELINE_INDEX).exists():
        return UsageError(
            f"{path} is a pipeline of diffusers; make a stage of it by `python -m imagen_jax "
            "convert deepfloyd-if`."
        )
    return UsageError(f"{path} is neither a training directory nor an exported stage.")


def load_config(path: AnyPath) -> StageConfig:
    """The config of a config file (Python with a `get_config`), or of a stage; no weights needed.

    Raises:
        UsageError: none of these.
    """
    if is_training_directory(path):
        return read_config(path)
    if path.suffix == ".py" and path.is_file():
        return read_config_file(path)
    if path.is_file():
        return read_stage_config(path)
    raise UsageError(
        f"{path} is neither a config (such as tiny_64, or a file of your own), a training "
        "directory nor an exported stage."
    )


def open_encoder(path: AnyPath) -> StoredNetwork:
    """The text encoder of a stage, or the one that a config file names as its source.

    Args:
        path: as `load_config` takes it.

    Raises:
        UsageError: there is none, or its tokenizer was replaced.
    """
    if path.suffix == ".py":
        return open_frozen_encoder(load_config(path), None)
    return _encoder_with_its_tokenizer(open_stage(path))


def _encoder_of_stage(source: AnyPath, config: StageConfig) -> StoredNetwork:
    stage = open_stage(source)
    if stage.text_encoder is None:
        raise UsageError(f"text_encoder.source is {source}; that stage reads no text.")
    ours, theirs = config.text_encoder, stage.config.text_encoder
    # How it is computed may differ.
    network = ours.network
    sizes = dataclasses.replace(theirs.network, dtype=network.dtype, remat=network.remat)
    if (sizes, theirs.tokenizer) != (network, ours.tokenizer):
        raise UsageError(
            f"{source} has the text encoder {theirs.network} with tokenizer {theirs.tokenizer!r}; "
            f"this stage expects {network} with {ours.tokenizer!r}."
        )
    return _encoder_with_its_tokenizer(stage)


def _encoder_with_its_tokenizer(stage: StoredStage) -> StoredNetwork | None:
    if stage.tokenizer:
        stage.load_tokenizer()
    return stage.text_encoder


def load_frozen_encoder(config: StageConfig, workdir: AnyPath | None, mesh: Mesh) -> Params:
    """The encoder that a stage uses but does not train, on the mesh, in its computation's dtype.

    Arguments and errors are those of `open_frozen_encoder`.
    """
    return open_frozen_encoder(config, workdir).load(mesh)


def open_frozen_encoder(config: StageConfig, workdir: AnyPath | None) -> StoredNetwork:
    """Where the encoder is kept that a stage uses but does not train.

    A training directory's own copy of it comes first, then `text_encoder.source`.

    Args:
        workdir: training directory of the stage; None where it has none.

    Raises:
        UsageError: no source, an encoder of other sizes or another tokenizer, or of other weights
            than made the embeddings that the stage was trained on.
    """
    sizes = config.text_encoder.network
    abstract, copied = abstract_frozen_encoder(sizes), copied_encoder(config, workdir)
    source = copied or stage_path(config.text_encoder.source)
    if copied is not None:
        tensors = fit_params(open_file(source)[1], abstract, source)
    elif not config.text_encoder.source:
        raise UsageError(
            "text_encoder.source is empty; name a Hugging Face T5 directory or file, a converted "
            "T5 file or a stage, or set text_encoder.train; of CLIP a Hugging Face directory."
        )
    elif not source.exists():
        raise UsageError(
            f"text_encoder.source is {str(source)!r}; there is no such directory or file."
        )
    elif is_stage(source):
        encoder = dataclasses.replace(_encoder_of_stage(source, config), abstract=abstract)
        return _checked(encoder, workdir)
    else:
        is_t5 = isinstance(sizes, T5Config)
        tensors = open_t5(source, sizes) if is_t5 else open_clip_text(source, sizes)
    return _checked(StoredNetwork("text_encoder", source, abstract, tensors), workdir)


def _finds_encoder(config: StageConfig, workdir: AnyPath | None) -> bool:
    """Whether it is on this machine or in a bucket; what is on the hub is not fetched for it."""
    source = config.text_encoder.source
    is_near = bool(source) and not on_hub(source) and to_path(source).exists()
    return is_near or copied_encoder(config, workdir) is not None


def _checked(encoder: StoredNetwork, workdir: AnyPath | None) -> StoredNetwork:
    """The encoder, if it made the embeddings that `workdir` was trained on, if on any."""
    made = None if workdir is None else trained_on(workdir)
    if made and made.encoder != encoder.fingerprint():
        raise UsageError(
            f"{workdir} was trained on embeddings of another text encoder than {encoder.origin}, "
            f"that of {made.source}."
        )
    return encoder
