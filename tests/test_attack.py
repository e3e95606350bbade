"""tools/attack.py in short: damaged input of cheap kinds, and that it notices what is wrong."""

import dataclasses
import sys

import pytest
from scripts import ROOT, tool

from imagen_jax.errors import UsageError

SEED, TRIALS = 11, 4
CHEAP = (
    "picture png", "picture jpg", "picture gif", "picture bmp", "picture tif", "picture webp",
    "captions txt", "captions json", "metadata.jsonl", "tar shard", "tar index", "filter index",
    "array record", "array record's content", "prompts", "prompts csv", "palette", "noise npy",
    "spiece.model", "command line verbs",
    "config.json", "config.json, sealed anew",
)  # fmt: skip


@pytest.fixture(scope="module")
def attack():
    sys.path.insert(0, str(ROOT / "tools"))  # As Python does for a script that lies there.
    yield tool("attack")
    sys.path.remove(str(ROOT / "tools"))


@pytest.fixture
def sound(attack, tmp_path):
    """Of a kind, its sound input in a directory, and what may be read of it."""

    def make(kind):
        attack.make_sound(kind, tmp_path / "work")
        return tmp_path / "work", attack.expected(kind, tmp_path / "work")

    return make


@pytest.mark.parametrize("name", CHEAP)
def test_damaged_input_gives_a_result_or_one_sentence(name, attack, sound, no_type_checks):
    kind = attack.KINDS[name]
    workplace, wanted = sound(kind)
    for number in range(TRIALS):
        damage = attack.draw(kind, name, SEED, number, workplace)
        _, problem = attack.attempt(kind, workplace, wanted)
        assert not problem, f"{name}, number {number}, {damage}: {problem}"


def test_damage_depends_on_nothing_but_seed_kind_and_number(attack, sound):
    kind = attack.KINDS["captions txt"]
    workplace, _ = sound(kind)

    def drawn(seed, number):
        damage = attack.draw(kind, "captions txt", seed, number, workplace)
        files = {path.name: path.is_file() and path.read_bytes() for path in
                 (workplace / "input").iterdir() if not path.is_symlink()}  # fmt: skip
        return damage, files

    assert [drawn(1, n) for n in range(5)] == [drawn(1, n) for n in range(5)]
    assert [drawn(1, n) for n in range(5)] != [drawn(2, n) for n in range(5)]


def fail(directory):
    raise KeyError("step")


def refuse(directory):
    raise UsageError("It is damaged.")


def print_lines(directory):
    print("no sentence", file=sys.stderr)
    raise UsageError("It is damaged.")


def leave_half(directory):
    (directory.parent / "out").write_text("ha")
    raise UsageError("It is damaged.")


def leave_temporary(directory):
    (directory / ".x.0123.tmp").write_text("ha")
    return {}


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (fail, "KeyError: 'step'"),
        (print_lines, "says: no sentence"),
        (leave_half, "It leaves ['out']"),
        (leave_temporary, ".x.0123.tmp"),
        (lambda _: {"unet": "1"}, "It read other than was written"),
        (lambda _: {"unet": "0"}, ""),
        (lambda _: {}, "It read other than was written"),
        (refuse, ""),
        (lambda _: sys.exit(3), "It ends with 3"),
    ],
)
def test_it_notices_what_is_wrong_and_nothing_else(read, says, attack, sound, tmp_path):
    kind = attack.Kind(
        make=lambda directory: (directory / "x").write_text("x"), read=lambda _: {"unet": "0"},
        files=("x",), exact=True, writes=("out",),
    )  # fmt: skip
    workplace, wanted = sound(kind)
    refused, problem = attack.attempt(dataclasses.replace(kind, read=read), workplace, wanted)
    assert says in problem and bool(says) == bool(problem)
    assert refused == (read in (refuse, print_lines, leave_half))


def test_what_failed_is_counted_and_kept(attack, tmp_path, sound, monkeypatch, capsys):
    workplace, _ = sound(attack.KINDS["prompts"])
    answers = [(0, "cut x", True, ""), (1, "cut x", False, "KeyError: 'step'")]
    monkeypatch.setattr(attack, "trials", lambda *_: iter(answers))
    plan = attack.Plan(seed=SEED, first=0, trials=2, seconds=9, megabytes=9)
    row = attack.attack("prompts", workplace, plan, float("inf"), tmp_path / "failures")
    assert row == attack.Row(tried=2, refused=1, failed=1)
    (kept,) = (tmp_path / "failures").iterdir()
    assert "KeyError: 'step'" in (kept / "problem.txt").read_text()
    attack.draw(attack.KINDS["prompts"], "prompts", SEED, 1, workplace)
    ours = (workplace / "input" / "prompts.txt").read_bytes()
    assert (kept / "input" / "prompts.txt").read_bytes() == ours
    assert "failed: " in capsys.readouterr().out


def test_a_kind_that_fails_makes_the_exit_code_1(attack, monkeypatch, capsys):
    rows = iter([attack.Row(3, 1, 0), attack.Row(3, 1, 1)])
    monkeypatch.setattr(attack, "attack", lambda *_: next(rows))
    assert attack.main(["--only", "prompts"]) == 0
    assert attack.main(["--only", "prompts"]) == 1
    assert "| all | 3 | 2 | 1 | 1 |" in capsys.readouterr().out
