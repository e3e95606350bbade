"""The page in Debian's Chromium, with a tiny cascade behind it.

apt-get install chromium && pip install ".[browser]" && pytest -m browser tests/serve
"""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
import served
from PIL import Image

_MILLISECONDS = 120_000
_DONE = "#actions:not([hidden])"
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    files = served.save_stages(tmp_path_factory.mktemp("stages"))
    cascade = served.load(files)
    with served.serving(cascade, files, tmp_path_factory.mktemp("page")) as client:
        yield client


@pytest.fixture
def page(browser, client):
    with window(browser, client) as page:
        yield page


@contextlib.contextmanager
def window(browser, client):
    """The page in a window of its own; nothing may be wrong in it, or come from elsewhere."""
    context = browser.new_context()
    page, wrong = context.new_page(), []
    page.set_default_timeout(_MILLISECONDS)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda r: r.url.startswith((client.address, "data:")) or wrong.append(r.url))
    open_page(page, client)
    yield page
    context.close()
    assert wrong == []


def open_page(page, client):
    page.goto(client.address)
    page.wait_for_selector("#stages tr", state="attached")


def paint(page, prompt, **choices):
    page.fill("#prompt", prompt)
    for name, value in choices.items():
        page.select_option(f"#{name}", value)
    page.keyboard.press("Control+Enter")
    page.get_by_role("heading", name=prompt, exact=True).wait_for()


def sizes(page):
    """Natural sizes of the pictures that are shown."""
    page.wait_for_selector(_DONE)
    images = page.locator("#pictures img")
    return [
        images.nth(i).evaluate("async x => (await x.decode(), [x.naturalWidth, x.naturalHeight])")
        for i in range(images.count())
    ]


def message(page):
    page.wait_for_selector("#message:not([hidden])")
    return page.inner_text("#message")


def test_what_a_server_that_was_started_again_does_not_know_has_failed(page):
    """Its stream of what became of them ends at once."""
    stream = {"content_type": "text/event-stream", "body": "event: end\ndata:\n\n"}
    page.route("**/api/events*", lambda route: route.fulfill(**stream))
    paint(page, "a lost cat")
    page.get_by_text("The server was started again; ask once more.").wait_for()
    assert page.is_hidden("#cancel")


def test_a_prompt_becomes_pictures_that_stay_after_a_reload(page, client):
    paint(page, "a red apple", count="2")
    assert sizes(page) == [[32, 32]] * 2
    assert "sample 'a red apple' --seed" in page.inner_text("#command")
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "pictures.zip"
    open_page(page, client)
    assert sizes(page) == [[32, 32]] * 2
    assert page.locator("#history li").count() == 1
    page.click("#history .forget")
    page.wait_for_selector("#empty:not([hidden])")
    assert page.locator("#history li").count() == 0


def test_a_picture_is_seen_as_it_clears_and_can_be_cancelled(page):
    page.evaluate("document.querySelectorAll('details').forEach(x => { x.open = true; })")
    page.select_option("#steps-0", "256")
    page.select_option("#steps-1", "256")
    paint(page, "a long one", count="2")
    page.wait_for_selector("#pictures img[src^='data:image/jpeg']")
    page.click("#cancel")
    page.get_by_text("Cancelled.").wait_for()
    assert page.locator("#pictures img").count() == 0
    page.select_option("#steps-0", "4")
    page.select_option("#steps-1", "4")
    paint(page, "a short one", size="1")
    assert sizes(page) == [[16, 16]] * 2


def test_two_jobs_of_two_windows_are_both_painted(page, client):
    other = page.context.new_page()
    open_page(other, client)
    paint(page, "the first")
    paint(other, "the second")
    assert sizes(page) == sizes(other) == [[32, 32]]


def test_a_closed_window_ends_nothing(page, client):
    paint(page, "left alone")
    page.close()
    later = page.context.new_page()
    open_page(later, client)
    later.get_by_role("heading", name="left alone").wait_for()
    later.wait_for_selector(_DONE, timeout=_MILLISECONDS)


@pytest.mark.parametrize(
    "prompt", ["<img src=x onerror=alert(1)>", "'; rm -rf / #", "红 🚀 \u202e"]
)
def test_a_prompt_is_text_wherever_it_is_shown(prompt, page):
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    paint(page, prompt, size="1")
    page.wait_for_selector(_DONE)
    assert page.inner_text("#history .words") == page.inner_text("#title")
    assert page.locator("img[src=x]").count() == 0


def test_what_is_too_long_is_refused_and_seen_before(page):
    page.fill("#prompt", "x" * 100_000)
    assert page.inner_text("#letters") == "100,000 / 200"
    page.click("#paint")
    assert message(page) == "The prompt has 100,000 letters; it may have 200."
    paint(page, "a red apple", size="1")
    page.wait_for_selector(_DONE)
    assert page.is_hidden("#message")


