"""The exact jitted functions of training and sampling, with abstract arguments on a mesh."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from imagen_jax.conditions import Conditions
from imagen_jax.config import SamplingConfig, StageConfig
from imagen_jax.config.choices import FeatureName
from imagen_jax.config.data import Size
from imagen_jax.costs.model_flops import model_flops
from imagen_jax.diffusion.edits import Visit
from imagen_jax.diffusion.samplers import State
from imagen_jax.errors import UsageError
from imagen_jax.evaluation.features import abstract_call
from imagen_jax.networks import (
    Params,
    abstract_adapted,
    abstract_frozen_encoder,
    abstract_sampled_unet,
    build_networks,
)
from imagen_jax.parallel import mesh as meshes
from imagen_jax.parallel.seeds import key_of
from imagen_jax.pipeline import memory
from imagen_jax.pipeline.plan import Numbers, plan_sampling
from imagen_jax.pipeline.sampling import Run
from imagen_jax.training.speed import step_flops
from imagen_jax.training.step import abstract_batch
from imagen_jax.training.teachers import abstract_teacher
from imagen_jax.training.trainer import Trainer


class DoesNotFit(Exception):
    """The program needs more HBM than a chip has; the compiler's own sentence."""


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a jitted function.

    Attributes:
        what: in words.
        name: of the stage or network.
        chips: of the mesh.
        batch_size: pictures of the call over all chips.
        times: how many such calls a batch takes.
        held: bytes of each chip that are not among the arguments: parameters in parts, beside the
            whole ones.
        function: jitted.
        arguments: abstract arrays that say where they lie.
        params: the parameters among them, by network.
        count_flops: the work of the model itself on all chips, `model_flops`.
    """

    what: str
    name: str
    chips: int
    batch_size: int
    function: Any
    arguments: tuple
    params: Params
    count_flops: Callable[[], int]
    times: int = 1
    held: int = 0


def training_steps(config: StageConfig, mesh: Mesh) -> Iterator[Call]:
    """The step of `Trainer` on pictures of each size, the largest first.

    Raises:
        UsageError: the batch does not divide over the mesh.
    """
    trainer = Trainer(config, mesh)
    state, encoder, null = trainer.abstract_state, {}, {}
    adapted = {"unet": _placed_unet(config, mesh)} if config.adapter.rank else {}
    if config.runs_frozen_encoder:
        encoder = {"text_encoder": _placed_encoder(config, mesh)}
    if _has_null_text(config):
        null = {"null_text": _null_text(config, mesh)}
    frozen = adapted | encoder | null | _placed(abstract_teacher(config), mesh)
    count = config.training.batch_size
    key = _all_at(jax.eval_shape(lambda: key_of(0)), meshes.replicated(mesh))
    for size in sorted(config.training_sizes, key=math.prod, reverse=True):
        batch = abstract_batch(config, count, size)
        batch = meshes.with_shardings(batch, meshes.batch_shardings(batch, mesh))
        pixels = " of {}x{} pixels".format(*size) if config.data.sizes else ""
        yield Call(
            f"training step{pixels}",
            config.name,
            mesh.size,
            count,
            trainer.step,
            (state, frozen, batch, key),
            state.params | adapted | encoder,
            functools.partial(
                step_flops,
                config,
                trainer.networks,
                trainer.objective,
                state.params,
                frozen,
                size,
            ),
        )


def embedding(config: StageConfig, batch_size: int, mesh: Mesh) -> Call:
    """The text encoder alone, on a training batch's captions or on prompts.

    Raises:
        UsageError: the batch does not divide over the mesh, or the stage reads no text.
    """
    if not config.conditions.text:
        raise UsageError(f"{config.name!r} reads no text; it has no text encoder to compile.")
    meshes.check_batch_size(batch_size, mesh)
    params = {"text_encoder": _placed_encoder(config, mesh)}
    data = dataclasses.replace(config.data, embeddings="")  # They spare the training this call.
    batch = abstract_batch(dataclasses.replace(config, data=data), batch_size)
    batch = meshes.with_shardings(batch, meshes.batch_shardings(batch, mesh))
    gather = functools.partial(meshes.gather_parameters, mesh=mesh)
    embed = build_networks(config, gather).embed
    arguments = (params, batch["token_ids"], batch["mask"])
    return Call(
        "text embedding",
        config.name,
        mesh.size,
        batch_size,
        jax.jit(embed),
        arguments,
        params,
        functools.partial(model_flops, embed, *arguments),
    )


def prompt_embeddings(
    configs: Sequence[StageConfig], batch_size: int, mesh: Mesh
) -> Iterator[Call]:
    """Each of the stages' text encoders on prompts, as `prompts.TextEncoders` runs them.

    Args:
        batch_size: prompts at once; rounded up to a multiple of the parts of a batch.
    """
    size = meshes.batch_starts(batch_size, batch_size, mesh).step
    distinct = {
        (c.text_encoder.network, c.text_encoder.max_length): c for c in configs if c.conditions.text
    }
    if not distinct:
        raise UsageError("No stage reads text; there is no text encoder to compile.")
    for config in distinct.values():
        yield embedding(config, size, mesh)


def sampler(
    config: StageConfig,
    settings: SamplingConfig,
    batch_size: int,
    mesh: Mesh,
    picture: Size | None = None,
    tile: int | None = None,
) -> Call:
    """A denoising step of one stage, with its inputs where the beginning leaves them.

    The beginning itself, which reads the text and what else the stage is told, is compiled for that
    and counts nowhere; nor does bringing parameters together before it, where a stage that is
    alone on the chips does that once for all steps.

    Args:
        batch_size: pictures at once; rounded up to a multiple of the parts of a batch.
        picture: (height, width) of the pictures; None for what the stage was trained on.
        tile: side of the tiles that a super-resolution stage takes them by.

    Raises:
        DoesNotFit: the beginning does not.
    """
    picture = picture or (config.resolution, config.resolution)
    low_res = tuple(side // config.upscale for side in picture)
    size = meshes.batch_starts(batch_size, batch_size, mesh).step
    params, held = _sampled_params(config, mesh, picture)
    pictures = meshes.batch_sharding(mesh)
    if config.low_resolution is not None:
        meshes.check_height(low_res[0], mesh)
        pictures = meshes.picture_sharding(mesh)
    rows = _all_at((_keys(size), _conditions(config, size, picture)), meshes.batch_sharding(mesh))
    plan, numbers = plan_sampling(config, settings, picture, tile=tile)
    arguments = (params, numbers, *rows)
    if _has_null_text(config):
        arguments += (_null_text(config, mesh),)
    networks = memory.networks_of_steps(config, mesh, gathered=held > 0)
    run = Run(config, plan, networks, picture, pictures)
    step, told, state = _step(run, arguments)
    visit = jax.ShapeDtypeStruct((), jnp.int32, sharding=meshes.replicated(mesh))
    inputs = (params, numbers, told, state, Visit(visit, visit, visit))
    return Call(
        "denoising step",
        config.name,
        mesh.size,
        size,
        jax.jit(step, donate_argnums=3),
        inputs,
        params,
        functools.partial(model_flops, step, *inputs),
        len(plan.visits),
        held,
    )


def _sampled_params(config: StageConfig, mesh: Mesh, picture: Size) -> tuple[Params, int]:
    """A stage's parameters where its steps find them, and the bytes a chip of what lies beside."""
    params = {"unet": abstract_sampled_unet(config)}
    parts = memory.bytes_a_device(params, mesh)
    if memory.gathers_once(params, mesh, parts, math.prod(picture) / config.resolution**2):
        return _all_at(params, meshes.replicated(mesh)), parts
    return _placed(params, mesh), 0


