"""What a visitor asks for, checked before it waits for its turn. No network runs here."""

import base64
import io
import threading
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import pydantic
from PIL import Image

from imagen_jax.data import transforms
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.given import read_mask
from imagen_jax.serve.limits import ASPECTS, STEPS, STRENGTHS, Limits
from imagen_jax.storage.json_text import parse_object
from imagen_jax.text.tokenizer import one_line

_Guidance = Annotated[float, pydantic.Field(allow_inf_nan=False, ge=-100, le=100)]
_LONGEST = 200
"""Letters of what is said of a mistake."""
_decoding = threading.Lock()
"""One picture is decoded at a time: their memory is bounded."""


class Order(pydantic.BaseModel, extra="forbid", strict=True):
    """What is to be painted; of lists one entry for each stage that paints.

    Attributes:
        stages: how many of the cascade's stages paint, from the base up.
        steps, guidance_scale: None is what the stage's config says.
        aspect: width by height; None is the picture's, or what the base was trained on.
        image, mask: files in base64.
        shown: name -> file in base64, of what stages are shown beside the prompt.
        strength: None follows from whether there is a mask.
    """

    prompt: str = ""
    seed: int = pydantic.Field(0, ge=0, lt=2**32)
    num_images: int = pydantic.Field(1, ge=1)
    stages: int = pydantic.Field(1, ge=1)
    steps: list[int | None] = []
    guidance_scale: list[_Guidance | None] = []
    aspect: str | None = None
    image: str | None = None
    mask: str | None = None
    shown: dict[str, str] = {}
    strength: float | None = None

    @classmethod
    def read(cls, body: bytes, stages: int, limits: Limits, shown: Collection[str] = ()) -> "Order":
        """The order in a request's body.

        Args:
            stages: of the cascade.
            shown: names of the pictures that its stages are shown.

        Raises:
            UsageError: it is none, or asks for more than there is.
        """
        try:
            order = cls.model_validate(parse_object(body, "The request"))
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))[:_LONGEST]
            raise UsageError(f"{field}: {first['msg']}.") from error
        order._check_prompt(limits)
        order._check_numbers(stages, limits)
        order._check_choices()
        for name in order.shown:
            _require(name, [*shown], "What the stages are shown")
        return order

    def without_pictures(self) -> "Order":
        """The same, less the files."""
        return self.model_copy(update={"image": None, "mask": None, "shown": {}})

    def settings(self) -> dict[str, Any]:
        """The settings that a call of the cascade takes beside prompt and pictures."""
        lists = {"num_steps": self.steps, "guidance_scale": self.guidance_scale}
        return {
            **{name: values for name, values in lists.items() if values},
            **({"strength": self.strength} if self.strength is not None else {}),
            "seed": self.seed,
            "num_images": self.num_images,
            "aspect": self.aspect,
        }

    def pictures(self, limits: Limits) -> dict[str, bytes]:
        """The picture to edit, its mask, and what stages are shown by name, as PNG files that a
        later command reads to the same pixels; what is not there is left out.

        Raises:
            UsageError: they cannot be decoded, are too large or do not fit each other.
        """
        with _decoding:
            return self._to_edit(limits) | {
                name: _as_png(_decoded(text, f"picture {name!r}", limits))
                for name, text in self.shown.items()
            }

    def _to_edit(self, limits: Limits) -> dict[str, bytes]:
        if self.image is None:
            if self.mask is not None or self.strength is not None:
                raise UsageError("There is no picture to edit; a mask and a strength belong to it.")
            return {}
        image = _decoded(self.image, "picture", limits)
        files = {"image": _as_png(image)}
        if self.mask is not None:
            mask = read_mask(_decoded(self.mask, "mask", limits), (image.height, image.width))
            files["mask"] = _as_png(Image.fromarray(mask))
        return files

    def _check_prompt(self, limits: Limits) -> None:
        if len(self.prompt) > limits.max_letters:
            raise UsageError(
                f"The prompt has {len(self.prompt):,} letters; it may have {limits.max_letters:,}."
            )
        try:
            self.prompt.encode()
        except UnicodeEncodeError as error:  # Half of a pair of surrogates.
            raise UsageError("The prompt is not valid Unicode.") from error
        self.prompt = one_line(self.prompt)

    def _check_numbers(self, stages: int, limits: Limits) -> None:
        if self.num_images > limits.max_images:
            raise UsageError(
                f"{self.num_images} pictures were asked for; there are at most "
                f"{limits.max_images} at once."
            )
        if self.stages > stages:
            raise UsageError(f"{self.stages} stages were asked for; there are {stages}.")
        for name in ("steps", "guidance_scale"):
            if len(getattr(self, name)) not in (0, self.stages):
                raise UsageError(f"{name} must have one value for each of {self.stages} stages.")

    def _check_choices(self) -> None:
        for steps in self.steps:
            _require(steps, STEPS, "The number of steps")
        _require(self.aspect, ASPECTS, "The format")
        _require(self.strength, STRENGTHS, "The strength")


def _require(value: Any, choices: Sequence[Any], what: str) -> None:
    if value is not None and value not in choices:
        shown = repr(value)[:_LONGEST]
        raise UsageError(f"{what} is {shown}; it must be one of {', '.join(map(str, choices))}.")


def _decoded(text: str, what: str, limits: Limits) -> Image.Image:
    """The picture in a base64 text, upright and in sRGB."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise UsageError(f"The {what} is not in base64.") from error
    name = f"The {what}"
    width, height = transforms.size_of(data, name)
    if width * height > limits.max_megapixels * 10**6:
        raise UsageError(
            f"The {what} has {width}x{height} pixels; it may have {limits.max_megapixels} million."
        )
    return transforms.decode(data, name, None)


def _as_png(picture: Image.Image) -> bytes:
    data = io.BytesIO()
    picture.convert("L" if picture.mode == "1" else picture.mode).save(data, "PNG")
    return data.getvalue()
