"""The training loop: config -> mesh -> state -> step -> checkpoint.

One turn: start the step on the batch that was sent ahead, read and send the next one while it
runs, read the metrics of the step before (so that the device never waits for the host) and log
them, then what is due: checkpoint, loss on held-out pictures, samples.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Collection, Iterator

import jax

from imagen_jax import ops
from imagen_jax.checkpoints.about import Fingerprints
from imagen_jax.checkpoints.checkpoint import Checkpoints, newest_step
from imagen_jax.checkpoints.directory import check_directory, claim_directory
from imagen_jax.checkpoints.power_ema import Snapshots
from imagen_jax.checkpoints.state import TrainState
from imagen_jax.config import StageConfig
from imagen_jax.config.choices import Weights
from imagen_jax.data.broken import BrokenRecords
from imagen_jax.data.pipeline import Batch, ReadCaptions, make_dataset
from imagen_jax.data.records import Source
from imagen_jax.errors import UsageError
from imagen_jax.networks import Params
from imagen_jax.parallel import distributed
from imagen_jax.parallel import mesh as meshes
from imagen_jax.parallel.feed import DeviceFeed
from imagen_jax.parallel.host_memory import in_blocks
from imagen_jax.parallel.lock import Lock
from imagen_jax.parallel.seeds import key_of
from imagen_jax.storage.files import AnyPath
from imagen_jax.stored.adapters import keep_account
from imagen_jax.stored.encoders import drop_other_encoder
from imagen_jax.training.adapting import account_of_adapted
from imagen_jax.training.hooks import Hooks
from imagen_jax.training.inputs import Inputs, open_inputs
from imagen_jax.training.metrics import TooManySkipped
from imagen_jax.training.objective import Objective
from imagen_jax.training.painted import Measuring
from imagen_jax.training.preemption import Preemption, deaf_children
from imagen_jax.training.profiling import Profiler
from imagen_jax.training.report import Reporter
from imagen_jax.training.speed import Work
from imagen_jax.training.start import Start, from_checkpoint, from_stage
from imagen_jax.training.teachers import (
    account_of_teacher,
    first_student,
    keep_account_of_teacher,
)
from imagen_jax.training.trainer import Trainer


def run(
    config: StageConfig,
    workdir: AnyPath,
    init_from: AnyPath | None = None,
    weights: Weights | None = None,
    allow_change: Collection[str] = (),
    profile: range = range(0),
    *,
    allow_changed_data: bool = False,
    objective: Objective | None = None,
    frozen: Params | None = None,
    measuring: Measuring | None = None,
) -> bool:
    """Trains a stage until `training.num_steps`, going on from the newest checkpoint if any.

    SIGTERM or Ctrl-C end the run early, with a checkpoint; gives whether the run heard of one.

    Args:
        config: of the stage.
        workdir: training directory; made if it does not exist.
        init_from: a trained stage whose weights a new run starts from.
        weights: which of them, as `stages.load_weights` takes it.
        allow_change: fields of the config that may differ from those of the run so far.
        allow_changed_data: whether the run may go on with other records, or another tokenizer or
            frozen text encoder, than it has had so far.
        profile: steps to profile, the first one being 1.
        objective: what it is trained on; None for the config's own.
        frozen: parameters on all devices that the objective reads beside the stage's own.
        measuring: what is measured of pictures that the run paints, and how often.

    Raises:
        UsageError: a workdir of another config or in use, data or an encoder that cannot be read
            or have changed, sizes that do not divide, or too many updates in a row that
            are not finite.
        KeyboardInterrupt: it was Ctrl-C that ended it; what was trained is saved.
    """
    # All of it is float32, whatever JAX_ENABLE_X64 says.
    with distributed.in_float32(), Preemption() as preemption:
        trainer = Trainer(config, meshes.make_mesh(config.mesh), objective)
        check_directory(workdir, config, allow_change)
        inputs = open_inputs(config, trainer.load_frozen, workdir, frozen or {})
        params = _first_params(trainer, workdir, init_from, weights)
        with Lock(workdir) as lock:
            _claim(workdir, config, inputs, allow_change)
            checkpoints = Checkpoints(workdir, config.training.keep_checkpoints)
            averages = Snapshots(workdir, sys.maxsize) if config.optimizer.power_ema else None
            closing = contextlib.closing(averages) if averages else contextlib.nullcontext()
            with preemption.while_training(), contextlib.closing(checkpoints), closing:
                saved = Saved(checkpoints, averages, lock, inputs.fingerprints, allow_changed_data)
                first, last = _run(
                    trainer, inputs, saved, params, workdir, profile, preemption, measuring
                )
        if distributed.leads():
            _say_how_it_ended(preemption, workdir, first, last, config.training.num_steps)
    if preemption.interrupted:
        raise KeyboardInterrupt
    return preemption.noticed


def _say_how_it_ended(
    preemption: Preemption, workdir: AnyPath, first: int, last: int, wanted: int
) -> None:
    """Where it is not as one expects: a run ended early, or had nothing to do."""
    if last < wanted:
        preemption.say_stopped(first, last)
    elif first == last:
        print(
            f"{workdir} is at step {last} and training.num_steps is {wanted}; nothing is left to "
            "do.",
            file=sys.stderr,
        )


def _claim(
    workdir: AnyPath, config: StageConfig, inputs: Inputs, allow_change: Collection[str]
) -> None:
    """Makes a directory the run's, with what its networks cannot be used without.

    What was trained there beside other networks is refused before anything changes.
    """
    beside = account_of_adapted(config, workdir) if config.adapter.rank else None
    taught_by = account_of_teacher(config, workdir) if config.distillation.teacher else None
    drop_other_encoder(config, workdir)
    claim_directory(workdir, config, allow_change)
    inputs.keep_account(config, workdir)
    if beside is not None:
        keep_account(workdir, beside)
    if taught_by is not None:
        keep_account_of_teacher(workdir, taught_by)


def _first_params(
    trainer: Trainer, workdir: AnyPath, init_from: AnyPath | None, weights: Weights | None
) -> Params | None:
    """What a new run starts from; None where it draws it, or goes on from a checkpoint."""
    config, abstract = trainer.config, trainer.abstract_state.params
    if init_from is not None and config.adapter.rank:
        raise UsageError(
            f"--init-from is {init_from} and adapter.rank is {config.adapter.rank}; an adapter "
            "begins anew, on the stage that adapter.base names."
        )
    if newest_step(workdir) is not None:
        return None
    if init_from is None:
        return first_student(config, abstract) if config.distillation.teacher else None
    return from_stage(config, abstract, init_from, weights)


@dataclasses.dataclass(frozen=True)
class Saved:
    """The checkpoints of a run, with what is checked when one is read or written.

    Attributes:
        checkpoints: of the directory.
        snapshots: of it; None where the config keeps none.
        lock: on it.
        fingerprints: of what the run reads.
        allow_changed_data: whether they may be others than a checkpoint's.
    """

    checkpoints: Checkpoints
    snapshots: Snapshots | None
    lock: Lock
    fingerprints: Fingerprints
    allow_changed_data: bool

    def save(self, state: TrainState, config: StageConfig, pictures: int) -> None:
        self.lock.check()
        self.checkpoints.save(state, config, pictures, self.fingerprints)

    def save_snapshot(self, state: TrainState, config: StageConfig, pictures: int) -> None:
        """Keeps what the state has averaged, if anything, for good."""
        if self.snapshots is not None:
            self.lock.check()
            self.snapshots.save(state, config, pictures, self.fingerprints)

    def start(self, trainer: Trainer, params: Params | None, key: jax.Array) -> Start:
        """`params`: what a run without a checkpoint starts from; None draws them."""
        if self.checkpoints.steps():
            known = None if self.allow_changed_data else self.fingerprints
            start = from_checkpoint(
                self.checkpoints, trainer.config, trainer.mesh, trainer.abstract_state, known
            )
        else:
            start = Start(trainer.init(key) if params is None else trainer.start_from(params))
        if self.snapshots is not None:  # The steps that led to newer ones are taken again.
            self.snapshots.set_aside(newer_than=int(start.state.step))
        return start


def _run(
    trainer: Trainer,
    inputs: Inputs,
    saved: Saved,
    params: Params | None,
    workdir: AnyPath,
    profile: range,
    preemption: Preemption,
    measuring: Measuring | None,
) -> tuple[int, int]:
    """Runs from the state that there is to the last step; returns the first one and that."""
    training, held_out = trainer.config.training, inputs.held_out
    seed_key, init_key = jax.random.split(key_of(training.seed))
    start = saved.start(trainer, params, init_key)
    first = int(start.state.step)
    broken = BrokenRecords(trainer.config.data.max_broken_share)
    with deaf_children():
        reader = open_reader(
            trainer, inputs.source, inputs.read, first_picture=start.pictures, broken=broken
        )
    work = trainer.work(inputs.frozen)
    with (
        contextlib.closing(reader),
        _watching(trainer, start, work, broken, workdir, profile) as (reporter, profiler),
    ):
        told = held_out if held_out is not None else inputs.source
        hooks = Hooks(
            trainer,
            reporter,
            profiler,
            trainer.held_out_loss(inputs.read, held_out) if held_out is not None else None,
            trainer.sample_grid(inputs.read, inputs.source) if training.sample_every else None,
            trainer.painted_figures(inputs.read, told, measuring) if measuring else None,
        )
        feed = DeviceFeed(reader, trainer.mesh)
        last = _train(trainer, start, inputs.frozen, feed, seed_key, saved, hooks, preemption)
    return first, last


@contextlib.contextmanager
def _watching(
    trainer: Trainer,
    start: Start,
    work: Work,
    broken: BrokenRecords,
    workdir: AnyPath,
    profile: range,
) -> Iterator[tuple[Reporter, Profiler]]:
    leads, training = distributed.leads(), trainer.config.training
    step = int(start.state.step)
    with (
        Reporter(workdir, step, start.pictures, training, work, broken, writes=leads) as reporter,
        Profiler(workdir, profile if leads else range(0)) as profiler,
    ):
        yield reporter, profiler


def _train(
    trainer: Trainer,
    start: Start,
    frozen: Params,
    feed: DeviceFeed,
    key: jax.Array,
    saved: Saved,
    hooks: Hooks,
    preemption: Preemption,
) -> int:
    """The loop itself; returns the last step."""
    training, reporter = trainer.config.training, hooks.reporter
    state, pictures, step = start.state, start.pictures, int(start.state.step)
    stopping = preemption.reached()
    options = ops.compiler_options(trainer.config.unet.dtype)
    take_step = in_blocks(trainer.step, trainer.mesh.devices.flat[0].platform, options)

    if step < training.num_steps and not stopping:
        with deaf_children():
            feed.fetch()
    try:
        while step < training.num_steps and not stopping:
            step, pictures = step + 1, pictures + training.batch_size
            batch = next(feed)
            size = batch["image"].shape[1:3]
            with hooks.profiler.step(step, state):
                state, metrics = take_step(state, frozen, batch, key)
            stopping = preemption.reached()
            if step < training.num_steps and not stopping:
                with reporter.waiting(metrics["loss"]):
                    feed.fetch()
            reporter.step_started(step, metrics, size)
            if stopping or hooks.is_due(step, training.checkpoint_every):
                with reporter.paused():
                    saved.save(state, trainer.config, pictures)
            if hooks.is_due(step, training.snapshot_every):
                with reporter.paused():
                    saved.save_snapshot(state, trainer.config, pictures)
            if not stopping:
                hooks.after(step, state, frozen)
    except TooManySkipped:
        saved.save(state, trainer.config, pictures)
        raise
    return step


def open_reader(
    trainer: Trainer,
    source: Source,
    read: ReadCaptions | None,
    *,
    first_picture: int,
    broken: BrokenRecords | None = None,
) -> Iterator[Batch]:
    """This process's share of the batches from `first_picture` on, without end.

    `broken` counts the records of it that could not be used.
    """
    config, batch_size = trainer.config, trainer.config.training.batch_size
    dataset = make_dataset(
        source,
        config,
        read,
        batch_size=batch_size,
        rows=meshes.local_rows(batch_size, trainer.mesh),
        first_picture=first_picture,
        seed=config.training.seed,
        broken=broken,
    )
    return iter(dataset)
