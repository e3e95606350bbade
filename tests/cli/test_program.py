"""What the commands share."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import call, train

import imagen_jax
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


def test_an_interrupt_while_modules_are_imported_ends_the_process_without_a_trace(tmp_path):
    (tmp_path / "interrupted.py").write_text(MODULE)
    (tmp_path / "script.py").write_text(SCRIPT)
    package = Path(imagen_jax.__file__).parents[1]
    places = os.pathsep.join([str(tmp_path), str(package), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        env=os.environ | {"PYTHONPATH": places}, capture_output=True, text=True, timeout=120,
        start_new_session=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt])
def test_a_run_that_does_not_listen_yet_is_ended_by_the_system(ending, tmp_path, monkeypatch):
    """Whatever it calls may drop an exception. After an interrupt a second one ends it too."""
    before, heard = signal.getsignal(signal.SIGINT), []

    def run(*_, **__):
        heard.append(signal.getsignal(signal.SIGINT))
        if ending:
            raise ending

    monkeypatch.setattr(loop, "run", run)
    code = call(train, "tiny_64", "--workdir", tmp_path).code
    after = signal.signal(signal.SIGINT, before)
    assert heard == [signal.SIG_DFL]
    assert (code, after) == ((130, signal.SIG_DFL) if ending else (0, before))
