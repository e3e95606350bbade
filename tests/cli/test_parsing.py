"""Mistakes in command lines, whatever the flags are about."""

import pytest
from scripts import sample, train, verbs


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (sample, ["an apple", "--out", "runs/\udcff"]),
        (sample, ["caf\udce9"]),
        (train, ["tiny_64", "--workdir", "runs/\udcff"]),
        (verbs, ["pack", "out", "--source", "folder:\udcff"]),
    ],
)
def test_what_is_not_utf_8_is_named(program, arguments, capsys):
    """Python reads other bytes of a command line as half of a pair of UTF-16."""
    with pytest.raises(SystemExit, match="2"):
        program.main(arguments)
    assert "error: " in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert "is not UTF-8" in said and "\\udc" in said