def _step(run: Run, arguments: tuple) -> tuple[Callable[..., State], list, list]:
    """A run's step, with what the beginning of these arguments tells and gives it, as leaves."""
    structures = []

    # Leaves, since JAX fills the trees of what it lowers with objects that are no arrays.
    def begin(*inputs: Any) -> list:
        parts = [jax.tree.flatten(part) for part in run.begin(*inputs)]
        structures[:] = [structure for _, structure in parts]
        return [leaves for leaves, _ in parts]

    def step(params: Params, numbers: Numbers, told: list, state: list, visit: Visit) -> State:
        parts = map(jax.tree.unflatten, structures, (told, state))
        return run.step(params, numbers, *parts, visit)

    begun = jax.jit(begin).lower(*arguments)  # This fills `structures`.
    return step, *meshes.with_shardings(begun.out_info, compiled(begun).output_shardings)


def compiled(
    lowered: jax.stages.Lowered, options: dict[str, Any] | None = None
) -> jax.stages.Compiled:
    """A program, compiled with options of the compiler.

    Raises:
        DoesNotFit: as said.
    """
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "HbmOom" not in str(error):
            raise
        raise DoesNotFit(str(error).partition("\n")[0]) from error


def features(name: FeatureName, batch_size: int, mesh: Mesh) -> Call:
    """A feature network of the published size on pictures that are measured.

    Args:
        batch_size: pictures at once; rounded up to a multiple of the parts of a batch.
    """
    function, arguments = abstract_call(name, batch_size, mesh)
    return Call(
        "features of pictures",
        name,
        mesh.size,
        arguments[1].shape[0],
        function,
        arguments,
        {name: arguments[0]},
        functools.partial(model_flops, function, *arguments),
    )


