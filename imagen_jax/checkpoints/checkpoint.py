"""Checkpoints of a training directory, and the way back from damaged ones. All of Orbax is here.

A checkpoint holds `params`, `ema`, `opt_state` and, where a run has that, `power_ema`, each read
without the others, and `about`, which says of what config and position it is and what the arrays
add up to. It appears under its step's name when all of it is written, or not at all; so a run may
be killed at any moment. What happens to a file later (a disk that lost its last writes, a copy that
was cut short) shows when the arrays no longer add up.
"""

import contextlib
import dataclasses
import itertools
import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from imagen_jax.checkpoints.about import ITEM as ABOUT
from imagen_jax.checkpoints.about import About, Fingerprints, read_about
from imagen_jax.checkpoints.checksums import checksums
from imagen_jax.checkpoints.directory import package_versions
from imagen_jax.checkpoints.orbax_errors import (
    drop_abandoned_reads,
    is_forbidden,
    is_of_files,
    said,
)
from imagen_jax.checkpoints.orbax_setup import set_up
from imagen_jax.checkpoints.readback import missing
from imagen_jax.checkpoints.state import TrainState
from imagen_jax.config import StageConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.parallel.host_memory import freed_at_once
from imagen_jax.storage.files import AnyPath, absolute

_UNREADABLE = "cannot be read"
_WEIGHTS = ("params", "ema", "power_ema")
_LISTED = 50
"""Checkpoints that are tried at most."""

set_up()

Items = dict[str, Any]
"""Item of a checkpoint -> its arrays, or abstract ones that say where they shall lie."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint that is whole.

    Attributes:
        step: batches taken in.
        about: it.
        items: those that were asked for.
    """

    step: int
    about: About
    items: Items


class CannotSave(UsageError):
    """A checkpoint cannot be written. Threads of Orbax's may wait for it for minutes."""


class _Manager(ocp.CheckpointManager):
    """Neither asks whether the run is preempted nor reads when its checkpoints were written.

    The loop asks. Its processes agree on a step by counting what each has asked about, and
    Orbax would ask from a thread of its own, about steps that have long passed. The times are of
    no use here, and where one of them is damaged Orbax could list no checkpoint at all.
    """

    def reached_preemption(self, step: int) -> bool:
        return False

    def _load_checkpoint_infos(self, skip_metadata_read: bool = True) -> list[Any]:
        return super()._load_checkpoint_infos(skip_metadata_read=True)


