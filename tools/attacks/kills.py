"""Training that is killed at random moments, and must go on as if it had not been."""

import argparse
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from attacks.kind import ROOT, Read
from attacks.sources import make_folder
from attacks.stages import of_tree
from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.directory import read_config
from imagen_jax.config import MeshConfig
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.training.start import abstract_state

_FLAGS = [
    "--resolution", "16", "--unet.embed-dim", "8", "--unet.channel-mult", "1",
    "--unet.num-res-blocks", "1", "--unet.attention-resolutions", "8", "--unet.head-dim", "8",
    "--unet.patch-size", "2", "--unet.norm-groups", "4", "--text-encoder.t5.d-model", "16",
    "--text-encoder.t5.num-layers", "1", "--text-encoder.t5.num-heads", "2",
    "--text-encoder.t5.d-kv", "8", "--text-encoder.t5.d-ff", "16", "--training.batch-size", "4",
    "--training.log-every", "1", "--training.checkpoint-every", "2",
    "--training.keep-checkpoints", "3", "--training.sample-every", "0",
    "--training.eval-every", "0",
]  # fmt: skip
_ENDLESS = 10**6
_END_SECONDS = 600
"""That a run may take to end, once it is told to: on a busy machine one compiles for minutes."""
_WHOLE_SECONDS = 1200
_CODES = {
    signal.SIGKILL: {-signal.SIGKILL},
    signal.SIGTERM: {0, -signal.SIGTERM, -signal.SIGKILL},
    signal.SIGINT: {130, -signal.SIGINT},
}
"""-SIGTERM and -SIGINT come of a process that has not begun to listen yet; -SIGKILL beside SIGTERM
of those that would wait for it for minutes."""


class Run:
    """A training directory, and how its run is started."""

    def __init__(self, workdir: Path, data: Path, processes: int):
        self.workdir, self._data, self._count = workdir, data, processes
        self._log = workdir.with_suffix(".log")

    @contextlib.contextmanager
    def started(self, steps: int) -> Iterator[list[subprocess.Popen]]:
        """None of the processes outlives the context."""
        places = ["--workdir", str(self.workdir), "--data.source", f"folder:{self._data}"]
        command = [sys.executable, "train.py", "tiny_64", *_FLAGS, *places]
        command += ["--training.num-steps", str(steps)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        port, processes = _free_port(), []
        with self._log.open("w") as log:
            for number in range(self._count):
                processes.append(
                    subprocess.Popen(
                        command + self._together(number, port), cwd=ROOT, env=environment,
                        stdout=log, stderr=log,
                    )
                )  # fmt: skip
        try:
            yield processes
        finally:
            _kill_all(processes)
            for process in processes:
                process.wait()

    def _together(self, number: int, port: int) -> list[str]:
        if self._count == 1:
            return []
        return [
            "--distributed.coordinator", f"127.0.0.1:{port}", "--distributed.num-processes",
            str(self._count), "--distributed.process-id", str(number),
        ]  # fmt: skip

    def train(self, steps: int) -> None:
        """Up to that step, without a break."""
        with self.started(steps) as processes:
            codes = [process.wait(_WHOLE_SECONDS) for process in processes]
        if any(codes):
            raise RuntimeError(f"the run ended with {codes}: {self.said()}")

    def said(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    def newest(self) -> int:
        names = [path.name for path in (self.workdir / "checkpoints").glob("*")]
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def state(self) -> Read:
        """Digests of all arrays of the newest checkpoint."""
        abstract = abstract_state(read_config(self.workdir), make_mesh(MeshConfig()))
        wanted = {name: getattr(abstract, name) for name in ("params", "ema", "opt_state")}
        with contextlib.closing(Checkpoints(self.workdir)) as checkpoints:
            restored = checkpoints.restore(lambda _: wanted)
        return {"step": str(restored.step)} | of_tree(restored.items)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def attack_training(flags: argparse.Namespace) -> tuple[int, list[str]]:
    """How many kills there were, and what was wrong."""
    # Begun with & in a script this process ignores Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rng = random.Random(f"{flags.seed} kills {flags.processes}")
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch, "data")
        data.mkdir()
        make_folder(data)
        run = Run(Path(scratch, "killed"), data, flags.processes)
        straight = Run(Path(scratch, "straight"), data, flags.processes)
        problems = [problem for _ in range(flags.kills) if (problem := _kill(run, rng))]
        return flags.kills, problems + _compare(run, straight)


def _kill(run: Run, rng: random.Random) -> str:
    """Ends a run at a random moment; says what is wrong, "" for nothing."""
    number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
    before = run.newest()
    with run.started(_ENDLESS) as processes:
        _wait(run, processes, rng)
        # One process alone may be told to end: it tells the others.
        inputs = [rng.choice(processes)] if number == signal.SIGTERM else processes
        for process in inputs:
            process.send_signal(number)
        try:
            if number == signal.SIGTERM and inputs[0].wait(_END_SECONDS) == -signal.SIGTERM:
                _kill_all(processes)
            codes = [process.wait(_END_SECONDS) for process in processes]
        except subprocess.TimeoutExpired:
            return _failed(run, number, "it does not end")
    print(f"{number.name}: step {before} to {run.newest()}, codes {codes}", flush=True)
    if not set(codes) <= _CODES[number]:
        return _failed(run, number, f"it ends with {codes}")
    said = run.said()
    if "damaged" in said or ("Traceback" in said and -signal.SIGINT not in codes):
        return _failed(run, number, "it complains")
    if 0 in codes and f"Stopped by {number.name}" not in said:
        return _failed(run, number, "it does not say why it ends")
    told = re.search(r"Stopped by .* after step (\d+); it is saved", said)
    if told and int(told[1]) != run.newest():
        return _failed(run, number, f"its newest step is {run.newest()}")
    return "" if run.newest() >= before else _failed(run, number, f"step {before} is lost")


def _kill_all(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()


def _wait(run: Run, processes: list[subprocess.Popen], rng: random.Random) -> None:
    """Up to a moment of the start, or one of the training: a step or a save."""
    if rng.random() < 0.4:
        time.sleep(rng.uniform(0, 10))
        return
    before, deadline = run.newest(), time.monotonic() + _END_SECONDS
    while run.newest() == before and time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes):
            return
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 1))


def _failed(run: Run, number: signal.Signals, what: str) -> str:
    problem = f"{number.name}: {what}: {run.said()}"
    print(problem, flush=True)
    return problem


def _compare(run: Run, straight: Run) -> list[str]:
    """Two steps more, against a run of as many without a break."""
    steps = run.newest() + 2
    run.train(steps)
    straight.train(steps)
    ours, theirs = run.state(), straight.state()
    print(f"{len(ours)} arrays after {steps} steps are compared", flush=True)
    return [
        f"{name} differs after {steps} steps" for name in theirs if ours.get(name) != theirs[name]
    ]
