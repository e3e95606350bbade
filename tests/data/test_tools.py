"""The scripts that make what ships: packing of vectors, training of the vocabulary."""

import json
import lzma
from pathlib import Path

import pytest
import sentencepiece
from scripts import ROOT, tool

from imagen_jax.data import emoji_concepts

VOCABULARY = ROOT / "imagen_jax" / "text" / "captions.model"


EMOJI = [
    {"hexcode": "1F431", "label": "cat face", "order": 2, "group": 1, "subgroup": 1,
     "tags": ["pet"]},
    {"hexcode": "1F63A", "label": "grinning cat", "order": 1, "group": 1, "subgroup": 1},
    {"hexcode": "2764-FE0F", "label": "red heart", "order": 3, "group": 1, "subgroup": 1},
    {"hexcode": "1F1E6", "label": "flag", "order": 4, "group": 2, "subgroup": 1},
    {"hexcode": "0030", "label": "keycap: 0", "order": 5, "group": 1, "subgroup": 2},
    {"hexcode": "1F1E7", "label": "regional indicator B"},
]  # fmt: skip


@pytest.fixture
def packages(tmp_path):
    def write(package: str, **files):
        for name, content in files.items():
            path = tmp_path / package / (name.replace("_", "/") + ".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))

    entries = [{"key": "animals", "order": 1}, {"key": "flags", "order": 2}]
    subgroups = [{"key": "cat-face", "order": 1}, {"key": "keycap", "order": 2}]
    write(
        "emojibase-data-1", en_data=EMOJI, en_messages={"groups": entries, "subgroups": subgroups}
    )
    cat = '<path id="SVGx1"/><use href="#SVGx1"/><path id="SVGx12" fill="url(#SVGx12)"/>'
    chars = {"1f431": "cat", "1f63a": "grin", "2764": "heart", "1f1e6": "flag", "30": "zero"}
    bodies = dict.fromkeys(chars.values(), "<path/>") | {"cat": cat, "grin": cat.replace("x", "y")}
    icons = {name: {"body": body} for name, body in bodies.items()}
    icons["heart"]["height"] = 33
    for package in ("noto-1", "twemoji-1", "fluent-emoji-flat-1"):
        write(
            f"iconify-json-{package}",
            chars=chars,
            icons={"icons": icons, "width": 32, "height": 32},
        )
    return tmp_path


def unpack(path: Path):
    return json.loads(lzma.decompress(path.read_bytes()))


def test_packing_keeps_what_the_rules_keep(packages, tmp_path, monkeypatch):
    output = tmp_path / "out"
    arguments = ["pack", "--packages", str(packages), "--output", str(output)]
    monkeypatch.setattr("sys.argv", arguments)
    tool("pack_emoji").main()
    vectors = unpack(output / "noto.json.xz")
    assert list(vectors) == ["1f431", "2764"]  # The twin with the longer label is gone.
    assert vectors["1f431"]["body"] == (
        '<path id="i0"/><use href="#i0"/><path id="i1" fill="url(#i1)"/>'
    )
    assert vectors["2764"]["box"] == [0, 0, 32, 33]
    concepts = unpack(output / "concepts.json.xz")
    assert list(concepts) == ["1f431", "2764"]
    assert concepts["1f431"]["keywords"] == ["pet"]
    first = (output / "noto.json.xz").read_bytes()
    tool("pack_emoji").main()
    assert (output / "noto.json.xz").read_bytes() == first


def test_packing_without_packages_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pack", "--packages", str(tmp_path)])
    with pytest.raises(SystemExit, match="emojibase-data"):
        tool("pack_emoji").main()


@pytest.fixture(scope="module")
def vocabulary():
    return sentencepiece.SentencePieceProcessor(model_file=str(VOCABULARY))


def test_vocabulary_has_t5s_special_ids(vocabulary):
    special = (vocabulary.pad_id(), vocabulary.eos_id(), vocabulary.unk_id(), vocabulary.bos_id())
    assert special == (0, 1, 2, -1)
    assert vocabulary.vocab_size() == tool("train_vocabulary").VOCABULARY_SIZE


def test_vocabulary_spells_the_core_in_whole_words(vocabulary):
    words = {word for concept in emoji_concepts.core_concepts() for word in concept.label.split()}
    whole = [word for word in words if len(vocabulary.encode(word)) == 1]
    assert len(whole) / len(words) > 0.95


def test_vocabulary_lower_cases_and_never_meets_an_unknown(vocabulary):
    assert vocabulary.encode("A Red APPLE") == vocabulary.encode("a red apple")
    for text in ("猫 🍎", "naïve @#$", "ß"):
        ids = vocabulary.encode(text)
        assert vocabulary.unk_id() not in ids
    assert vocabulary.decode(vocabulary.encode("猫")) == "猫"
