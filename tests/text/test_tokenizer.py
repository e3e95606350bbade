"""The tokenizer against SentencePiece and transformers, on small vocabularies made here."""

import json
import os
import pickle
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from imagen_jax.errors import UsageError
from imagen_jax.text.tokenizer import load_tokenizer

CAPTIONS = [
    caption
    for noun in ("apple", "cat", "dog", "rocket", "pizza", "car", "tree", "fish", "guitar")
    for color in ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
    for caption in (f"a {color} {noun}", f"{color} {noun}, noto style", f"a bowl of {noun}s")
]
PLAIN = ["a red apple", "A Purple  Guitar ", "\tcats,  noto\nstyle"]
STRANGE = [
    "crème brûlée",
    "日本語の猫 🍎",
    "a</s>b",
    "<pad> <0x41>",
    "ﬁsh ＡＢ",
    "12345?!",
    "a\x00b",
]
REAL_T5 = os.environ.get("T5_SPIECE_DIR")


def train(directory, **options):
    """A SentencePiece model with the options of the vocabulary that ships."""
    shipped = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, byte_fallback=True)
    directory.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS),
        model_prefix=str(directory / "spiece"),
        model_type="unigram",
        vocab_size=400,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc_cf",
        num_threads=1,
        minloglevel=2,
        **(shipped | options),
    )
    (directory / "spiece.vocab").unlink()
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return train(tmp_path_factory.mktemp("spiece"))


@pytest.fixture(scope="module")
def oracle(directory):
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / "spiece.model"))


@pytest.fixture(scope="module")
def json_directory(directory, tmp_path_factory):
    """What transformers saves of the same vocabulary: no SentencePiece model."""
    from transformers import T5Tokenizer

    saved = tmp_path_factory.mktemp("json")
    T5Tokenizer.from_pretrained(str(directory), extra_ids=0).save_pretrained(str(saved))
    assert not (saved / "spiece.model").exists()
    return saved


def rows(token_ids, mask):
    return [list(ids[real]) for ids, real in zip(token_ids, mask, strict=True)]


@pytest.mark.parametrize("text", PLAIN + STRANGE)
def test_ids_are_those_of_sentencepiece_and_the_end(directory, oracle, text):
    token_ids, mask = load_tokenizer(str(directory))([text], 64)
    assert rows(token_ids, mask) == [[*oracle.encode(text), 1]]


@pytest.mark.parametrize("text", STRANGE)
def test_byte_fallback_leaves_nothing_unknown(directory, oracle, text):
    token_ids, mask = load_tokenizer(str(directory))([text], 64)
    assert oracle.unk_id() not in token_ids[mask]


def test_case_and_spaces_do_not_matter(directory):
    token_ids, _ = load_tokenizer(str(directory))(["A  RED apple ", "a red apple"], 16)
    np.testing.assert_array_equal(token_ids[0], token_ids[1])


def test_padding_and_mask(directory, oracle):
    texts = ["cat", "a purple guitar, noto style"]
    token_ids, mask = load_tokenizer(str(directory))(texts, 32)
    assert (token_ids.dtype, mask.dtype) == (np.int32, bool)
    assert token_ids.shape == mask.shape == (2, 32)
    for row, text in enumerate(texts):
        length = len(oracle.encode(text)) + 1
        np.testing.assert_array_equal(mask[row], np.arange(32) < length)
        assert token_ids[row, length - 1] == 1
        assert not token_ids[row, length:].any()


def test_no_texts_make_empty_arrays(directory):
    token_ids, mask = load_tokenizer(str(directory))([], 8)
    assert token_ids.shape == mask.shape == (0, 8)


def test_vocab_size_is_above_every_id(directory, oracle):
    assert load_tokenizer(str(directory)).vocab_size == oracle.vocab_size()


def test_a_long_text_keeps_its_beginning_and_says_what_it_lost(directory, oracle):
    text = "a red apple, a blue rocket"
    ids = oracle.encode(text)
    with pytest.warns(UserWarning, match="is dropped: '[^']*rocket'"):
        token_ids, mask = load_tokenizer(str(directory))([text], 7)
    assert rows(token_ids, mask) == [[*ids[:6], 1]]


def test_a_text_that_just_fits_is_whole_and_silent(directory, oracle):
    ids = oracle.encode("a red apple")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        token_ids, mask = load_tokenizer(str(directory))(["a red apple"], len(ids) + 1)
    assert rows(token_ids, mask) == [[*ids, 1]]
    assert mask.all()


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u200b"])
def test_a_blank_text_is_refused(directory, text):
    with pytest.raises(UsageError, match="is blank"):
        load_tokenizer(str(directory))(["a cat", text], 16)


def test_broken_unicode_is_refused(directory):
    with pytest.raises(UsageError, match="not valid Unicode"):
        load_tokenizer(str(directory))(["a \udcff cat"], 16)


