"""The training loop: config -> mesh -> state -> step -> checkpoint.

One turn: start the step on the batch that was sent ahead, read and send the next one while it
runs, read the metrics of the step before (so that the device never waits for the host) and log
them, then what is due: checkpoint, loss on held-out pictures, samples.
"""

import functools
from collections.abc import Iterator

import jax

from imagen_jax.config import StageConfig
from imagen_jax.data.broken import BrokenRecords
from imagen_jax.data.pipeline import Batch, ReadCaptions, make_dataset
from imagen_jax.data.records import Source
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError
from imagen_jax.files import AnyPath
from imagen_jax.loading import (
    keep_account_of_embeddings,
    keep_frozen_encoder,
    load_frozen_encoder,
    load_stage,
)
from imagen_jax.parallel import distributed
from imagen_jax.parallel import mesh as meshes
from imagen_jax.parallel.feed import DeviceFeed
from imagen_jax.stage import Params, build_networks
from imagen_jax.text.cache import EmbeddingCache
from imagen_jax.training.captions import load_caption_reader
from imagen_jax.training.checkpoint import Checkpoints, claim_directory
from imagen_jax.training.evaluation import HeldOutLoss, open_held_out
from imagen_jax.training.grids import SampleGrid
from imagen_jax.training.metrics import TooManySkipped
from imagen_jax.training.optim import make_optimizer
from imagen_jax.training.profiling import Profiler
from imagen_jax.training.report import Reporter
from imagen_jax.training.speed import Work, step_flops
from imagen_jax.training.step import TrainState, init_state, train_step


