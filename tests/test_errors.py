"""What a script says on stderr, whatever is in it, and how it ends where threads would go on."""

import gc
import os
import signal
import subprocess
import sys
import time
import warnings
from unittest import mock

import pytest
from scripts import call, train

from imagen_jax import errors
from imagen_jax.checkpoints.checkpoint import CannotSave
from imagen_jax.errors import UsageError, exit_on_usage_error
from imagen_jax.training import loop


def test_of_what_is_very_long_the_two_ends_are_shown(capsys):
    """Such as the name of a tensor in a damaged header."""
    with pytest.raises(SystemExit), exit_on_usage_error():
        warnings.warn(f"begins {'w' * 10**5} ends", stacklevel=1)
        raise UsageError(f"a.safetensors has {'x' * 10**5}; it must not.")
    said, error = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: begins www") and said.endswith("www ends")
    assert error.startswith("error: a.safetensors has xxx") and error.endswith("xxx; it must not.")
    assert max(len(said), len(error)) < 2100


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb.png", r"a\nb.png"),
        ("\x1b[2J\r\x07", r"\x1b[2J\r\x07"),
        ("\u202egnp.x\u2028", r"\u202egnp.x\u2028"),
        ("caf\udce9", r"caf\udce9"),
        ("naïve 猫 🍎", "naïve 猫 🍎"),
    ],
)
def test_names_cannot_break_the_line_nor_move_the_cursor(text, shown, capsys):
    with pytest.raises(SystemExit), exit_on_usage_error():
        warnings.warn(text, stacklevel=1)
        raise UsageError(text)
    assert capsys.readouterr().err.splitlines() == [f"warning: {shown}", f"error: {shown}"]


def test_where_memory_is_short_it_is_said(capsys):
    with pytest.raises(SystemExit, match="2"), exit_on_usage_error():
        raise MemoryError("std::bad_alloc")
    assert capsys.readouterr().err == "error: There is not enough memory: std::bad_alloc.\n"


def test_a_called_script_says_its_warnings_while_another_thread_has_pythons_way_back():
    """As it is back, for a moment, in every thread where one of them records warnings."""

    class Script:
        @staticmethod
        def main():
            with exit_on_usage_error():
                warnings.showwarning = warnings._showwarning_orig
                warnings.warn("left out: a.png", stacklevel=1)

    with warnings.catch_warnings(record=True) as kept:
        result = call(Script)
    assert "left out: a.png" in result.err and not kept


def test_warnings_are_not_repeated_and_not_kept_for_ever(capsys):
    show = errors._warn_once()
    for number in range(1001):
        show(f"{number}")
        show(f"{number}")
    assert capsys.readouterr().err.count("\n") == 1001
    show("0")  # Forgotten by now.
    show("1000")
    assert capsys.readouterr().err == "warning: 0\n"


END = """
import threading, time
from imagen_jax.errors import UsageError, end_at_once
threading.Thread(target=time.sleep, args=(600,)).start()
print("said before")
end_at_once(UsageError("The disk is full."))
"""


def test_the_end_waits_for_no_thread_and_loses_nothing_that_was_said():
    command = [sys.executable, "-c", END]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said = (ended.returncode, ended.stdout, ended.stderr)
    assert said == (2, "said before\n", "error: The disk is full.\n")


def test_a_reader_that_has_read_enough_is_no_error(capsys):
    """Such as `head`; a pipe to something else that breaks is one."""
    script = """
from imagen_jax.errors import exit_on_usage_error
with exit_on_usage_error():
    for _ in range(10**4):
        print("x" * 100)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
    with pytest.raises(SystemExit, match="2"), exit_on_usage_error():
        raise BrokenPipeError("a worker has gone")
    assert capsys.readouterr().err == "error: a worker has gone.\n"


def test_a_run_that_cannot_save_ends_so(monkeypatch, tmp_path):
    """Orbax's threads would wait for it for minutes."""

    class Ended(Exception):
        pass

    error = CannotSave("A checkpoint cannot be written.")
    monkeypatch.setattr(loop, "run", mock.Mock(side_effect=error))
    monkeypatch.setattr(train, "end_at_once", mock.Mock(side_effect=Ended))
    with pytest.raises(Ended):
        call(train, "tiny_64", "--workdir", tmp_path / "run")
    train.end_at_once.assert_called_once_with(error)


def test_ctrl_c_that_comes_while_a_callback_runs_is_not_lost():
    """Python drops what such a callback raises: see `sys.unraisablehook`."""
    interrupted, hook = [], sys.unraisablehook
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def callback(phase, info):
        if not interrupted:
            interrupted.append(phase)
            signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(callback)
    try:
        with pytest.raises(SystemExit) as end, exit_on_usage_error():
            gc.collect()
            time.sleep(60)
    finally:
        gc.callbacks.remove(callback)
        signal.signal(signal.SIGINT, before)
    assert (end.value.code, interrupted, sys.unraisablehook) == (130, ["start"], hook)


def test_any_other_exception_of_a_callback_is_reported_as_before(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)

    def callback(phase, info):
        raise ValueError(phase)

    gc.callbacks.append(callback)
    try:
        with exit_on_usage_error():
            gc.collect()
    finally:
        gc.callbacks.remove(callback)
    assert [x.exc_type for x in said] == [ValueError, ValueError]


def test_what_cannot_be_said_on_stdout_is_one_sentence():
    """Python would write it once more at its end, and exit with 120."""
    script = (
        "from imagen_jax.errors import exit_on_usage_error\nwith exit_on_usage_error(): print('x')"
    )
    environ = {**os.environ, "PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True,
            env=environ, check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (2, "error: No space left on device.\n")


@pytest.mark.parametrize(("last", "code"), [("", 0), ("; raise errors.UsageError('x')", 2)])
def test_a_program_may_have_no_stdout(last, code):
    script = f"from imagen_jax import errors\nwith errors.exit_on_usage_error(): print('x'){last}"
    command = ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, script]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (code, "error: x\n" if code else "")
