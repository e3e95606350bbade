"""The page for human raters and what is read back from it."""

import base64
import functools
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from scripts import call, refused, tree, verbs

from imagen_jax.evaluation.comparison import Key, Question, key_path, read_key
from imagen_jax.evaluation.preferences import Vote, interval, markdown
from imagen_jax.storage.digests import sealed

PROMPTS = {"a red </script> apple": "Colors", "two dogs": "Counting", "a car": "Colors"}
PICTURES = 2
LEVEL = {"ours": 40, "theirs": 200}
"""Every pixel of a set's pictures, by which a side is known again."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A page of two sets, and the table of their prompts."""
    root = tmp_path_factory.mktemp("comparison")
    for name in LEVEL:
        save_set(root / name, LEVEL[name])
    rows = ["Prompts,Category", *(f"{text},{category}" for text, category in PROMPTS.items())]
    (root / "drawbench.csv").write_text("\n".join(rows))
    result = compare(root, "--out", root / "page.html")
    assert result.code == 0 and "3 prompts" in result.out
    return root


def save_set(directory, level, count=6):
    directory.mkdir()
    for number in range(count):
        picture = np.full((48, 32, 3), level, np.uint8)
        Image.fromarray(picture).save(directory / f"{number:02}.png")


def compare(root, *flags, a="ours", b="theirs", prompts="drawbench.csv"):
    return call(verbs, "compare", root / a, root / b, "--prompts", root / prompts, *flags)


