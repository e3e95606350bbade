"""What a script says on stderr, whatever names and texts are in it."""

import warnings

import pytest

from imagen_jax import errors
from imagen_jax.errors import UsageError, exit_on_usage_error


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


def test_warnings_are_not_repeated_and_not_kept_for_ever(capsys):
    show = errors._warn_once()
    for number in range(1001):
        show(f"{number}")
        show(f"{number}")
    assert capsys.readouterr().err.count("\n") == 1001
    show("0")  # Forgotten by now.
    show("1000")
    assert capsys.readouterr().err == "warning: 0\n"