class Trainer:
    """A stage on a mesh: where its state lies, and its compiled step."""

    def __init__(self, config: StageConfig, mesh: jax.sharding.Mesh):
        training = config.training
        _check_trainable(config)
        meshes.check_batch_size(training.batch_size // training.accumulation_steps, mesh)
        side = config.data.crop or config.resolution
        meshes.check_height(side // config.upscale, mesh)
        self.config, self.mesh = config, mesh
        gather = functools.partial(meshes.gather_parameters, mesh=mesh)
        self.networks = build_networks(config, gather)
        optimizer = make_optimizer(config.optimizer)
        init = functools.partial(init_state, config, optimizer)
        abstract = jax.eval_shape(init, jax.random.key(0))
        self.shardings: TrainState = meshes.parameter_shardings(abstract, mesh)
        self.abstract_state: TrainState = meshes.with_shardings(abstract, self.shardings)
        # Each device makes its own shards: no device ever holds the whole model.
        self.init = jax.jit(init, out_shardings=self.shardings)
        self.step = jax.jit(
            functools.partial(train_step, config, self.networks, optimizer, self.shardings),
            out_shardings=(self.shardings, meshes.replicated(mesh)),
            donate_argnums=0,
        )

    def load_frozen(self, workdir: AnyPath) -> Params:
        """What the step needs but does not train, on the mesh."""
        if not self.config.runs_frozen_encoder:
            return {}
        return {"text_encoder": load_frozen_encoder(self.config, workdir, self.mesh)}

    def init_from(self, stage: AnyPath, key: jax.Array) -> TrainState:
        """A first state whose parameters are those (EMA) of a trained stage."""
        wanted = self.abstract_state.params
        loaded = load_stage(stage).params
        loaded = {name: loaded[name] for name in wanted}
        if jax.tree.structure(loaded) != jax.tree.structure(wanted):
            raise UsageError(f"--init-from {stage} is a network of another structure.")
        for (path, ours), theirs in zip(
            jax.tree.leaves_with_path(wanted), jax.tree.leaves(loaded), strict=True
        ):
            if ours.shape != theirs.shape:
                raise UsageError(
                    f"--init-from {stage}: {jax.tree_util.keystr(path)} has shape "
                    f"{theirs.shape}; this config has {ours.shape}."
                )
        params = meshes.place_parameters(loaded, self.shardings.params)
        copy = jax.tree.map(lambda x: x.copy(), params)
        return self.init(key).replace(params=params, ema=copy)

    def work(self, frozen: Params) -> Work:
        """What a step does, for figures of speed."""
        return Work(
            pictures=self.config.training.batch_size,
            flops=step_flops(self.config, self.networks, self.abstract_state.params, frozen),
            chips=self.mesh.size,
            kind=self.mesh.devices.flat[0].device_kind,
        )

    def held_out_loss(self, read: ReadCaptions, source: Source) -> HeldOutLoss:
        return HeldOutLoss(self.config, self.networks, read, source, self.mesh)

    def sample_grid(self, read: ReadCaptions, source: Source) -> SampleGrid:
        everywhere = meshes.replicated(self.mesh)
        return SampleGrid(self.config, self.networks, read, source, everywhere)


def _check_trainable(config: StageConfig) -> None:
    if config.unet.predicts_variance or config.text_encoder.null == "empty":
        raise UsageError(
            f"{config.name!r} predicts its variance or takes an empty caption for no text; such "
            "stages can be sampled and not trained."
        )


def run(
    config: StageConfig, workdir: AnyPath, init_from: AnyPath | None = None,
    profile: range = range(0),
) -> None:  # fmt: skip
    """Trains a stage until `training.num_steps`, going on from the newest checkpoint if any.

    Args:
        config: of the stage.
        workdir: training directory; made if it does not exist.
        init_from: a trained stage whose weights a new run starts from.
        profile: steps to profile, the first one being 1.

    Raises:
        UsageError: a workdir of another config, data or an encoder that cannot be read, sizes
            that do not divide, or too many updates in a row that are not finite.
    """
    trainer = Trainer(config, meshes.make_mesh(config.mesh))
    read = load_caption_reader(config)
    frozen = trainer.load_frozen(workdir)
    with distributed.leader_first("opened the data"):  # It may have to be built.
        source = open_source(config.data, config.low_resolution)
        held_out = open_held_out(config) if config.training.eval_every else None
    seed_key, init_key = jax.random.split(jax.random.key(config.training.seed))
    fresh = trainer.init_from(init_from, init_key) if init_from else None
    claim_directory(workdir, config)
    if frozen:
        keep_frozen_encoder(config, frozen["text_encoder"], workdir)
    if isinstance(read, EmbeddingCache):
        keep_account_of_embeddings(read.metadata, workdir)
    checkpoints = Checkpoints(workdir, keep=config.training.keep_checkpoints)
    try:
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(trainer.abstract_state)
        else:
            state = fresh or trainer.init(init_key)
        del fresh
        evaluate = trainer.held_out_loss(read, held_out) if held_out is not None else None
        grid = trainer.sample_grid(read, source) if config.training.sample_every else None
        first, broken = int(state.step), BrokenRecords(config.data.max_broken_share)
        reader = open_reader(trainer, source, read, first_batch=first, broken=broken)
        leads = distributed.leads()
        with (
            Reporter(
                workdir, first, first * config.training.batch_size, config.training,
                trainer.work(frozen), broken, writes=leads,
            ) as reporter,
            Profiler(workdir, profile if leads else range(0)) as profiler,
        ):  # fmt: skip
            _train(
                trainer, state, frozen, DeviceFeed(reader, trainer.mesh), seed_key, checkpoints,
                reporter, profiler, evaluate, grid,
            )  # fmt: skip
    finally:
        checkpoints.close()


def _train(
    trainer: Trainer, state: TrainState, frozen: Params, feed: DeviceFeed, key: jax.Array,
    checkpoints: Checkpoints, reporter: Reporter, profiler: Profiler,
    evaluate: HeldOutLoss | None, grid: SampleGrid | None,
) -> None:  # fmt: skip
    """The loop itself."""
    training = trainer.config.training

    def is_due(every: int) -> bool:
        return step % every == 0 or step == training.num_steps

    try:
        for step in range(int(state.step) + 1, training.num_steps + 1):
            with profiler.step(step, state):
                state, metrics = trainer.step(state, frozen, next(feed), key)
            if step < training.num_steps:
                with reporter.waiting(metrics["loss"]):
                    feed.fetch()
            reporter.step_started(step, metrics)
            if is_due(training.checkpoint_every):
                with reporter.paused():
                    checkpoints.save(state)
            if evaluate is not None and is_due(training.eval_every):
                with reporter.paused():
                    reporter.write(step, evaluate(state, frozen))
            if grid is not None and is_due(training.sample_every):
                with reporter.paused():
                    reporter.show(step, "samples", *grid(state.ema | frozen))
    except TooManySkipped:
        checkpoints.save(state)
        raise


def open_reader(
    trainer: Trainer, source: Source, read: ReadCaptions, *, first_batch: int,
    broken: BrokenRecords | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """This process's share of the batches from `first_batch` on, without end.

    `broken` counts the records of it that could not be used.
    """
    config, batch_size = trainer.config, trainer.config.training.batch_size
    dataset = make_dataset(
        source,
        config,
        read,
        batch_size=batch_size,
        rows=meshes.local_rows(batch_size, trainer.mesh),
        first_batch=first_batch,
        seed=config.training.seed,
        broken=broken,
    )
    return iter(dataset)
