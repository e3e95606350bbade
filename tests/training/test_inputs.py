"""What a run reads has fingerprints that change with it, and with nothing else."""

import dataclasses
from pathlib import Path

import jax
import pytest
import tiny

from imagen_jax.text import tokenizer
from imagen_jax.training.inputs import open_inputs

UNKNOWN_FIELD = b"\xc0\x3e\x00"
"""Protocol buffers skip it."""


@pytest.fixture
def config(tmp_path):
    vocabulary = Path(tokenizer.__file__).with_name("captions.model").read_bytes()
    (tmp_path / "spiece.model").write_bytes(vocabulary)
    return tiny.stage(
        data=tiny.folder(tmp_path / "data"),
        text_encoder={"train": False, "source": "t5", "tokenizer": str(tmp_path)},
    )


def fingerprints(config, tmp_path, seed=0):
    encoder = jax.device_put(tiny.random_params(tiny.stage(), seed=seed)["text_encoder"])
    load_frozen = lambda *_: {"text_encoder": encoder}  # noqa: E731
    return dataclasses.asdict(open_inputs(config, load_frozen, tmp_path, {}).fingerprints)


def test_each_fingerprint_changes_with_what_it_is_of(config, tmp_path):
    first = fingerprints(config, tmp_path)
    assert all(first.values()) and fingerprints(config, tmp_path) == first
    assert changed(first, fingerprints(config, tmp_path, seed=1)) == {"encoder"}
    with (tmp_path / "spiece.model").open("ab") as file:
        file.write(UNKNOWN_FIELD)
    assert changed(first, fingerprints(config, tmp_path)) == {"tokenizer"}
    (tmp_path / "data" / "00.txt").write_text("another caption")
    assert changed(first, fingerprints(config, tmp_path)) == {"tokenizer", "data"}


def changed(one, other):
    return {name for name in one if one[name] != other[name]}
