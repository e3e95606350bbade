"""Embeddings that something happened to since they were written, and prompts in odd files."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import sets
import tiny
from scripts import call, refused, tree, verbs

from imagen_jax.config import json_form
from imagen_jax.embedding.caption_sources import (
    CaptionLists,
    PromptFile,
    without_repetitions,
    write_list,
)
from imagen_jax.embedding.encoder import CaptionEncoder
from imagen_jax.errors import UsageError
from imagen_jax.text.cache import EmbeddingCache
from imagen_jax.text.cache_format import BFLOAT16, Metadata, read_metadata
from imagen_jax.text.tokenizer import load_tokenizer

PROMPTS = ("a red apple", "two green dragons", "pizza")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return sets.make_set(tmp_path_factory.mktemp("set"), sets.CAPTIONS[:1])


def embed(made, directory, text, *flags):
    file = directory / "prompts.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return made.embed(directory / "out", *flags, dataset=f"prompts:{file}")


@pytest.fixture(scope="module")
def embedded(made, tmp_path_factory):
    directory = tmp_path_factory.mktemp("embedded")
    result = embed(made, directory, "\n".join(PROMPTS))
    assert result.code == 0, result.err
    assert "400 million" not in result.out and "tokens" in result.out
    return directory / "out"


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing(embedded, tmp_path):
    wanted, rng, noticed = EmbeddingCache(embedded)(PROMPTS), np.random.default_rng(0), 0
    files = [path for path in embedded.rglob("[!.]*") if path.is_file()]
    for number in range(150):
        shutil.copytree(embedded, tmp_path / "copy", dirs_exist_ok=True)
        path = tmp_path / "copy" / files[number % len(files)].relative_to(embedded)
        data = bytearray(path.read_bytes())
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            found = EmbeddingCache(tmp_path / "copy")(PROMPTS)
        except UsageError:
            noticed += 1
            continue
        for name in wanted:
            np.testing.assert_array_equal(found[name], wanted[name])
    assert noticed > 50


@pytest.mark.parametrize("sealed", [True, False], ids=["as written", "as older versions did"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoding": {"max_length": -1}}, "Encoding.max_length is -1; it must be positive"),
        ({"encoding": {"max_length": 2**62}}, "Encoding.max_length is .* at most 65,536"),
        ({"encoding": {"max_length": 10**19}}, "Encoding.max_length is .* at most 65,536"),
        ({"encoding": {"max_length": 3}}, "is damaged .. rows of . tokens"),
        ({"encoding": {"padded": True}}, "is damaged .. rows of . tokens"),
        ({"encoding": {"t5": {"d_model": 2**40}}}, "d_model is 1099511627776; it must be at most"),
        ({"encoding": {"t5": {"d_model": 2**20}}}, "is damaged .cannot reshape"),
        ({"encoding": {"t5": {"d_model": 8}}}, "is damaged .. rows of . tokens"),
        ({"format": "x"}, "has format 'x'"),
    ],
)
def test_metadata_with_another_number_is_refused(embedded, tmp_path, change, says, sealed):
    shutil.copytree(embedded, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "metadata.json"
    document = json.loads(path.read_text())
    if not sealed:
        del document["sha256"]
        says = f"(?s){says}"

    def put(into, values):
        for name, value in values.items():
            put(into[name], value) if isinstance(value, dict) else into.update({name: value})

    put(document, change)
    path.write_text(json.dumps(document))
    says = "metadata.json is damaged: it is not what was written" if sealed else says
    with pytest.raises(UsageError, match=says):
        EmbeddingCache(tmp_path)(PROMPTS)


def test_what_older_versions_wrote_is_read(embedded, tmp_path):
    metadata = read_metadata(embedded)
    text = json_form.to_json(metadata)
    assert "sha256" not in json.loads(text)
    assert json_form.from_sealed_json(text, "here", Metadata) == metadata
    sealed = json_form.to_sealed_json(metadata)
    assert json_form.from_sealed_json(sealed, "here", Metadata) == metadata
    for broken in (sealed[:50], "[]", "[" * 100_000, sealed.replace("false", "true", 1)):
        with pytest.raises(UsageError, match="^here"):
            json_form.from_sealed_json(broken, "here", Metadata)


def test_negative_numbers_of_captions_are_refused(embedded, tmp_path):
    document = json.loads((embedded / "metadata.json").read_text())
    del document["sha256"]
    document["parts"][0]["sizes"]["shards"] = [-1, 5]
    with pytest.raises(UsageError, match=r"Sizes.shards has -1"):
        json_form.from_sealed_json(json.dumps(document), "here", Metadata)


def test_a_damaged_list_of_captions_is_noticed(tmp_path):
    captions = without_repetitions(PROMPTS, load_tokenizer("captions"), 8)
    path = tmp_path / "list.safetensors"
    write_list(path, captions, read=3, broken=0)
    assert CaptionLists([path], 10).read == 3
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"list.safetensors: \w+ is damaged"):
        CaptionLists([path], 10)


def test_embeddings_that_are_not_finite_are_not_written(made, tmp_path, monkeypatch):
    def start(self, shape, captions):
        rows = np.zeros((*shape, tiny.T5.d_model), BFLOAT16)
        rows[len(captions) - 1, 0, 0] = np.nan
        return jnp.asarray(rows)

    monkeypatch.setattr(CaptionEncoder, "_start", start)
    result = embed(made, tmp_path, "a green dragon")
    assert result.code == 2 and "Traceback" not in result.err
    says = "error: The text embedding of 'a green dragon' holds numbers that are not finite."
    assert says in result.err
    assert not [p for p in tree(tmp_path / "out") if "array_record" in p or "metadata" in p]


@pytest.mark.parametrize(
    "data",
    [
        "\ufeffa purple dog\r\n\r\n a green  cat \t\r\n".encode(),
        b"a purple dog\n\n\ta green cat",
        # Of two files, one behind the other.
        "\ufeffa purple dog\r\n\ufeffa green cat\r\n".encode(),
        "a purple\x85dog\na green\u2028cat\n".encode(),
    ],
)
def test_a_file_of_prompts_may_come_from_any_editor(data, tmp_path):
    (tmp_path / "prompts.txt").write_bytes(data)
    source = PromptFile(tmp_path / "prompts.txt")
    captions = [tuple(source.metadata(i).captions.all()) for i in range(len(source))]
    assert captions == [("a purple dog",), ("a green cat",)]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("a dog".encode("utf-16"), "is not UTF-8 text"),
        (b"\xff", "is not UTF-8 text"),
        (b"\xef\xbb\xbf\n \n", "has no prompt"),
    ],
)
def test_a_file_of_prompts_that_cannot_be_read_is_named(data, says, made, tmp_path):
    refused(embed(made, tmp_path, data), "prompts.txt", says)


def test_a_directory_is_no_file_of_prompts(made, tmp_path):
    result = call(verbs, "embed", f"prompts:{tmp_path}", tmp_path / "o", "--stage", made.stage)
    refused(result, "cannot be read: Is a directory")
    assert not (tmp_path / "o").exists()
