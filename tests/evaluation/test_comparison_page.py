"""The page for human raters in Debian's Chromium, read from a file, with nothing served."""

import json

import numpy as np
import pytest
from PIL import Image
from scripts import call, verbs

from imagen_jax.evaluation.comparison import key_path, read_key

pytestmark = pytest.mark.browser
PROMPTS = ("</script><script>document.title = 'hostile'</script>", '<img src="x"> "two" dogs')


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    for name, level in (("ours", 40), ("theirs", 200)):
        (root / name).mkdir()
        for number in range(len(PROMPTS)):
            picture = np.full((16, 16, 3), level, np.uint8)
            Image.fromarray(picture).save(root / name / f"{number}.png")
    (root / "p.txt").write_text("\n".join(PROMPTS))
    command = ("--prompts", f"prompts:{root / 'p.txt'}", "--out", root / "page.html")
    assert call(verbs, "compare", root / "ours", root / "theirs", *command).code == 0
    return root / "page.html"


@pytest.fixture
def page(browser, file):
    """The page in a window of its own; nothing may be wrong in it, or come from elsewhere."""
    context = browser.new_context()
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: r.url.startswith(("file:", "data:", "blob:")) or wrong.append(r))
    page.goto(file.as_uri())
    yield page
    context.close()
    assert wrong == []


def progress(page):
    return page.text_content("#progress")


def test_answers_by_keyboard_are_saved_and_counted(page, file, tmp_path):
    for key in ("ArrowLeft", "ArrowRight", "Backspace", "ArrowLeft", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    assert progress(page) == "4 of 4 answered" and "last question" in page.text_content("#ask")
    page.fill("#rater", "one")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "answers.json")
    saved = json.loads((tmp_path / "answers.json").read_text())
    assert [x["answer"] for x in saved["answers"]] == ["left", "left", "neither", "right"]
    assert read_key(key_path(file)).comparison == saved["comparison"]
    counted = call(verbs, "compare", "--out", file, "--answers", tmp_path / "answers.json")
    assert counted.code == 0 and "| all | fidelity | 2 |" in counted.out


def test_prompts_are_shown_as_they_are(page):
    shown = []
    for _ in PROMPTS:
        page.keyboard.press("ArrowLeft")
        shown.append(page.text_content("#ask").partition("“")[2].rstrip("”"))
        page.keyboard.press("ArrowLeft")
    assert set(shown) == set(PROMPTS) and page.title() == "Which pictures are better?"


def test_a_key_that_is_held_answers_once_and_the_browsers_own_keys_nothing(page):
    for _ in range(3):  # A key that is down already repeats.
        page.keyboard.down("ArrowLeft")
    page.keyboard.up("ArrowLeft")
    assert progress(page) == "1 of 4 answered"
    page.keyboard.press("Control+ArrowLeft")
    page.keyboard.press("Shift+Tab")
    assert progress(page) == "1 of 4 answered"
