"""A file where a directory is meant, and the reverse: one sentence says which it is."""

import numpy as np
import pytest
from PIL import Image
from scripts import call, refused, sample, train, tree, verbs

NO_WEIGHTS = "is no file; name pt_inception-2015-12-05-6726825d.pth"
IS_FILE, IS_DIRECTORY = "is a file; it must be a directory", "is a directory; it must be a file"
CASES = [
    (train, ["tiny_64", "--workdir", "FILE", "--data.data_dir", "NEW"],  # Prepares no data first.
     "training directory is FILE, but FILE " + IS_FILE),
    (train, ["tiny_64", "--workdir", "FILE/run"], f"but FILE {IS_FILE}"),
    (train, ["DIR", "--workdir", "DIR/new"], "DIR"),
    (verbs, ["convert", "inception", "DIR", "NEW.safetensors"], f"DIR {NO_WEIGHTS}"),
    (verbs, ["convert", "inception", "DIR/none.pth", "NEW.safetensors"], f"none.pth {NO_WEIGHTS}"),
    (verbs, ["convert", "t5", "FILE", "NEW.safetensors"], "FILE is not a safetensors file"),
    (verbs, ["convert", "deepfloyd-if", "FILE", "NEW.safetensors"], "FILE has no directory unet"),
    (verbs, ["export", "DIR", "NEW.safetensors"], "DIR is neither a training directory nor"),
    (verbs, ["export", "FILE", "NEW.safetensors"], "FILE is not a safetensors file"),
    (verbs, ["plot", "FILE"], "FILE has no metrics.jsonl; it is no training directory"),
    (verbs, ["pack", "FILE", "--source", "folder:PICTURES"], "FILE is a file; choose a new"),
    (verbs, ["pack", "DIR/new", "--source", "folder:FILE"], "'folder:FILE'; there is no such dir"),
    (verbs, ["stats", "FILE", "DIR/new", "--weights", "FILE"], "FILE is no directory of pictures"),
    (verbs, ["stats", "PICTURES", "DIR/new", "--weights", "DIR"], f"DIR {NO_WEIGHTS}"),
    (verbs, ["evaluate", "PICTURES", "--out", "FILE", "--weights", "DIR"], IS_FILE),
    (verbs, ["evaluate", "PICTURES", "--out", "DIR/new", "--weights", "DIR", "--reference", "FILE"],
     "FILE holds no features"),
    (verbs, ["compare", "PICTURES", "FILE", "--out", "DIR/new.html"], "FILE is no directory of"),
    (verbs, ["paint", "prompts:DIR", "DIR/new"], "DIR cannot be read as UTF-8 text: Is a"),
    (verbs, ["estimate", "DIR", "--chips", "1"], "DIR is neither a config"),
    (verbs, ["vocabulary", "DIR"], "DIR is neither a config"),
    (verbs, ["publish", "DIR", "a/b"], "DIR"),
    (verbs, ["publish", "FILE", "a/b", "--card", "DIR"], "--card is DIR, which cannot be read"),
    (sample, ["a cat", "--base", "DIR"], "DIR is neither a training directory nor"),
    (sample, ["a cat", "--base", "FILE"], "FILE is not a safetensors file"),
    (sample, ["a cat", "--out", "FILE"], f"--out is FILE, but FILE {IS_FILE}"),
    (sample, ["a cat", "--base-adapters", "DIR"], "DIR"),
    (sample, ["--prompts-file", "DIR"], "DIR cannot be read"),
    (sample, ["--from-manifest", "DIR"], "DIR"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "arguments", "says"), CASES)
def test_one_sentence_names_the_path_and_what_is_meant(script, arguments, says, tmp_path):
    (tmp_path / "dir").mkdir()
    (tmp_path / "file.txt").write_text("a red apple\n")
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "pictures" / "0.png")
    (tmp_path / "pictures" / "0.txt").write_text("a red apple\n")
    before = tree(tmp_path)
    names = {"DIR": "dir", "FILE": "file.txt", "NEW": "new", "PICTURES": "pictures"}

    def filled(text):
        for name, place in names.items():
            text = text.replace(name, str(tmp_path / place))
        return text

    refused(call(script, *map(filled, arguments)), filled(says))
    assert tree(tmp_path) == before


def test_a_directory_is_no_file_of_tensors(tmp_path):
    from imagen_jax.errors import UsageError
    from imagen_jax.weights.stored import open_file

    with pytest.raises(UsageError, match=IS_DIRECTORY):
        open_file(tmp_path)
