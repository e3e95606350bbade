"""CLIP's tokenizer on small vocabularies made here."""

import json
import string

import numpy as np
import pytest
from feature_networks import ENDS, write_clip_vocabulary

from imagen_jax.errors import UsageError
from imagen_jax.text.clip_tokenizer import load_clip_tokenizer

LETTERS = [*string.ascii_lowercase, "Ã", "©", "!"]


@pytest.fixture
def directory(tmp_path):
    write_clip_vocabulary(tmp_path, LETTERS)
    return tmp_path


@pytest.fixture
def ids(directory):
    return json.loads((directory / "vocab.json").read_text())


@pytest.fixture
def json_directory(directory, tmp_path_factory):
    """What transformers 5 saves of the same vocabulary."""
    from transformers import CLIPTokenizer

    saved = tmp_path_factory.mktemp("json")
    CLIPTokenizer.from_pretrained(str(directory)).save_pretrained(str(saved))
    assert not (saved / "vocab.json").exists()
    return saved


def rows(token_ids, mask):
    return [ids[real].tolist() for ids, real in zip(token_ids, mask, strict=True)]


CASES = {
    "a red apple": ["a</w>", "red</w>", "apple</w>"],
    " A  RED\tApple! ": ["a</w>", "red</w>", "apple</w>", "!</w>"],
    "reap": ["re", "a", "p</w>"],
    "café": ["c", "a", "f", "Ã", "©</w>"],
    "cafe\u0301": ["c", "a", "f", "Ã", "©</w>"],
}


@pytest.mark.parametrize("text", CASES)
def test_pieces_are_merged_in_their_order(directory, ids, text):
    token_ids, mask = load_clip_tokenizer(directory)([text], 16)
    assert token_ids.dtype == np.int32 and token_ids.shape == mask.shape == (1, 16)
    pieces = [ENDS[0], *CASES[text], ENDS[1]]
    assert rows(token_ids, mask) == [[ids[piece] for piece in pieces]]
    assert not token_ids[~mask].any()


def test_both_forms_of_a_vocabulary_are_read_alike(directory, ids, json_directory):
    one, other = load_clip_tokenizer(directory), load_clip_tokenizer(json_directory)
    texts = list(CASES)
    for ours, theirs in zip(one(texts, 12), other(texts, 12), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert one.vocab_size == other.vocab_size == len(ids)
    assert one.end_id == other.end_id == ids[ENDS[1]]
    assert one.fingerprint != other.fingerprint


def test_ids_are_those_of_transformers(directory):
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer.from_pretrained(str(directory))(list(CASES))["input_ids"]
    assert rows(*load_clip_tokenizer(directory)(list(CASES), 16)) == theirs


def test_a_long_text_keeps_its_beginning_and_says_what_it_lost(directory, ids):
    with pytest.warns(UserWarning, match=r"has 3 tokens and there is room for 2.*'apple'"):
        token_ids, mask = load_clip_tokenizer(directory)(["a red apple"], 4)
    pieces = [ENDS[0], "a</w>", "red</w>", ENDS[1]]
    assert rows(token_ids, mask) == [[ids[piece] for piece in pieces]]


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_blank_text_is_refused(directory, text):
    with pytest.raises(UsageError, match="is blank; a caption must have some text"):
        load_clip_tokenizer(directory)([text], 8)


def test_no_room_and_no_unicode_are_refused(directory):
    tokenizer = load_clip_tokenizer(directory)
    with pytest.raises(UsageError, match="max_length is 2; it must be 3 or more"):
        tokenizer(["a"], 2)
    with pytest.raises(UsageError, match="is not valid Unicode"):
        tokenizer(["\ud800"], 8)


def test_a_directory_without_a_vocabulary_is_refused(directory, ids):
    (directory / "merges.txt").unlink()
    with pytest.raises(UsageError, match=r"holds neither tokenizer.json nor vocab.json and merges"):
        load_clip_tokenizer(directory)
    (directory / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    with pytest.raises(UsageError, match="of the model 'Unigram'; CLIP's is 'BPE'"):
        load_clip_tokenizer(directory)
    (directory / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(UsageError, match=r"tokenizer.json lacks <\|startoftext"):
        load_clip_tokenizer(directory)
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": ids}}))
    with pytest.raises(UsageError, match="holds no tokenizer of CLIP"):
        load_clip_tokenizer(directory)


def test_another_vocabulary_is_refused(directory, ids):
    others = {piece: number for piece, number in ids.items() if piece not in ENDS}
    (directory / "vocab.json").write_text(json.dumps(others | {"<s>": 61, "</s>": 62}))
    with pytest.raises(UsageError, match=r"<\|startoftext\|>"):
        load_clip_tokenizer(directory)