class Checkpoints:
    """The checkpoints of one training directory; saving goes on in the background.

    All processes save and restore together, each its parts of the arrays; any number of
    processes reads what another number saved.
    """

    NAME, ASIDE = "checkpoints", "damaged"
    ITEMS = ("params", "ema", "opt_state", "power_ema")

    def __init__(self, workdir: AnyPath, keep: int | None = None):
        """`keep`: how many stay; None for a reader, who changes nothing."""
        self.directory = absolute(workdir / self.NAME)  # Orbax refuses relative ones.
        self._aside = absolute(workdir / self.ASIDE)
        names = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.NAME)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=keep is not None,
            cleanup_tmp_directories=keep is not None,
            # Where it fails in the background, other threads wait for it for minutes.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
            multiprocessing_options=names,  # Checkpoints and snapshots are saved at once.
        )
        self._manager = _Manager(self.directory, options=options)
        self._written: tuple[int, About] | None = None
        self._confirmed = False

    def steps(self) -> list[int]:
        """The steps of all checkpoints, whole or damaged, from the newest, on the first process."""
        steps = sorted(self._manager.all_steps(), reverse=True)[:_LISTED]
        return json.loads(distributed.said_by_all(json.dumps(steps))[0])

    def save(
        self,
        state: TrainState,
        config: StageConfig,
        pictures: int,
        fingerprints: Fingerprints | None = None,
    ) -> None:
        """Starts to save; the arrays may be donated once this returns.

        The first one of a run is waited for, so that one that cannot be read shows at once.

        Args:
            state: of the run.
            config: that it is trained with.
            pictures: seen so far.
            fingerprints: of what it is trained on, as far as they are known.

        Raises:
            UsageError: it cannot be written, or the one before cannot be read.
        """
        self._confirm()
        items = {name: getattr(state, name) for name in self.ITEMS}
        items = {name: item for name, item in items.items() if item != ()}
        about = About(
            config=config,
            pictures=pictures,
            versions=package_versions(),
            step=int(state.step),
            checksums={name: checksums(item) for name, item in items.items()},
            **dataclasses.asdict(fingerprints or Fingerprints()),
        )
        arguments = {name: ocp.args.StandardSave(item) for name, item in items.items()}
        arguments[ABOUT] = ocp.args.JsonSave(about.to_json())
        with self._writing():
            self._manager.save(about.step, args=ocp.args.Composite(**arguments), force=True)
        self._written = about.step, about
        if not self._confirmed:
            self._confirm()

    def _confirm(self) -> None:
        """Waits for what was saved last, and sees that it is all there."""
        if self._written is None:
            return
        (step, about), self._written = self._written, None
        with self._writing():
            self._manager.wait_until_finished()
        problem = self._lacks(step, about) if distributed.leads() else ""
        problem = distributed.said_by_all(problem)[0]
        if problem:
            raise UsageError(f"{self._name(step)} was written and cannot be read: {problem}.")
        self._confirmed = True

    def _lacks(self, step: int, about: About) -> str:
        directory = self.directory / str(step)
        try:
            if read_about(directory) != about:
                return "it is of another step or config"
            for name, sums in about.checksums.items():
                if lost := missing(directory / name, sums):
                    return f"{len(lost)} arrays of {name} are not there, such as {lost[0]}"
        except Exception as error:  # Of many classes: see `is_of_files`.
            if not is_of_files(error):
                raise
            return said(error)
        return ""

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """What failed in the background comes out here too, at the next save or at the end."""
        try:
            yield
        except Exception as error:
            if not is_of_files(error):
                raise
            self._written = None
            raise CannotSave(
                f"A checkpoint in {self.directory} cannot be written: {said(error)}."
            ) from error

    def restore(
        self, wanted: Callable[[StageConfig], Items], at_most: int | None = None
    ) -> Restored:
        """The newest checkpoint that is whole, the same on all processes.

        Args:
            wanted: the config of a checkpoint -> abstract arrays of the items to read.
            at_most: its step must not be higher; None takes any.

        Raises:
            UsageError: there is none, or a file may not be read.
        """
        steps = [step for step in self.steps() if at_most is None or step <= at_most]
        problems = []
        for step in steps:
            restored, problem = self._try(step, wanted)
            if problem.startswith(_UNREADABLE):
                raise UsageError(f"{self._name(step)} {problem}.")
            if restored is not None:
                self._warn(zip(steps, problems, strict=False), step)
                return restored
            problems.append(problem)
        if not steps and (newer := self.steps()):
            raise UsageError(
                f"{self.directory.parent} no longer holds the checkpoint of step {at_most}; its "
                f"run has gone on to step {newer[0]}."
            )
        if not steps:
            raise UsageError(f"{self.directory.parent} holds no checkpoint yet.")
        others = ", and so are all before it" if len(steps) > 1 else "; there is no other"
        raise UsageError(f"{self._name(steps[0])} {problems[0]}{others}.")

    def _name(self, step: int) -> str:
        return f"The checkpoint {self.directory / str(step)}"

    def _warn(self, problems: Iterable[tuple[int, str]], used: int) -> None:
        for step, problem in problems if distributed.leads() else ():
            warnings.warn(
                f"{self._name(step)} {problem}; that of step {used} is used.", stacklevel=4
            )

    def _try(
        self, step: int, wanted: Callable[[StageConfig], Items]
    ) -> tuple[Restored | None, str]:
        """The checkpoint, or None and what is wrong with it, as all processes find together."""
        restored, problem = self._read(step, wanted)
        problem = _first(distributed.said_by_all(problem))
        # Only of what all have read: summing up an array may take every process.
        if restored is not None and not problem:
            problem = _first(distributed.said_by_all(_check(restored)))
        return (None, problem) if problem else (restored, "")

    def _read(
        self, step: int, wanted: Callable[[StageConfig], Items]
    ) -> tuple[Restored | None, str]:
        """This process's part of it. Orbax's managers would wait for processes that failed."""
        directory = self.directory / str(step)
        try:
            about = read_about(directory)
            if about.step not in (None, step):
                return None, f"is damaged or incomplete (it was written as that of {about.step})"
            items = wanted(about.config)
            items = {name: _read_arrays(directory / name, x) for name, x in items.items()}
            if missing := _not_read(items):
                return None, f"is damaged or incomplete ({missing})"
            return Restored(step, about, items), ""
        except Exception as error:  # Of many classes: see `is_of_files`.
            if not is_of_files(error):
                raise
            why, forbidden = said(error), is_forbidden(error)
        drop_abandoned_reads()
        if forbidden:
            return None, f"{_UNREADABLE}: {why}"
        return None, f"is damaged or incomplete ({why})"

    def set_aside(self, newer_than: int) -> None:
        """Moves newer checkpoints, which a run does not go on from, out of the way of its own."""
        steps = [step for step in self.steps() if step > newer_than]
        for step in steps if distributed.leads() else ():
            self._aside.mkdir(parents=True, exist_ok=True)
            names = (f"{step}.{number}" if number else str(step) for number in itertools.count())
            target = next(path for path in map(self._aside.joinpath, names) if not path.exists())
            (self.directory / str(step)).rename(target)
            warnings.warn(f"{self._name(step)} is kept as {target}.", stacklevel=2)
        distributed.wait_for_all("set checkpoints aside")
        self._manager.reload()

    def close(self) -> None:
        """Waits for the last save.

        Raises:
            UsageError: it cannot be written, or not be read.
        """
        try:
            self._confirm()
        finally:
            with self._writing():
                self._manager.close()


