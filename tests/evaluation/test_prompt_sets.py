"""Sets of prompts in the forms in which they are published, of which none ships."""

import json

import pytest
import tiny

from imagen_jax.errors import UsageError
from imagen_jax.evaluation import prompt_sets
from imagen_jax.evaluation.prompt_sets import Prompt, texts_of

ANNOTATIONS = [
    {"image_id": 7, "id": 1, "caption": "A red\napple. "},
    {"image_id": 3, "id": 2, "caption": "A dog."},
    {"image_id": 7, "id": 3, "caption": "One apple."},
    {"image_id": 3, "id": 4, "caption": "Dog on a mat."},
    {"image_id": 5, "id": 5, "caption": "A car."},
]


def read_prompt_set(source, count=None):
    return texts_of(prompt_sets.read_prompt_set(source, count))


@pytest.fixture
def file(tmp_path):
    def write(name, content):
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    return write


def test_lines_that_are_blank_are_no_prompts(file):
    path = file("p.txt", "\ufeffa red apple\n\n  two  dogs \n")
    assert read_prompt_set(f"prompts:{path}") == ("a red apple", "two dogs")


def test_drawbench_is_a_table_with_commas(file):
    path = file(
        "d.csv", 'Prompts,Category\r\nA red car.,Colors\r\n"One cat, one dog.",Counting\r\n'
    )
    assert prompt_sets.read_prompt_set(f"table:{path}") == (
        Prompt("A red car.", "Colors"), Prompt("One cat, one dog.", "Counting"),
    )  # fmt: skip


def test_partiprompts_is_a_table_with_tabs_whose_quotes_are_letters(file):
    rows = [
        "Prompt\tCategory\tChallenge\tNote",
        "bond\tAbstract\tBasic\t",
        '"G I" painted\tArt\tX\t',
    ]
    path = file("p.tsv", "\n".join(rows))
    assert read_prompt_set(f"table:{path}") == ("bond", '"G I" painted')


def test_a_prompt_may_hold_what_unicode_calls_the_end_of_a_line(file):
    odd = "a\u2028b\x85c\x1cd"
    for kind, name, content in (
        ("table", "x.csv", f'Prompts\n{odd}\n"two\nlines"\n'),
        ("geneval", "x.jsonl", '{"prompt": "a\u2028b\x85c d"}\n{"prompt": "two lines"}\n'),
    ):
        assert read_prompt_set(f"{kind}:{file(name, content)}") == ("a b c d", "two lines")


def test_a_data_set_without_captions_is_refused(file, tmp_path):
    tiny.folder(tmp_path / "data", 2)
    for path in (tmp_path / "data").glob("*.txt"):
        path.unlink()
    with pytest.raises(UsageError):
        read_prompt_set(f"data:folder:{tmp_path / 'data'}")


