"""Mistakes in command lines, whatever the flags are about."""

import pytest
from scripts import call, refused, sample, train, verbs


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


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        (train, ["tiny_64", "--data.filters", "side>=8", "--data.filters", "aspect<=2"]),
        (train, ["tiny_64", "--measuring.measures=fid", "--measuring.measures", "kid"]),
        (train, ["tiny_64", "--allow-change", "data.crop", "--allow_change", "data.flip"]),
        (
            train,
            ["tiny_64", "--optimizer.freeze", "unet.*", "--optimizer.freeze", "text_encoder.*"],
        ),
        (train, ["tiny_64", *["--sampling.guidance-interval", "0", "1"] * 2]),
        (sample, ["a cat", "--base-adapters", "a.safetensors", "--base-adapters", "b.safetensors"]),
        (sample, ["a cat", "--maps", "depth=a.png", "--maps", "labels=b.png"]),
        (sample, ["a cat", "--guidance-scale", "3", "--cfg", "1"]),
        (sample, ["--image", "a.png", "--extend", "left", "8", "--extend", "top", "8"]),
        (verbs, ["evaluate", "a", "--measures", "fid", "--measures", "kid"]),
        (verbs, ["compare", "--answers", "a.json", "--answers", "b.json"]),
        (verbs, ["pack", "out", "--pictures", "sketch:1", "--pictures", "labels:1"]),
        (verbs, ["pack", "out", "--mixture", "1*folder:a", "--mixture", "1*folder:b"]),
        (verbs, ["serve", "--hosts", "a", "--hosts", "b"]),
    ],
)
def test_several_values_come_after_one_flag(program, arguments):
    """The flag library reads those of the last one alone."""
    flag = next(word.partition("=")[0] for word in reversed(arguments) if word.startswith("--"))
    named = "--guidance" if flag == "--cfg" else flag.replace("_", "-")
    refused(call(program, *arguments), f"{named} is given 2 times; put all its values after one")


def test_of_one_value_the_last_counts():
    arguments = ["tiny_64", "--workdir", "a", "--training.num-steps", "3", "--workdir", "b"]
    assert train.parse([*arguments, "--training.num-steps", "4"]).config.training.num_steps == 4
    assert train.parse(arguments).workdir == "b"
