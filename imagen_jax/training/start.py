"""How a run begins: from its newest checkpoint, from a trained stage, or anew."""

import dataclasses
import functools
import math
import warnings
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from imagen_jax.checkpoints.about import About, Fingerprints
from imagen_jax.checkpoints.checkpoint import Checkpoints, Items
from imagen_jax.checkpoints.state import TrainState, abstract_first_state
from imagen_jax.config import EfficientUNetConfig, StageConfig, UNetConfig, UNetVariant
from imagen_jax.config.choices import Weights
from imagen_jax.config.json_form import first_difference
from imagen_jax.errors import UsageError
from imagen_jax.networks import Params, init_networks
from imagen_jax.parallel import distributed
from imagen_jax.parallel import mesh as meshes
from imagen_jax.parallel.seeds import key_of
from imagen_jax.storage.files import AnyPath
from imagen_jax.stored.encoders import load_trained_tokenizer
from imagen_jax.stored.stages import LoadedStage, load_weights
from imagen_jax.training.optim import make_optimizer, with_schedule_at

Network = UNetConfig | EfficientUNetConfig
_RECORDS = ("source", "mixture", "filters", "sizes", "split")
"""Fields of the data that say which records are read."""


@dataclasses.dataclass(frozen=True)
class Start:
    """What the loop begins with.

    Attributes:
        state: of the run.
        pictures: how many it has seen; the data goes on with the next one.
    """

    state: TrainState
    pictures: int = 0


def abstract_state(config: StageConfig, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of a run's state."""
    abstract = abstract_first_state(config, make_optimizer(config.optimizer))
    return meshes.with_shardings(abstract, meshes.parameter_shardings(abstract, mesh))


def from_checkpoint(
    checkpoints: Checkpoints,
    config: StageConfig,
    mesh: Mesh,
    abstract: TrainState,
    fingerprints: Fingerprints | None = None,
) -> Start:
    """The newest checkpoint that is whole; damaged ones are moved out of the way.

    Where the optimizer is another one than the checkpoint's, or other parameters are frozen, so
    that its state has another form, moments start at zero and the learning rate goes on from the
    checkpoint's step. Otherwise moments stay, if need be in another dtype.

    Args:
        checkpoints: of the run.
        config: of the run, which may have changed.
        mesh: that the state is placed on.
        abstract: `abstract_state(config, mesh)`.
        fingerprints: of what the run reads; None where it may be other than the checkpoint's.

    Raises:
        UsageError: no checkpoint is whole, or what the run reads has changed.
    """

    def wanted(stored: StageConfig) -> Items:
        items = {"params": abstract.params, "ema": abstract.ema}
        state = abstract
        if stored.optimizer != config.optimizer:
            changed = dataclasses.replace(config, optimizer=stored.optimizer)
            state = abstract_state(changed, mesh)
        if config.optimizer.power_ema:
            items |= {"power_ema": abstract.power_ema}
        keeps = _form(state.opt_state) == _form(abstract.opt_state)
        return items | {"opt_state": state.opt_state} if keeps else items

    restored = checkpoints.restore(wanted)
    if fingerprints is not None:
        _require_same_inputs(restored.about, config, fingerprints)
    checkpoints.set_aside(newer_than=restored.step)
    params, ema, opt_state = map(restored.items.get, ("params", "ema", "opt_state"))
    step = meshes.place_parameters(np.array(restored.step, np.int32), abstract.step.sharding)
    if opt_state is None:
        opt_state = _new_opt_state(config, params, step, abstract)
    opt_state = jax.tree.map(lambda x, to: x.astype(to.dtype), opt_state, abstract.opt_state)
    averages = restored.items.get("power_ema", ())
    state = TrainState(step=step, params=params, ema=ema, opt_state=opt_state, power_ema=averages)
    return Start(state, restored.about.pictures)


def _require_same_inputs(about: About, config: StageConfig, now: Fingerprints) -> None:
    """Where the config names others than the checkpoint's, that was allowed already."""
    for name, then in dataclasses.asdict(about.fingerprints).items():
        both = {then, getattr(now, name)}
        if len(both - {""}) == 2 and _named(name, about.config) == _named(name, config):
            raise UsageError(
                f"{_said_of(name, config)} up to step {about.step}; "
                "put back what was there, or pass --allow-changed-data to go on with what is."
            )


def _named(name: str, config: StageConfig) -> tuple:
    """What of a config says where the run has one of `Fingerprints`."""
    if name == "data":
        return tuple(getattr(config.data, field) for field in _RECORDS)
    return (config.text_encoder.tokenizer if name == "tokenizer" else config.text_encoder.source,)


def _said_of(name: str, config: StageConfig) -> str:
    if name == "data":
        files = ", ".join(share.source for share in config.data.shares)
        return f"The files of {files} are not those that the run was trained on"
    if name == "tokenizer":
        found = f"The tokenizer {config.text_encoder.tokenizer!r}"
    else:
        found = f"The text encoder of {config.data.embeddings or config.text_encoder.source!r}"
    return f"{found} is not the one that the run was trained on"


def _form(opt_state: Any) -> tuple:
    """All of an optimizer's state but dtypes and values."""
    return jax.tree.structure(opt_state), [x.shape for x in jax.tree.leaves(opt_state)]


def _new_opt_state(
    config: StageConfig, params: Params, step: jax.Array, abstract: TrainState
) -> Any:
    if distributed.leads():
        warnings.warn(
            "The optimizer's state has another form than in the checkpoint: its moments start "
            f"at zero, its learning rate is that of step {step}.",
            stacklevel=3,
        )
    optimizer = make_optimizer(config.optimizer)
    shardings = jax.tree.map(lambda x: x.sharding, abstract.opt_state)

    @functools.partial(jax.jit, out_shardings=shardings)
    def init(params: Params, step: jax.Array) -> Any:
        return with_schedule_at(optimizer.init(params), step)

    return init(params, step)


def _with_our_settings(theirs: Network, ours: Network, *, new_head: bool) -> Network:
    """Their network with our dtype, remat and rounding of a scale: what changes no function; and
    where the head is new, with what that predicts."""
    same = {"dtype": ours.dtype, "remat": ours.remat}
    both = isinstance(ours, UNetConfig) and isinstance(theirs, UNetConfig)
    if both:
        same["variant"] = _with_our_variant(theirs.variant, ours.variant, new_head=new_head)
    return dataclasses.replace(theirs, **same)


def _with_our_variant(theirs: UNetVariant, ours: UNetVariant, *, new_head: bool) -> UNetVariant:
    same = {}
    # 0.7071 in DeepFloyd's code is more digits of 1 / sqrt(2) elsewhere.
    if math.isclose(ours.residual_scale, theirs.residual_scale, rel_tol=1e-4):
        same["residual_scale"] = ours.residual_scale
    if new_head:
        same["predicts_variance"] = ours.predicts_variance
    return dataclasses.replace(theirs, **same)


def from_stage(
    config: StageConfig,
    abstract: Params,
    stage: AnyPath,
    weights: Weights | None,
    by: str = "--init-from",
    *,
    new_head: bool = False,
) -> Params:
    """Parameters of a trained stage, placed as `abstract` says, for a run that starts from them.

    Pictures, numbers and classes of the config that the stage was not told begin as they do in a
    new run, which is without any effect.

    Args:
        config: of the run.
        abstract: its parameters.
        stage: training directory or exported file.
        weights: which; as `stages.load_weights` takes it.
        by: the flag or field that names the stage, for errors.
        new_head: the U-Net's last layer begins as in a new run, since it predicts something else.

    Raises:
        UsageError: it is no stage, one of another U-Net or text encoder, or its tokenizer was
            replaced by another of the same name.
    """
    origin = f"{by} {stage}"
    trained = load_weights(stage, weights, with_encoder="text_encoder" in abstract)
    _check_text_width(config, trained.config, origin)
    _check_tokenizer(config, trained)
    loaded = {name: trained.params[name] for name in abstract}
    loaded, new = _with_new_parts(loaded, abstract, head_of(config.unet) if new_head else ())
    if jax.tree.structure(loaded) != jax.tree.structure(abstract):
        raise UsageError(f"{origin} is a network of another structure.")
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path(abstract), jax.tree.leaves(loaded), strict=True
    ):
        if ours.shape != theirs.shape:
            raise UsageError(
                f"{origin}: {jax.tree_util.keystr(path)} has shape {theirs.shape}; this config "
                f"has {ours.shape}."
            )
    theirs = _with_our_settings(trained.config.unet, config.unet, new_head=new_head)
    if difference := first_difference(theirs, config.unet):
        name, was, now = difference
        raise UsageError(f"{origin} was trained with unet.{name} {was!r}; this config has {now!r}.")
    # A frozen encoder comes in the type that it computes in.
    loaded = jax.tree.map(lambda x, ours: x.astype(ours.dtype, copy=False), loaded, abstract)
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    placed = flatten_dict(meshes.place_parameters(loaded, shardings))
    if new:
        where = flatten_dict(shardings)
        draw = jax.jit(
            lambda key: {path: flatten_dict(init_networks(config, key))[path] for path in new},
            out_shardings={path: where[path] for path in new},
        )
        placed |= draw(key_of(config.training.seed))
    return unflatten_dict(placed)


