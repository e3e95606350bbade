"""What is said of Orbax's errors, and who hears of them."""

import gc
import logging
import sys
import threading
import types

import pytest

from imagen_jax.checkpoints import orbax_errors
from imagen_jax.checkpoints.orbax_errors import is_forbidden, keep_quiet, said

FULL = (
    'RESOURCE_EXHAUSTED: Error writing local file "/w/x": Failed to write 29589 bytes to file 4: '
    "No space left on device [os_error_code='28'] [source locations='a.cc:1']"
)
BOUND = "<bound method of TensorStore({\n  'a': 1})>"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError(FULL), "No space left on device"),
        (OSError(28, "No space left on device", "/w/x"), "No space left on device"),
        (
            Exception(f"Encountered error while reading array index: (slice(0, 3, 1),). {BOUND}"),
            "a part of an array is missing or damaged",
        ),
        (KeyError("key_type"), "there is no 'key_type' where it belongs"),
        (
            ValueError("DATA_LOSS: CRC mismatch [source locations='a.cc:1\nb']"),
            "a part of an array is missing or damaged",
        ),
        (
            ValueError(
                'Error opening "zarr" driver: Error reading "x/.zarray": Error decoding local file '
                '"/w/x": ZSTD_decompressStream() failed: Data corruption detected; at byte 14'
            ),
            "a part of an array is missing or damaged",
        ),
    ],
)
def test_an_error_is_told_in_one_sentence(error, sentence):
    told = said(error)
    assert told.startswith(sentence)
    assert not any(mark in told for mark in ("\n", "[", "<", "slice"))


def test_what_may_not_be_read_is_told_from_what_is_damaged():
    assert is_forbidden(PermissionError(13, "Permission denied"))
    assert is_forbidden(ValueError("PERMISSION_DENIED: Error reading"))
    assert not is_forbidden(ValueError("DATA_LOSS: PERMISSION"))


@pytest.fixture
def quiet(monkeypatch):
    """As whoever reads or writes a checkpoint is."""
    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    keep_quiet()


def raised(file, message):
    """An error that passed through a file of this name."""
    namespace = {}
    exec(compile(f"def fail():\n    raise RuntimeError({message!r})", file, "exec"), namespace)
    try:
        namespace["fail"]()
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("file", "message", "heard"),
    [
        ("base_events.py", "Event loop is closed", False),
        ("/site-packages/orbax/checkpoint/x.py", "nobody waits", False),
        ("ours.py", "somebody should know", True),
    ],
)
def test_only_errors_of_others_are_heard_of_when_nobody_waits(file, message, heard):
    error = raised(file, message)
    told = []
    for kind, wanted in ((RuntimeError, heard), (KeyboardInterrupt, True)):
        what = types.SimpleNamespace(
            exc_type=kind, exc_value=error, exc_traceback=error.__traceback__
        )
        orbax_errors._except_of_orbax(told.append)(what)
        assert told == ([what] if wanted else [])
        told.clear()


def test_an_interrupt_is_passed_on_while_abandoned_reads_are_dropped(monkeypatch):
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)

    def callback(phase, info):
        raise KeyboardInterrupt if phase == "start" else ValueError

    gc.callbacks.append(callback)
    try:
        orbax_errors.drop_abandoned_reads()
    finally:
        gc.callbacks.remove(callback)
    assert [what.exc_type for what in said] == [KeyboardInterrupt]


def test_a_closed_loop_is_nothing_to_end_with_a_trace_for(quiet, capsys):
    for message in ("Event loop is closed", "other"):
        error = raised("x.py", message)
        sys.excepthook(RuntimeError, error, error.__traceback__)
    told = capsys.readouterr().err
    assert "other" in told and "Event loop" not in told


def test_of_asyncio_s_log_only_others_are_heard(quiet, caplog):
    for task in ("/site-packages/orbax/x.py", "/site-packages/fsspec/x.py"):
        logging.getLogger("asyncio").error("Task exception was never retrieved, at %s", task)
    assert [record.getMessage().split()[-1] for record in caplog.records] == [
        "/site-packages/fsspec/x.py"
    ]