def data_of(root):
    page = (root / "page.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


def level_of(url):
    jpeg = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
    return round(float(np.asarray(Image.open(io.BytesIO(jpeg))).mean()))


def test_the_page_shows_all_pictures_and_the_key_says_whose_they_are(written):
    data, key = data_of(written), read_key(key_path(written / "page.html"))
    assert key.names == {"a": "ours", "b": "theirs"} and key.comparison == data["comparison"]
    assert {q["prompt"]: q["category"] for q in data["questions"]} == PROMPTS
    for question in data["questions"]:
        left = key.names[key.questions[question["id"]].left]
        (right,) = LEVEL.keys() - {left}
        assert [level_of(x) for x in question["left"]] == [LEVEL[left]] * PICTURES
        assert [level_of(x) for x in question["right"]] == [LEVEL[right]] * PICTURES


def test_the_page_is_blind_and_needs_nothing_else(written):
    page = (written / "page.html").read_text()
    assert "ours" not in page and "theirs" not in page
    assert "http://" not in page and "https://" not in page and 'src="' not in page
    assert page.count("</script>") == 2  # No prompt ends an element.
    assert "default-src 'none'" in page


def test_pictures_are_reduced_and_never_enlarged(written, tmp_path):
    for side, expected in ((24, (16, 24)), (320, (32, 48))):
        page = tmp_path / f"{side}.html"
        assert compare(written, "--out", page, "--side", side).code == 0
        url = re.search(r"data:image/jpeg;base64,([^\"]+)", page.read_text())[1]
        assert Image.open(io.BytesIO(base64.b64decode(url))).size == expected


def test_a_key_is_never_written_over_and_directories_of_one_name_are_told_apart(tmp_path):
    for parent, level in (("one", 40), ("other", 200)):
        (tmp_path / parent).mkdir()
        save_set(tmp_path / parent / "pictures", level)
    (tmp_path / "p.csv").write_text("Prompts\na\nb\nc")
    page, a, b = tmp_path / "page.html", "one/pictures", "other/pictures"
    command = functools.partial(compare, tmp_path, "--out", page, a=a, b=b, prompts="p.csv")
    assert command().code == 0
    assert read_key(key_path(page)).names == {"a": str(tmp_path / a), "b": str(tmp_path / b)}
    before = tree(tmp_path)
    refused(command(), "page.key.json is there", "name another page")
    assert tree(tmp_path) == before


def test_a_category_may_be_called_all():
    key = Key("1", {"a": "ours", "b": "theirs"}, {"0": Question("x", "all", "a")})
    votes = [Vote("all", "fidelity", "a"), Vote("other", "fidelity", "b")]
    rows = [row.split("|")[1:4] for row in markdown(key, votes).splitlines()[2:]]
    assert [(name.strip(), count.strip()) for name, _, count in rows] == [
        ("all", "1"), ("other", "1"), ("all", "2")
    ]  # fmt: skip


def test_sides_are_drawn_at_random(written, tmp_path):
    sides = set()
    for number in range(8):
        page = tmp_path / f"{number}.html"
        assert compare(written, "--out", page).code == 0
        sides |= {q.left for q in read_key(key_path(page)).questions.values()}
    assert sides == {"a", "b"}


def answers(root, rater, choose):
    """What the page saves where `choose` gives "a", "b" or "neither" for (question, ask)."""
    key, given = read_key(key_path(root / "page.html")), []
    for number, question in key.questions.items():
        for ask in ("fidelity", "alignment"):
            chosen = choose(question, ask)
            side = "left" if chosen == question.left else "right"
            side = "neither" if chosen == "neither" else side
            given.append({"question": number, "ask": ask, "answer": side})
    return {"comparison": key.comparison, "rater": rater, "answers": given}


def saved(path, content):
    path.write_text(json.dumps(content))
    return path


def count(root, *files):
    return call(verbs, "compare", "--out", root / "page.html", "--answers", *files)


def test_answers_come_back_as_preferences_of_each_category(written, tmp_path):
    def first(question, ask):
        return "a" if ask == "fidelity" else "b" if question.category == "Colors" else "neither"

    files = [
        saved(tmp_path / "1.json", answers(written, "one", first)),
        saved(tmp_path / "2.json", answers(written, "two", lambda *_: "a")),
    ]
    result = count(written, *files)
    assert result.code == 0
    rows = [[x.strip() for x in line.strip("|").split("|")] for line in result.out.splitlines()]
    assert rows[0] == ["", "asked for", "answers", "ours", "indifferent", "theirs"]
    table = {(row[0], row[1]): [row[2], *(x.split("%")[0] for x in row[3:])] for row in rows[2:]}
    assert table == {
        ("Colors", "fidelity"): ["4", "100.0", "0.0", "0.0"],
        ("Colors", "alignment"): ["4", "50.0", "0.0", "50.0"],
        ("Counting", "fidelity"): ["2", "100.0", "0.0", "0.0"],
        ("Counting", "alignment"): ["2", "50.0", "50.0", "0.0"],
        ("all", "fidelity"): ["6", "100.0", "0.0", "0.0"],
        ("all", "alignment"): ["6", "50.0", "16.7", "33.3"],
    }


def test_intervals_are_wilsons():
    """Of 8 in 10, as tables of Wilson's interval have it; and of none and of all."""
    assert interval(8, 10) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert interval(0, 10) == pytest.approx((0, 0, 0.2775), abs=1e-4)
    assert interval(10, 10) == pytest.approx((1, 0.7225, 1), abs=1e-4)


def test_answers_that_the_page_does_not_give_are_refused(written, tmp_path):
    good = answers(written, "one", lambda *_: "a")
    path = tmp_path / "1.json"
    wrong = {"question": "0", "ask": "beauty", "answer": "left"}
    for content, says in (
        ({**good, "comparison": "other"}, "does not hold answers to this comparison"),
        ({**good, "rater": " "}, "does not say whose answers"),
        ({**good, "answers": 3}, "no list of answers"),
        ({**good, "answers": [wrong]}, "'beauty'"),
        ({**good, "answers": [{**wrong, "ask": "fidelity", "question": "99"}]}, "'99'"),
        ({**good, "answers": [{**wrong, "ask": "fidelity", "answer": []}]}, "no page gives"),
        ({**good, "answers": good["answers"] * 2}, "a second time for the rater 'one'"),
        ([good], "must be a JSON object"),
    ):
        refused(count(written, saved(path, content)), "1.json", says)
    key = tmp_path / "page.key.json"
    key.write_text(key_path(written / "page.html").read_text().replace("two dogs", "two cats"))
    refused(count(tmp_path, path), "does not match its sha256")
    of = {"format": "imagen-jax comparison 1"}
    key.write_text(json.dumps(of))
    refused(count(tmp_path, path), "it has no sha256")
    good = json.loads(key_path(written / "page.html").read_text())
    del good["sha256"]
    for change in ({"questions": 3}, {"questions": {"0": {}}}, {"names": {}}, {"names": 3}):
        key.write_text(json.dumps(sealed(good | change)))
        refused(count(tmp_path, path), "is not the key of a comparison")


def test_flags_of_a_page_are_none_of_its_answers(tmp_path):
    of = ("--out", tmp_path / "page.html", "--answers", tmp_path / "1.json")
    for flags in (("--side", 100), ("--prompts", "p.csv")):
        refused(call(verbs, "compare", *of, *flags), flags[0], "of --answers is written already")


def test_sets_that_do_not_fit_are_refused_and_nothing_is_written(written, tmp_path):
    save_set(tmp_path / "few", 3, count=4)
    out = tmp_path / "p.html"
    before = tree(tmp_path)
    few = tmp_path / "few"
    for result, *says in (
        (compare(written, "--out", out, b=few), "few holds 4 pictures; 3 prompts"),
        (call(verbs, "compare", few, few, "--out", out), "few holds no manifest.json", "--prompts"),
        (call(verbs, "compare", few, "--out", out), "name two directories"),
        (compare(written, "--out", tmp_path / "p.txt"), "ends with .html"),
        (compare(written, "--out", out, "--side", 0), "side is 0"),
        (compare(written, "--out", out, "--answers", few), "leave A and B out"),
        (call(verbs, "compare", "--out", out, "--answers", few), "p.key.json cannot be read"),
    ):
        refused(result, *says)
    assert tree(tmp_path) == before
