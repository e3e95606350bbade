"""Flags that are given twice, and paths that are empty."""

import dataclasses

import pytest
from scripts import call, refused, sample, train, verbs

from imagen_jax.config import SamplingConfig


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


@pytest.mark.parametrize(
    ("program", "arguments", "twice"),
    [
        (train, ["tiny_64", "--workdir", "a", "--workdir=b"], "--workdir"),
        (train, ["tiny_64", "--workdir", "a", "--lr", "1", "--optimizer.learning_rate", "2"],
         "--optimizer.learning-rate"),
        (train, ["tiny_64", "--workdir", "a", "--allow-cpu", "--no-allow-cpu"], "--allow-cpu"),
        (sample, ["a cat", "--seed", "1", "--seed", "2", "--out", "."], "--seed"),
        (sample, ["a cat", "--resume", "--no-resume", "--out", "."], "--resume"),
        (verbs, ["plot", "a", "--out", "a.png", "--out", "b.png"], "--out"),
        (verbs, ["stats", "a", "o", "--weights", "b", "--weights", "c"], "--weights"),
    ],
)  # fmt: skip
def test_of_one_value_the_last_counts_and_is_told(program, arguments, twice, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "run", lambda *_: None)
    monkeypatch.setattr(train, "_train", lambda _: None)
    said = call(program, *arguments).err
    assert f"warning: {twice} is given 2 times; the last one counts.\n" in said


def test_the_value_that_counts_is_the_last():
    arguments = ["tiny_64", "--workdir", "a", "--training.num-steps", "3"]
    with pytest.warns(UserWarning, match="--training.num-steps is given 2 times"):
        flags = train.parse([*arguments, "--training.num-steps", "4"])
    assert flags.config.training.num_steps == 4


@pytest.mark.parametrize(
    ("program", "arguments", "flag"),
    [
        (sample, ["a cat", "--out", ""], "--out"),
        (sample, ["a cat", "--out="], "--out"),
        (sample, ["a cat", "--image", ""], "--image"),
        (sample, ["a cat", "--sr256", ""], "--sr256"),
        (sample, ["a cat", "--init_noise", ""], "--init-noise"),
        (train, ["tiny_64", "--workdir", ""], "--workdir"),
        (train, ["tiny_64", "--workdir", "a", "--init-from", ""], "--init-from"),
        (train, ["tiny_64", "--workdir", "a", "--teacher", ""], "--teacher"),
        (train, ["tiny_64", "--workdir", "a", "--measuring.reference", ""],
         "--measuring.reference"),
        (train, ["tiny_64", "--compile-only", "--json", ""], "--json"),
        (verbs, ["plot", "a", "--out", ""], "--out"),
        (verbs, ["evaluate", "--out", ""], "--out"),
        (verbs, ["embed", "folder:a", "b", "--stage", ""], "--stage"),
        (verbs, ["embed", "folder:a", "b", "--stage", "c", "--text-encoder.source", ""],
         "--text-encoder.source"),
        (verbs, ["serve", "--base", ""], "--base"),
    ],
)  # fmt: skip
def test_an_empty_path_is_not_the_working_directory(program, arguments, flag):
    """A shell makes it of a variable that is not set."""
    refused(call(program, *arguments), f"{flag} is ''; it must name a file or a directory.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", ""],
        ["pack", "", "--source", "folder:a"],
        ["plot", "a", ""],
        ["publish", "", "me/apples"],
        ["evaluate", "--allow-cpu", ""],
        ["compare", "--answers", "a", ""],
    ],
)
def test_an_argument_of_a_verb_is_not_empty(arguments):
    refused(call(verbs, *arguments), "An argument is ''; it must not be empty.")


def test_a_text_may_be_empty():
    train.parse(["tiny_64", "--workdir", "a", "--data.embeddings", "", "--data.eval-source="])
    sample.parse(["a cat", "--negative-prompt", "", "--out", "."])


@pytest.mark.parametrize(
    ("given", "steps", "timesteps"),
    [
        ((), 2, (999, 100)),
        (("--sampling.num-steps", "2"), 2, (999, 100)),
        (("--sampling.num_steps=3",), 3, ()),
        (("--sampling.num-steps", "1", "--sampling.timesteps", "500"), 1, (500,)),
    ],
)
def test_the_times_of_a_config_belong_to_its_own_number_of_steps(
    monkeypatch, given, steps, timesteps
):
    sampling = SamplingConfig(num_steps=2, timesteps=(999, 100))
    config = dataclasses.replace(train.load_config("tiny_64"), sampling=sampling)
    monkeypatch.setattr(train, "load_config", lambda name: config)
    parsed = train.parse(["tiny_64", "--workdir", "a", *given]).config.sampling
    assert (parsed.num_steps, parsed.timesteps) == (steps, timesteps)


def test_a_source_takes_the_place_of_a_mixture():
    """Users of emoji_base_64 would otherwise train on emoji where they name their own pictures."""
    mixed = train.parse(["emoji_base_64", "--workdir", "a"]).config.data
    assert len(mixed.shares) == 2
    own = train.parse(["emoji_base_64", "--workdir", "a", "--data.source", "folder:own"])
    assert [share.source for share in own.config.data.shares] == ["folder:own"]
    given = ["emoji_base_64", "--workdir", "a", "--data.mixture", "1*folder:a", "2*folder:b"]
    assert len(train.parse(given).config.data.shares) == 2
    both = [*given, "--data.source", "folder:own"]
    refused(call(train, *both), "--data.source folder:own and --data.mixture are both given")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("-1", "SamplingConfig.num_steps is -1; it must be positive."),
        ("x", "--sampling.num-steps: 'x' is no whole number."),
    ],
)
def test_a_number_of_sampling_steps_out_of_its_range_is_refused(wrong, says):
    arguments = ["emoji_base_64", "--workdir", "a", "--sampling.num-steps", wrong]
    refused(call(train, *arguments), says)