def test_max_length_must_have_room(directory):
    with pytest.raises(UsageError, match="max_length is 1"):
        load_tokenizer(str(directory))(["cat"], 1)


def test_a_tokenizer_json_gives_the_same_ids(json_directory, oracle):
    tokenizer = load_tokenizer(str(json_directory))
    assert rows(*tokenizer(PLAIN, 32)) == [[*oracle.encode(text), 1] for text in PLAIN]
    assert tokenizer.vocab_size == oracle.vocab_size()
    with pytest.warns(UserWarning, match="is dropped: '[^']*rocket'"):
        tokenizer(["a red apple, a blue rocket"], 7)


@pytest.mark.parametrize("fixture", ["directory", "json_directory"])
def test_loading_makes_no_network_access(request, monkeypatch, fixture):
    def refuse(*args, **kwargs):
        raise AssertionError(f"network access: {args}")

    path = request.getfixturevalue(fixture)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_tokenizer(str(path))(["a cat"], 8)


@pytest.mark.parametrize("fixture", ["directory", "json_directory"])
def test_a_pickled_tokenizer_gives_the_same_ids(request, fixture):
    tokenizer = load_tokenizer(str(request.getfixturevalue(fixture)))
    copy = pickle.loads(pickle.dumps(tokenizer))
    np.testing.assert_array_equal(copy(PLAIN, 32)[0], tokenizer(PLAIN, 32)[0])


@pytest.mark.parametrize("name", ["google/t5-v1_1-xxl", ""])
def test_an_unknown_name_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="neither 'captions' nor a directory"):
        load_tokenizer(name)


@pytest.mark.parametrize("content", [b"", b"hello" * 100])
def test_a_damaged_model_is_refused(tmp_path, content):
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(UsageError, match="spiece.model is not a readable SentencePiece model"):
        load_tokenizer(str(tmp_path))


def test_a_model_of_gigabytes_is_refused_unread(tmp_path):
    with (tmp_path / "spiece.model").open("wb") as file:
        file.truncate(2**40)  # A hole, which takes no place.
    with pytest.raises(UsageError, match=r"it has more than 268,435,456 bytes\.$"):
        load_tokenizer(str(tmp_path))


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    train(tmp_path, pad_id=-1, eos_id=2, unk_id=0, bos_id=1)
    with pytest.raises(UsageError, match="padding id -1 and </s> id 2; T5's are 0 and 1"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "tokenizer.json is not JSON"),
        ("[]", "tokenizer.json holds a list"),
        ('{"a":' * 100_000, "tokenizer.json is not JSON"),
        ("{}", "holds a tokenizer of the model None"),
        ('{"model": ["Unigram"]}', "holds a tokenizer of the model None"),
        (json.dumps({"model": {"type": "Unigram"}}), "no tokenizer file .*vocab"),
        (json.dumps({"model": {"type": "BPE"}}), "holds a tokenizer of the model 'BPE'"),
    ],
)
def test_a_wrong_tokenizer_json_is_refused(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UsageError, match=message):
        load_tokenizer(str(tmp_path))


def test_the_shipped_vocabulary_leaves_nothing_unknown():
    tokenizer = load_tokenizer("captions")
    token_ids, mask = tokenizer(["A red apple, noto style", "crème 日本 🍎"], 64)
    assert token_ids[mask].max() < tokenizer.vocab_size <= 4096
    assert 2 not in token_ids[mask]
    assert mask[0].sum() <= 8


@pytest.mark.skipif(not REAL_T5, reason="T5_SPIECE_DIR names no directory with T5's spiece.model")
def test_the_real_t5_vocabulary():
    """T5's own file, where one has it: known ids, and transformers agrees."""
    from transformers import T5Tokenizer

    tokenizer = load_tokenizer(REAL_T5)
    corgi = "A photo of a corgi riding a bike in Times Square."
    known = [71, 1202, 13, 3, 9, 4301, 122, 23, 7494, 3, 9, 3724, 16, 5324, 7120, 5, 1]
    assert rows(*tokenizer([corgi], 32)) == [known]
    assert tokenizer.vocab_size == 32000
    other = T5Tokenizer.from_pretrained(str(Path(REAL_T5)), local_files_only=True)
    texts = [*PLAIN, corgi, "crème brûlée", "12345?!", "“quotes” don't", "ﬁsh ＡＢ", corgi * 30]
    for length in (77, 128, 256):  # DeepFloyd IF's, and the paper's configs'
        with pytest.warns(UserWarning, match="is dropped"):
            token_ids, mask = tokenizer(texts, length)
        wanted = other(texts, max_length=length, padding="max_length", truncation=True)
        np.testing.assert_array_equal(token_ids, wanted["input_ids"])
        np.testing.assert_array_equal(mask, wanted["attention_mask"])


def test_nobody_is_told_that_there_is_no_pytorch():
    code = "import sys; sys.modules['torch'] = None; import imagen_jax.text, transformers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