def test_geneval_has_an_object_a_line(file):
    lines = [{"tag": "single_object", "prompt": "a photo of a bench"}, {"prompt": "two cats"}]
    path = file("e.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    first, second = prompt_sets.read_prompt_set(f"geneval:{path}")
    assert (first.text, first.category) == ("a photo of a bench", "single_object")
    assert (second.text, second.category) == ("two cats", "")
    assert [json.loads(prompt.metadata) for prompt in (first, second)] == lines


def test_of_a_data_set_one_caption_a_picture_is_drawn(tmp_path):
    data = tiny.folder(tmp_path / "data", 6)
    drawn = read_prompt_set(f"data:{data.source}")
    assert len(drawn) == 6 and drawn == read_prompt_set(f"data:{data.source}")
    for number, prompt in enumerate(drawn):
        assert prompt in (f"picture {number}", f"number {number}")


def test_only_a_data_set_has_a_split(file):
    path = file("p.txt", "a red apple")
    with pytest.raises(UsageError, match="split is 'test'; .* only a data set has"):
        prompt_sets.read_prompt_set(f"prompts:{path}", split="test")


def test_of_coco_one_caption_a_picture_is_drawn_or_all_are_taken(file):
    path = file("c.json", json.dumps({"images": [], "annotations": ANNOTATIONS}))
    drawn = read_prompt_set(f"coco:{path}")
    assert len(drawn) == 3 and drawn == read_prompt_set(f"coco:{path}")
    assert drawn[0] in ("A dog.", "Dog on a mat.") and drawn[1] == "A car."
    assert drawn[2] in ("A red apple.", "One apple.")
    captions = tuple(" ".join(entry["caption"].split()) for entry in ANNOTATIONS)
    assert read_prompt_set(f"coco-all:{path}") == captions


def test_so_many_are_drawn_each_once(file):
    path = file("p.txt", "\n".join(f"number {n}" for n in range(50)))
    some = read_prompt_set(f"prompts:{path}", 20)
    assert len(set(some)) == 20 and list(some) != sorted(some)
    assert some == read_prompt_set(f"prompts:{path}", 20)
    assert set(read_prompt_set(f"prompts:{path}", 50)) == set(read_prompt_set(f"prompts:{path}"))


@pytest.mark.parametrize(
    ("kind", "name", "content", "said"),
    [
        ("drawbench", "x.csv", "", "'drawbench:.*must be one of prompts, table, geneval, coco"),
        ("prompts", "x.txt", "\n \n", "holds no prompt"),
        ("prompts", "x.txt", "a\n\u200b\ufeff\n", "a prompt without text, number 2"),
        ("geneval", "x.jsonl", '{"prompt": "\\u2060"}', "a prompt without text, number 1"),
        ("table", "x.csv", "", "no column called Prompt or Prompts"),
        ("table", "x.csv", "text\na\n", "no column called Prompt or Prompts"),
        ("table", "x.csv", "prompt,category\na,b\n,b\n", "a prompt without text, number 2"),
        ("table", "x.csv", "category,prompt\nonly\n", "a prompt without text, number 1"),
        ("geneval", "x.jsonl", "[1]", "must be a JSON object"),
        ("geneval", "x.jsonl", '{"prompt": 3}', "has prompt 3; it must be text"),
        ("coco", "x.json", '{"annotations": 3}', "no list of annotations"),
        ("coco", "x.json", '{"annotations": [{"image_id": 1}]}', "has caption null"),
        ("coco", "x.json", '{"annotations": [{"caption": "a"}]}', "whole number as its image_id"),
        ("coco", "x.json", '{"annotations": [{"image_id": [1]}]}', "number as its image_id"),
        ("coco-all", "x.json", '{"annotations": []}', "holds no prompt"),
        ("coco-all", "x.json", '{"annotations": [{"caption": "\\ud800"}]}', "surrogates"),
    ],
)
def test_what_is_no_such_set_is_refused(file, kind, name, content, said):
    with pytest.raises(UsageError, match=said):
        read_prompt_set(f"{kind}:{file(name, content)}")


@pytest.mark.parametrize("source", ["prompts", "prompts:", ":x", ""])
def test_a_source_has_a_kind_and_a_file(source):
    with pytest.raises(UsageError, match="a colon and a file"):
        read_prompt_set(source)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read as UTF-8 text: No such file"):
        read_prompt_set(f"table:{tmp_path / 'x.csv'}")
    for source in ("table:~no-such-user/x.csv", "data:folder:~no-such-user/x"):
        with pytest.raises(UsageError, match="~no-such-user/x.* is nowhere: "):
            read_prompt_set(source)
    (tmp_path / "y.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as UTF-8 text"):
        read_prompt_set(f"table:{tmp_path / 'y.csv'}")


@pytest.mark.parametrize("count", [0, -1, 4])
def test_more_than_there_are_cannot_be_drawn(file, count):
    path = file("p.txt", "a\nb\nc")
    with pytest.raises(UsageError, match=f"{count} prompts are asked for; .* holds 3"):
        read_prompt_set(f"prompts:{path}", count)