def _placed_encoder(config: StageConfig, mesh: Mesh) -> Params:
    return _placed(abstract_frozen_encoder(config.text_encoder.network), mesh)


def _placed_unet(config: StageConfig, mesh: Mesh) -> Params:
    """That an adapter is trained beside."""
    return _placed(abstract_adapted(config)["unet"], mesh)


def _placed(abstract: Params, mesh: Mesh) -> Params:
    """Parameters where they lie on a mesh."""
    return meshes.with_shardings(abstract, meshes.parameter_shardings(abstract, mesh))


def _null_text(config: StageConfig, mesh: Mesh) -> tuple:
    tokens, width = config.text_encoder.max_length, config.text_encoder.width
    text = jax.ShapeDtypeStruct((1, tokens, width), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, tokens), jnp.bool_)
    return _all_at((text, mask), meshes.replicated(mesh))


def _has_null_text(config: StageConfig) -> bool:
    return config.conditions.text and config.text_encoder.null == "empty"


def _conditions(config: StageConfig, count: int, size: Size) -> Conditions:
    """What the stage is told of so many pictures of a size, in which it is shown others."""
    inputs, tokens = config.inputs, config.text_encoder.max_length
    array = lambda dtype, *shape: jax.ShapeDtypeStruct((count, *shape), dtype)  # noqa: E731
    low_size, has_text = [side // config.upscale for side in size], inputs.text_width is not None
    pictures = {x.name: array(jnp.uint8, *low_size, x.channels) for x in inputs.stacked}
    pictures |= {x.name: array(jnp.uint8, *size, x.stored_channels) for x in inputs.pictures}
    hides = inputs.pictures if config.conditions.can_hide else ()
    return Conditions(
        text=array(jnp.float32, tokens, inputs.text_width) if has_text else None,
        mask=array(jnp.bool_, tokens) if has_text else None,
        label=None if inputs.classes is None else array(jnp.int32),
        pictures=pictures,
        numbers={name: array(jnp.float32) for name in inputs.numbers},
        shown={picture.name: array(jnp.bool_) for picture in hides},
    )


def _keys(count: int) -> jax.ShapeDtypeStruct:
    return jax.eval_shape(lambda: jax.random.split(key_of(0), count))


def _all_at(tree: Any, sharding: jax.sharding.Sharding) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
