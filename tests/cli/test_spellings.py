"""What users of other programs type, and what a config's help begins with."""

import pytest
from scripts import call, refused, sample, train

from imagen_jax.cli import config_help, sample_flags, spellings
from imagen_jax.config import python_file


@pytest.mark.parametrize(
    "spelling",
    ["--guidance-scale", "--guidance_scale", "--cfg", "--guidance"],
)
def test_other_names_of_a_flag_are_read(spelling):
    expected = (3.0, 1.0)
    assert sample.parse(["a", spelling, "3,1"]).sampling.guidance == expected
    assert sample.parse(["a", f"{spelling}=3,1"]).sampling.guidance == expected


def test_values_for_stages_are_typed():
    flags = sample.parse(["a", "--num-inference-steps", "64,smart50", "--num_images_per_prompt=2"])
    assert (flags.sampling.steps, flags.pictures.num_images) == ((64, "smart50"), 2)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--height", "512"], ["no --height", "--size HEIGHTxWIDTH", "--sr1024 none"]),
        (["--prompt", "a"], ["no --prompt", "in quotes"]),
        (["a", "--guidanc", "3"], ["no --guidanc", "perhaps you meant --guidance"]),
        (["a", "--seed", "x"], ["--seed: 'x' is no whole number"]),
        (["a", "--seed"], ["--seed has no value"]),
        (["a", "--seed", "1", "b c"], ["'b c' belongs to no flag"]),
    ],
)
def test_what_does_not_exist_is_said_in_one_sentence(arguments, says):
    refused(call(sample, *arguments), *says)


@pytest.mark.parametrize("program", ["sample", "train"])
def test_every_other_name_leads_to_a_flag_that_exists(program):
    script, name = {"sample": (sample, []), "train": (train, ["tiny_64"])}[program]
    shown = set(call(script, *name, "--help").out.replace(",", " ").split())
    known = {"sample": spellings.SAMPLE, "train": spellings.TRAIN}[program]
    assert set(known.same.values()) <= shown
    assert not (known.same.keys() | known.absent.keys()) & shown


def test_words_without_quotes_are_told_of(capsys):
    sample_flags.tell_of_missing_quotes(("a", "red", "apple"))
    assert '"a red apple"' in capsys.readouterr().err
    for prompts in (("a", "cat"), ("a cat", "dog", "bird")):
        sample_flags.tell_of_missing_quotes(prompts)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["tiny_64", "configs/tiny_64.py", "./configs/tiny_64", "configs.tiny_64", "tiny_64.py"]
)
def test_a_config_is_found_by_every_spelling(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert python_file.find_config(name) == python_file.CONFIGS / "tiny_64.py"


def test_a_file_of_ones_own_comes_before_a_spelling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny_64.py").write_text("")
    assert python_file.find_config("tiny_64.py").resolve() == tmp_path / "tiny_64.py"
    refused(call(train, "tiny64"), "'tiny64', but there is tiny_64")


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("base_64", "google"),
        ("sr_1024", "google"),
        ("base_64_300m", "google"),
        ("deepfloyd_if/i_m", "DeepFloyd"),
        ("base_64_1b_clip_l14", "openai"),
    ],
)
def test_the_help_of_a_pretrained_encoder_says_where_it_comes_from(name, owner):
    config = train.load_config(name)
    said = config_help.describe(python_file.find_config(name), config)
    directory = config.text_encoder.source.removesuffix("/text_encoder")
    assert f"hf download {owner}/" in said
    assert f"--local-dir {directory} " in said


def test_the_help_of_a_config_begins_with_ten_flags():
    lines = config_help.first_fields(train.load_config("tiny_64")).splitlines()[2:]
    assert len(lines) == 10 and lines[0].split()[0] == "--workdir"
    assert any("captioned_emoji/core_64" in line for line in lines)
    assert config_help.encoder_download(train.load_config("tiny_64")) == ""
