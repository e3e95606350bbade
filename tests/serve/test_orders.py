"""What a visitor asks for: taken as it is, or refused in a sentence before anything runs."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from served import in_base64

from imagen_jax.errors import UsageError
from imagen_jax.serve.command import Given, command
from imagen_jax.serve.limits import Limits
from imagen_jax.serve.order import Order

LIMITS = Limits(max_letters=50, max_images=2, max_megapixels=1)
PICTURE = np.full((8, 12, 3), 200, np.uint8)
MASK = np.zeros((8, 12), np.uint8)
MASK[2:5, 3:9] = 255


def read(**fields):
    return Order.read(json.dumps({"prompt": "a", **fields}).encode(), 2, LIMITS)


def test_an_order_is_what_a_call_of_the_cascade_takes():
    order = read(
        prompt=" a\nred  apple ", seed=5, num_images=2, stages=2, steps=[8, None],
        guidance_scale=[None, 2], aspect="3:2",
    )  # fmt: skip
    assert order.prompt == "a red apple"
    assert order.settings() == {
        "num_steps": [8, None], "guidance_scale": [None, 2.0],
        "seed": 5, "num_images": 2, "aspect": "3:2",
    }  # fmt: skip
    assert read().settings() == {"seed": 0, "num_images": 1, "aspect": None}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prompt": "x" * 100_000}, "The prompt has 100,000 letters; it may have 50."),
        ({"prompt": 3}, "prompt: "),
        ({"seed": -1}, "seed: "),
        ({"seed": 2**32}, "seed: "),
        ({"seed": "1"}, "seed: "),
        ({"seed": True}, "seed: "),
        ({"num_images": 3}, "there are at most 2 at once"),
        ({"num_images": 10**400}, "."),
        ({"num_images": 0}, "num_images: "),
        ({"stages": 3}, "3 stages were asked for; there are 2."),
        ({"steps": [8, 8]}, "steps must have one value for each of 1 stages."),
        ({"steps": [10**9]}, "The number of steps is 1000000000; it must be one of 4, 8"),
        ({"steps": [7]}, "The number of steps is 7"),
        ({"guidance_scale": [1e6]}, "guidance_scale.0: "),
        ({"guidance_scale": ["x"] * 10**4}, "guidance_scale.0: "),
        ({"aspect": "1:1000"}, "The format is '1:1000'"),
        ({"aspect": "9" * 10**5}, "The format is '999"),
        ({"strength": 0.123}, "The strength is 0.123"),
        ({"weights": "raw"}, "weights: "),
        ({"__class__": 1}, "__class__: "),
        ({"prompt": "a \ud800"}, "The prompt is not valid Unicode."),
    ],
)
def test_what_is_no_order_is_refused_in_a_sentence(fields, says):
    with pytest.raises(UsageError) as error:
        read(**fields)
    assert says in str(error.value)
    assert str(error.value).endswith(".") and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"\xff", b"[" * 100_000, b'{"prompt": NaN}', b'{"a": 1e999}']
)
def test_what_is_no_json_object_is_refused(body):
    with pytest.raises(UsageError):
        Order.read(body, 1, LIMITS)


def pictures(image=PICTURE, mask=None, **fields):
    texts = {"image": image, "mask": mask}
    given = {name: in_base64(x) for name, x in texts.items() if x is not None}
    files = read(**given, **fields).pictures(LIMITS)
    return {name: Image.open(io.BytesIO(data)) for name, data in files.items()}


def test_a_picture_and_its_mask_come_through_to_the_pixel():
    given = pictures(mask=MASK)
    np.testing.assert_array_equal(np.asarray(given["image"]), PICTURE)
    np.testing.assert_array_equal(np.asarray(given["mask"]) > 0, MASK > 0)
    assert list(pictures()) == ["image"] and read().pictures(LIMITS) == {}


def bomb(side: int) -> bytes:
    """A PNG of some hundred bytes that says it has `side` squared pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        check = struct.pack(">I", zlib.crc32(name + content))
        data += struct.pack(">I", len(content)) + name + content + check
    return data


VIDEO = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + b"\0" * 5000


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"image": VIDEO}, "The picture: picture undecodable"),
        ({"image": b""}, "The picture: picture undecodable"),
        ({"image": b'<svg xmlns="http://www.w3.org/2000/svg"/>'}, "undecodable"),
        ({"image": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9"}, "undecodable"),
        ({"image": bomb(5_000)}, "The picture has 5000x5000 pixels; it may have 1 million."),
        ({"image": bomb(100_000)}, "The picture"),
        ({"image": bomb(900)}, "The picture: picture"),
        ({"mask": PICTURE}, "The mask has the colour"),
        ({"mask": MASK[:4]}, "they must have the same height and width"),
        ({"mask": np.zeros((8, 12), np.uint8)}, "no white pixel"),
        ({"image": None, "mask": MASK}, "There is no picture to edit"),
        ({"image": None, "strength": 0.5}, "There is no picture to edit"),
    ],
)
def test_what_is_no_picture_to_edit_is_refused(given, says):
    with pytest.raises(UsageError, match=says) as error:
        pictures(**given)
    assert len(str(error.value)) < 500


def test_what_is_no_base64_is_refused():
    for text in ("data:image/png;base64,AAAA", "!", "A", "é"):
        with pytest.raises(UsageError):
            read(image=text).pictures(LIMITS)


def test_the_largest_picture_that_may_be_is_taken():
    data = io.BytesIO()
    Image.new("RGB", (1000, 1000)).save(data, "PNG")
    assert pictures(data.getvalue())["image"].size == (1000, 1000)


DEFAULTS = [{"steps": 2, "guidance_scale": 3.0}, {"steps": 4, "guidance_scale": 1.0}]


def test_the_command_names_all_that_was_chosen():
    order = read(
        prompt="it's; rm -rf $HOME", seed=7, num_images=2, stages=2, steps=[8, None],
        guidance_scale=[None, -1.5], aspect="3:2",
    )  # fmt: skip
    given = Given({"base": "my runs/base", "sr256": "shipped"}, ("raw", "ema"))
    assert command(order, given, DEFAULTS) == (
        "python -m imagen_jax sample 'it'\"'\"'s; rm -rf $HOME' --seed 7 --num-images 2 "
        "--base 'my runs/base' --sr256 shipped --sr1024 none --weights raw,ema "
        "--steps=8,4 --guidance=3.0,-1.5 --aspect 3:2"
    )


def test_the_command_names_adapters_of_the_stages_that_paint():
    names = {"base": "shipped", "sr256": "shipped"}
    given = Given(names, adapters={"base": ("zibo.safetensors:0.8", "b"), "sr256": ("c",)})
    text = command(read(prompt="a zibo", stages=1), given, DEFAULTS)
    assert text.endswith("--base shipped --base-adapters zibo.safetensors:0.8 b --sr256 none")


def test_the_command_ends_where_the_order_does():
    given = Given({"base": "shipped", "sr256": "shipped", "sr1024": "shipped"})
    text = command(read(stages=1, image=in_base64(PICTURE), strength=0.5), given, DEFAULTS)
    assert text.endswith("--base shipped --sr256 none --strength 0.5 --image image.png")
