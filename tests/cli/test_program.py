"""What the commands share."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import ROOT, call, train

import imagen_jax
from imagen_jax.cli.program import ended_by_ctrl_c
from imagen_jax.training import loop

MODULE = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    raise ImportError("as extension modules do") from None
"""
SCRIPT = """
import signal
from imagen_jax.cli.program import load
signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored, where it was begun with &.
load("json")
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
load("interrupted")
"""
ENDED = """
import atexit, os, signal
from imagen_jax.cli.program import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # As above.
atexit.register(os.kill, os.getpid(), signal.SIGINT)
run("command")
"""


@pytest.mark.parametrize(
    ("script", "modules"),
    [
        (SCRIPT, {"interrupted.py": MODULE}),
        (ENDED, {"command.py": "def main(): pass"}),
        (ENDED, {"command.py": "def main(): raise SystemExit(2)"}),
    ],
)
def test_an_interrupt_before_or_after_the_work_ends_the_process_without_a_trace(
    script, modules, tmp_path
):
    """While modules are imported, and while Python ends."""
    for name, code in {"script.py": script, **modules}.items():
        (tmp_path / name).write_text(code)
    package = Path(imagen_jax.__file__).parents[1]
    places = os.pathsep.join([str(tmp_path), str(package), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        env=os.environ | {"PYTHONPATH": places}, capture_output=True, text=True, timeout=120,
        start_new_session=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_nothing_heavy_is_imported_before_an_interrupt_ends_the_process():
    code = (
        "import json, sys; import sample, train, imagen_jax.__main__; "
        "print(json.dumps([x for x in ('tyro', 'pydantic', 'numpy', 'jax') if x in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_process_that_was_begun_to_ignore_interrupts_goes_on():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ended_by_ctrl_c():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt])
def test_a_run_that_does_not_listen_yet_is_ended_by_the_system(ending, tmp_path, monkeypatch):
    """Whatever it calls may drop an exception. After an interrupt a second one ends it too."""
    ours, heard = signal.signal(signal.SIGINT, signal.default_int_handler), []

    def run(*_, **__):
        heard.append(signal.getsignal(signal.SIGINT))
        if ending:
            raise ending

    monkeypatch.setattr(loop, "run", run)
    code = call(train, "tiny_64", "--workdir", tmp_path).code
    after = signal.signal(signal.SIGINT, ours)
    assert heard == [signal.SIG_DFL]
    assert (code, after) == ((130, signal.SIG_DFL) if ending else (0, signal.default_int_handler))