def test_a_video_named_png_is_refused_and_a_picture_is_edited(page, client, tmp_path):
    (tmp_path / "video.png").write_bytes(b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" * 99)
    picture = np.full((16, 16, 3), (200, 30, 30), np.uint8)
    Image.fromarray(picture).save(tmp_path / "red.png")
    page.click("#edit summary")
    page.set_input_files("#file", tmp_path / "video.png")
    assert message(page) == "video.png is no picture that this browser can read."
    page.set_input_files("#file", tmp_path / "red.png")
    page.wait_for_selector("#canvases:not([hidden])")
    page.focus("#mask")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    paint(page, "under the brush", size="1")
    job, files = last_edit(page, client)
    assert job["edits"] == ["image", "mask"]
    mask = files["mask.png"]
    assert mask.shape == (16, 16) and 0 < (mask == 255).sum() < 100 and mask[8, 8] == 255


def last_edit(page, client):
    """The job that was painted last, and the pictures to edit in its zip by name."""
    page.wait_for_selector(_DONE)
    job = client.job(json.loads(page.evaluate("localStorage['imagen-jax jobs']"))[-1])
    archive = zipfile.ZipFile(io.BytesIO(client.file(job, "pictures.zip").body))
    names = {"image.png", "mask.png"} & set(archive.namelist())
    return job, {name: np.asarray(Image.open(archive.open(name))) for name in names}


def draw(page, colour, *points):
    """A stroke over points in shares of the canvas's sides."""
    page.get_by_role("radio", name=colour).check()
    page.locator("#mask").scroll_into_view_if_needed()
    box = page.locator("#mask").bounding_box()
    for index, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if index == 0:
            page.mouse.down()
    page.mouse.up()


def open_blank(page):
    page.click("#edit summary")
    page.get_by_role("button", name="Draw on a blank canvas").click()
    page.wait_for_selector("#canvases:not([hidden])")


def test_what_is_drawn_in_colours_is_the_picture_that_is_edited(page, client):
    open_blank(page)
    page.fill("#width", "20")
    draw(page, "red", (0.1, 0.25), (0.9, 0.25))
    draw(page, "blue", (0.5, 0.75))
    draw(page, "black", (0.5, 0.5))
    page.get_by_role("button", name="Undo").click()
    page.select_option("#layer", label="marks what is repainted")
    page.focus("#mask")
    page.keyboard.press(" ")
    page.keyboard.press("Control+z")
    paint(page, "drawn", size="1", strength="0.6")
    job, files = last_edit(page, client)
    assert job["state"] == "done" and job["order"]["strength"] == 0.6
    assert "--strength 0.6 --image image.png" in job["command"] and "--mask" not in job["command"]
    image = files.pop("image.png")
    assert image.shape == (16, 16, 3) and not files
    assert (image[4, 3:13] == (224, 32, 32)).all() and (image[12, 8] == (31, 111, 224)).all()
    assert (image[8] == 255).all() and (image[[0, -1]] == 255).all()


def test_a_picture_is_drawn_on_with_the_keyboard_and_its_eraser_leaves_the_picture(
    page, client, tmp_path
):
    Image.new("RGB", (16, 16), (0, 200, 0)).save(tmp_path / "green.png")
    page.set_input_files("#file", tmp_path / "green.png")
    page.wait_for_selector("#canvases:not([hidden])", state="attached")
    page.select_option("#layer", label="draws in a colour")
    page.get_by_role("radio", name="black").focus()
    page.keyboard.press("ArrowRight")  # The next colour, which is grey.
    page.fill("#width", "40")
    page.focus("#mask")
    for key in (" ", "ArrowLeft", "ArrowLeft", "Backspace"):
        page.keyboard.press(key)
    paint(page, "drawn by keys", size="1")
    image = last_edit(page, client)[1]["image.png"]
    assert (image[8, 9] == 138).all() and (image[8, 2] == (0, 200, 0)).all()
    page.get_by_role("button", name="Clear brush").click()
    paint(page, "cleared", size="1")
    assert (last_edit(page, client)[1]["image.png"] == (0, 200, 0)).all()


def test_a_blank_canvas_has_the_chosen_format_and_is_white(page, client):
    page.select_option("#aspect", "4:3")
    open_blank(page)
    paint(page, "nothing drawn", size="1")
    job, files = last_edit(page, client)
    assert job["state"] == "done" and job["edits"] == ["image"]
    assert files["image.png"].shape == (14, 18, 3) and (files["image.png"] == 255).all()


@pytest.fixture
def drawn_page(browser, tmp_path):
    """A page for a base that is shown a sketch, and a map in a palette's colours."""
    files, palette = served.save_shown(tmp_path)
    directory = tmp_path / "page"
    directory.mkdir()
    cascade = served.load(files)
    with (
        served.serving(cascade, files, directory, palette=palette) as client,
        window(browser, client) as page,
    ):
        yield page, client


def test_a_sketch_and_a_map_are_drawn_for_a_stage_that_is_shown_them(drawn_page):
    page, client = drawn_page
    page.select_option("#aspect", "4:3")
    open_blank(page)
    assert page.input_value("#use") == "sketch" and page.is_hidden("#strength")
    page.fill("#width", "10")
    draw(page, "black", (0.2, 0.5), (0.8, 0.5))
    paint(page, "a sketch")
    job, files = last_shown(page, client, "sketch.png")
    assert job["state"] == "done" and job["edits"] == ["sketch"]
    assert "--sketch sketch.png" in job["command"] and "--strength" not in job["command"]
    assert files.shape == (14, 18, 3) and files[7, 9].max() < 128 and files[0].min() == 255
    page.select_option("#use", "labels")
    draw(page, "#e02020", (0.2, 0.2), (0.8, 0.3))
    paint(page, "a map")
    job, files = last_shown(page, client, "labels.png")
    assert job["state"] == "done", job["error"]
    colours = {bytes(pixel).hex() for pixel in files.reshape(-1, 3)}
    assert colours <= {colour[1:] for colour in served.PALETTE} and "e02020" in colours


def last_shown(page, client, name):
    """The job that was painted last, and what the stage was shown in it."""
    page.wait_for_selector(_DONE)
    job = client.job(json.loads(page.evaluate("localStorage['imagen-jax jobs']"))[-1])
    archive = zipfile.ZipFile(io.BytesIO(client.file(job, "pictures.zip").body))
    return job, np.asarray(Image.open(archive.open(name)))


def test_a_phone_sees_all_of_it(page):
    page.set_viewport_size({"width": 360, "height": 740})
    page.evaluate("document.querySelectorAll('details').forEach(x => { x.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
