"""The verb that lists what a stage can be asked for."""

import tiny
from PIL import Image
from scripts import call, refused, verbs

from imagen_jax.data.emoji_words import Vocabulary
from imagen_jax.weights.stage_file import save_stage_file


def test_a_stage_lists_its_words_and_draws_them(tmp_path):
    config = tiny.stage(data={"source": "captioned_emoji/varied_64"})
    save_stage_file(tmp_path / "x.safetensors", config, tiny.random_params(config), "float32")
    sheet = tmp_path / "words.png"
    told = call(verbs, "vocabulary", tmp_path / "x.safetensors", "--out", sheet)
    assert told.code == 0
    lines = (
        f"{config.name} knows 175 things:",
        "animal, amphibian: frog",
        "automobile (car, auto)",
        "colours, as in 'a blue apple': red, orange",
    )
    for line in lines:
        assert line in told.out
    assert len(Vocabulary.of(config.data).concepts) == 175
    assert Image.open(sheet).width > 1000


def test_what_was_trained_on_other_pictures_has_no_list(tmp_path):
    config, path = tiny.stage(name="mine", data={"source": "folder:x"}), tmp_path / "x.safetensors"
    save_stage_file(path, config, tiny.random_params(config), "float32")
    refused(call(verbs, "vocabulary", path), "mine was not trained on the data set captioned_emoji")
    refused(call(verbs, "vocabulary", "nosuch"), "nosuch is neither a config")
    refused(call(verbs, "vocabulary", "--out", tmp_path / "words.txt"), "ends with .png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.safetensors"]
