"""The training loop: config -> mesh -> state -> step -> checkpoint.

One turn: read a batch, start the step, check the metrics of the step before (so that the
device never waits for the host), then what is due: log, checkpoint, sample.
"""

import contextlib
import functools
from collections.abc import Collection, Iterator

import jax

from imagen_jax.config import StageConfig, Weights
from imagen_jax.data.pipeline import Batch, make_dataset
from imagen_jax.data.records import Source
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError
from imagen_jax.files import AnyPath
from imagen_jax.loading import (
    keep_frozen_encoder,
    load_frozen_encoder,
    load_stage_tokenizer,
)
from imagen_jax.parallel import distributed
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pictures import save_png
from imagen_jax.stage import Params, build_networks
from imagen_jax.text.tokenizer import Tokenizer
from imagen_jax.training.checkpoint import Checkpoints, has_checkpoint
from imagen_jax.training.directory import claim_directory
from imagen_jax.training.grids import SampleGrid
from imagen_jax.training.metrics import Reporter, check_finite
from imagen_jax.training.optim import make_optimizer
from imagen_jax.training.preemption import Preemption, say_stopped
from imagen_jax.training.start import Start, abstract_state, from_checkpoint, from_stage
from imagen_jax.training.step import TrainState, first_state, init_state, train_step


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
        self.abstract_state = abstract_state(config, mesh)
        self.shardings: TrainState = jax.tree.map(lambda x: x.sharding, self.abstract_state)
        # Each device makes its own shards: no device ever holds the whole model.
        init = functools.partial(init_state, config, optimizer)
        self.init = jax.jit(init, out_shardings=self.shardings)
        start = functools.partial(first_state, optimizer)
        self.start_from = jax.jit(start, out_shardings=self.shardings, donate_argnums=0)
        self.step = jax.jit(
            functools.partial(train_step, config, self.networks, optimizer, self.shardings),
            out_shardings=(self.shardings, meshes.replicated(mesh)),
            donate_argnums=0,
        )

    def load_frozen(self, workdir: AnyPath) -> Params:
        """What the step needs but does not train, on the mesh."""
        if self.config.text_encoder.train:
            return {}
        return {"text_encoder": load_frozen_encoder(self.config, workdir, self.mesh)}


def _check_trainable(config: StageConfig) -> None:
    if config.unet.predicts_variance or config.text_encoder.null == "empty":
        raise UsageError(
            f"{config.name!r} predicts its variance or takes an empty caption for no text; such "
            "stages can be sampled and not trained."
        )


def run(
    config: StageConfig, workdir: AnyPath, init_from: AnyPath | None = None,
    weights: Weights | None = None, allow_change: Collection[str] = (),
) -> None:  # fmt: skip
    """Trains a stage until `training.num_steps`, going on from the newest checkpoint if any.

    SIGTERM ends the run early, with a checkpoint.

    Args:
        config: of the stage.
        workdir: training directory; made if it does not exist.
        init_from: a trained stage whose weights a new run starts from.
        weights: which of them, as `loading.load_stage` takes it.
        allow_change: fields of the config that may differ from those of the run so far.

    Raises:
        UsageError: a workdir of another config, data or an encoder that cannot be read, sizes
            that do not divide, or a metric that is not finite.
    """
    with Preemption() as preemption:
        trainer = Trainer(config, meshes.make_mesh(config.mesh))
        tokenizer = load_stage_tokenizer(config)
        frozen = trainer.load_frozen(workdir)
        with distributed.leader_first("opened the data"):  # It may have to be built.
            source = open_source(config.data, config.low_resolution)
        params = None
        if init_from is not None and not has_checkpoint(workdir):
            params = from_stage(config, trainer.abstract_state.params, init_from, weights)
        claim_directory(workdir, config, allow_change)
        if frozen:
            keep_frozen_encoder(config, frozen["text_encoder"], workdir)
        seed_key, init_key = jax.random.split(jax.random.key(config.training.seed))
        with contextlib.closing(Checkpoints(workdir, config.training.keep_checkpoints)) as saved:
            start = _start(trainer, saved, params, init_key)
            grid = None
            if config.training.sample_every:
                replicated = meshes.replicated(trainer.mesh)
                grid = SampleGrid(config, trainer.networks, tokenizer, source, replicated)
            reader = open_reader(trainer, source, tokenizer, first_picture=start.pictures)
            last = _train(
                trainer, start, frozen, reader, seed_key, saved, grid, workdir, preemption
            )
        if last < config.training.num_steps and distributed.leads():
            say_stopped(last)


def _start(
    trainer: Trainer, checkpoints: Checkpoints, params: Params | None, key: jax.Array
) -> Start:
    """`params`: what a run without a checkpoint starts from; None draws them."""
    if checkpoints.steps():
        return from_checkpoint(checkpoints, trainer.config, trainer.mesh, trainer.abstract_state)
    return Start(trainer.init(key) if params is None else trainer.start_from(params))


def _train(
    trainer: Trainer, start: Start, frozen: Params, reader: Iterator[Batch], key: jax.Array,
    checkpoints: Checkpoints, grid: SampleGrid | None, workdir: AnyPath, preemption: Preemption,
) -> int:  # fmt: skip
    """The loop itself; returns the last step."""
    training = trainer.config.training
    state, pictures, step = start.state, start.pictures, int(start.state.step)
    with Reporter(workdir, step, training, writes=distributed.leads()) as reporter:
        pending, stopping = None, preemption.reached(step)
        while step < training.num_steps and not stopping:
            batch = meshes.global_batch(next(reader), trainer.mesh)
            state, metrics = trainer.step(state, frozen, batch, key)
            step, pictures = step + 1, pictures + training.batch_size
            if pending is not None:
                reporter.report(*pending)
            pending = (step, metrics)
            last, stopping = step == training.num_steps, preemption.reached(step)
            if last or stopping or step % training.checkpoint_every == 0:
                check_finite(step, metrics)
                checkpoints.save(state, trainer.config, pictures)
            if grid is not None and (last or step % training.sample_every == 0) and not stopping:
                picture = grid(state.ema | frozen)
                if distributed.leads():
                    save_png(picture, workdir / "samples" / f"{step:08d}.png")
        if pending is not None:
            reporter.report(*pending)
    return step


def open_reader(
    trainer: Trainer, source: Source, tokenizer: Tokenizer, *, first_picture: int
) -> Iterator[Batch]:
    """This process's share of the batches from `first_picture` on, without end."""
    config, batch_size = trainer.config, trainer.config.training.batch_size
    dataset = make_dataset(
        source,
        config,
        functools.partial(tokenizer, max_length=config.text_encoder.max_length),
        batch_size=batch_size,
        rows=meshes.local_rows(batch_size, trainer.mesh),
        first_picture=first_picture,
        seed=config.training.seed,
    )
    return iter(dataset)