def _read_arrays(path: AnyPath, abstract: Any) -> Any:
    """An item, or the part of it that `abstract` names."""
    how = ocp.checkpoint_utils.construct_restore_args(abstract)
    arguments = ocp.args.PyTreeRestore(abstract, how, partial_restore=True)
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler, freed_at_once():
        return handler.restore(path, args=arguments)


def _not_read(items: Items) -> str:
    """What the metadata of a checkpoint do not name, and Orbax then leaves as it was asked for."""
    for name, item in items.items():
        leaves = jax.tree.leaves(item)
        if missing := [x for x in leaves if isinstance(x, jax.ShapeDtypeStruct)]:
            return f"{len(missing)} of {len(leaves)} arrays of {name} are missing"
    return ""


def _first(problems: list[str]) -> str:
    return next(filter(None, problems), "")


def _check(restored: Restored) -> str:
    """What is wrong with the numbers of a checkpoint that could be read; empty if nothing is."""
    for name, item in restored.items.items():
        saved = restored.about.checksums.get(name, {})
        wrong = [path for path, total in checksums(item).items() if saved.get(path) != total]
        if wrong:
            return f"is damaged or incomplete ({len(wrong)} arrays of {name} do not add up)"
        if name in _WEIGHTS and not all(map(_is_finite, jax.tree.leaves(item))):
            return f"cannot be used ({name} has numbers that are infinite or NaN)"
    return ""


@jax.jit
def _is_finite(x: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(x))


def newest_fingerprints(workdir: AnyPath) -> Fingerprints:
    """What the newest checkpoint that can be read says it was trained on; empty without any."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        for step in checkpoints.steps():
            try:
                return read_about(checkpoints.directory / str(step)).fingerprints
            except Exception as error:  # Of many classes: see `is_of_files`.
                if not is_of_files(error):
                    raise
    return Fingerprints()


def newest_step(workdir: AnyPath) -> int | None:
    """The newest checkpoint's step, whole or damaged, as the first process has it; else None."""
    with contextlib.closing(Checkpoints(workdir)) as checkpoints:
        return next(iter(checkpoints.steps()), None)