def _check_text_width(config: StageConfig, trained: StageConfig, origin: str) -> None:
    ours, theirs = (x.inputs.text_width for x in (config, trained))
    if None not in (ours, theirs) and ours != theirs:
        raise UsageError(
            f"{origin} was trained with a text encoder of width {theirs} "
            f"(text_encoder.t5.d_model or clip.width); that of this config has width {ours}."
        )
    if (ours is None) != (theirs is None):
        reads = "reads text" if ours is None else "reads no text"
        raise UsageError(f"{origin} {reads}, unlike this config (conditions.text).")


def _check_tokenizer(config: StageConfig, trained: LoadedStage) -> None:
    """Raises a UsageError where the trained stage's tokenizer was replaced by another of its name;
    a run on embeddings reads none."""
    named = config.text_encoder.tokenizer == trained.config.text_encoder.tokenizer
    if trained.tokenizer and config.conditions.text and named and not config.data.embeddings:
        load_trained_tokenizer(trained.config, trained.tokenizer, trained.origin)


def head_of(config: Network) -> tuple[str, ...]:
    """Where the U-Net's last layer is among its parameters."""
    return ("unet", "pixel_head", "conv_2") if config.pixel_channels else ("unet", "conv_out")


def _with_new_parts(
    loaded: Params, abstract: Params, head: tuple[str, ...]
) -> tuple[Params, set[tuple]]:
    """`loaded` with zeros for what a new run draws, and the paths of these: what begins without
    effect and is not there, and the head if one is named."""
    wanted, there = flatten_dict(abstract), flatten_dict(loaded)
    new = {path for path in wanted.keys() - there.keys() if path[:2] == ("unet", "added")}
    new |= {path for path in wanted if head and path[: len(head)] == head}
    there |= {path: np.zeros(wanted[path].shape, wanted[path].dtype) for path in new}
    return unflatten_dict(there), new
