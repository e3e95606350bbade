"""What a stage's network is told beside z, as text that checks itself."""

import dataclasses
import keyword
import re
from typing import Literal

from imagen_jax.config.checked import Checked
from imagen_jax.config.rules import require, require_fraction

LOW_RES, AUG_LEVEL = "low_res", "aug_level"
"""The picture that a super-resolution stage enlarges, and how much noise was added to it."""
GUIDANCE = "guidance_scale"
"""The weight of guidance, of a network that takes it."""
_TAKEN = (
    LOW_RES,
    AUG_LEVEL,
    "broken",
    "caption",
    "image",
    "label",
    "mask",
    "name",
    "text",
    "token_ids",
    "weight",
)
"""Names that a training batch has for something else."""
_MOST_CLASSES = 2**20
NO_LABEL = 255
"""In a map of classes, a pixel that is of none of them."""
PictureKind = Literal["grey", "colours", "labels", "mask"]
_KINDS: dict[str, PictureKind] = {"": "colours", "1": "grey", "3": "colours", "mask": "mask"}
_CLASSES = re.compile(r"classes=([0-9]{1,3})")
_CHANNELS = {"grey": 1, "colours": 3, "labels": 1, "mask": 4}


@dataclasses.dataclass(frozen=True)
class PictureCondition:
    """A picture that a network is shown beside z.

    Attributes:
        kind: `grey` has one channel, such as a sketch or depth; `colours` has three; `labels` is a
            map with the number of each pixel's class; `mask` is the picture itself, and white where
            it is not known.
        classes: of labels, how many there are.
    """

    name: str
    kind: PictureKind = "colours"
    classes: int = 0

    @classmethod
    def parse(cls, text: str) -> "PictureCondition":
        name, colon, kind = text.partition(":")
        labels = _CLASSES.fullmatch(kind)
        classes = int(labels[1]) if labels else 0
        known = 0 < classes <= NO_LABEL if labels else kind in _KINDS and bool(kind or not colon)
        require(
            name.isidentifier() and known,
            f"conditions.pictures has {text!r}; it must be a name, and behind a colon 1 for grey, "
            f"3 for colours, mask, or classes=K for a map of up to {NO_LABEL} classes, such as "
            "'sketch:1' or 'labels:classes=8'.",
        )
        return cls(name, "labels", classes) if labels else cls(name, _KINDS[kind])

    @property
    def stored_channels(self) -> int:
        """Of its pixels as uint8; a mask is the fourth, behind the picture's colours."""
        return _CHANNELS[self.kind]

    @property
    def channels(self) -> int:
        """That the network reads: one for each class of labels."""
        return self.classes or self.stored_channels


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConditionsConfig(Checked):
    """What a stage is told, beside the low-resolution picture that `low_resolution` stands for.

    The paper's stages are told a text and nothing else. Without text and classes a stage is
    unconditional, and guidance has nothing to lead away from.
    """

    text: bool = True
    """Off, the stage has no text encoder and takes no prompts."""
    classes: int | None = None
    """Number of classes that pictures are labelled with, from 0 up; None for none. There is a
    null class beside them, learned as dropped texts are (`training.caption_dropout`)."""
    pictures: tuple[str, ...] = ()
    """More pictures, aligned with the one that is painted: NAME for colours, NAME:1 for grey such
    as a sketch, NAME:classes=K for a map of K classes, NAME:mask for a part of the picture itself
    and where the rest is."""
    picture_dropout: float = 0.0
    """Share of the examples in which such a picture is left out, each by itself and whatever
    becomes of the text. Above 0 a picture need not be given, and can be guided by
    (`sampling.picture_guidance_scale`)."""
    numbers: tuple[str, ...] = ()
    """Names of numbers, one for each picture, about 0 to 1 in size."""
    guidance: tuple[float, float] | None = None
    """The lowest and the highest guidance weight that the network takes as an input, as a teacher
    showed it (see distillation): it paints guided pictures by one evaluation a step. None guides
    by two, as the paper does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.classes is None or 1 <= self.classes <= _MOST_CLASSES,
            f"conditions.classes is {self.classes}; it must lie between 1 and {_MOST_CLASSES:,}.",
        )
        require_fraction(self, "picture_dropout")
        self._check_guidance()
        names = [*(picture.name for picture in self.shown), *self.numbers]
        for name in names:
            require(
                name.isidentifier() and not keyword.iskeyword(name) and name not in _TAKEN,
                f"conditions has the name {name!r}; it must be a word of letters, digits and _, "
                f"and none of {', '.join(_TAKEN)}.",
            )
            require(names.count(name) == 1, f"conditions has the name {name!r} twice.")

    def _check_guidance(self) -> None:
        if self.guidance is None:
            return
        low, high = self.guidance
        require(
            0 <= low < high,
            f"conditions.guidance is {self.guidance}; it must be two weights from 0 up, the "
            "smaller one first.",
        )
        require(
            self.can_be_dropped,
            f"conditions.guidance is {self.guidance}; a stage without text and classes has nothing "
            "that guidance leads away from.",
        )
        require(
            GUIDANCE not in self.numbers,
            f"conditions.numbers has {GUIDANCE!r}, which is what conditions.guidance adds.",
        )

    @property
    def shown(self) -> tuple[PictureCondition, ...]:
        """The pictures beside the low-resolution one."""
        return tuple(map(PictureCondition.parse, self.pictures))

    @property
    def can_be_dropped(self) -> bool:
        """Whether there is anything that guidance can leave out."""
        return self.text or self.classes is not None

    @property
    def can_hide(self) -> bool:
        """Whether there are pictures that it can do without."""
        return bool(self.pictures) and self.picture_dropout > 0

    def inputs(self, text_width: int, *, enlarges: bool) -> "NetworkInputs":
        """What the network of such a stage is built for.

        Args:
            text_width: width of the text embeddings, where it reads any.
            enlarges: whether it is a super-resolution stage.
        """
        return NetworkInputs(
            text_width=text_width if self.text else None,
            stacked=(PictureCondition(LOW_RES),) if enlarges else (),
            levels=(AUG_LEVEL,) if enlarges else (),
            pictures=self.shown,
            numbers=self.numbers,
            classes=self.classes,
            settings=() if self.guidance is None else (GUIDANCE,),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkInputs:
    """All that a network is told beside z, by name and shape.

    Attributes:
        text_width: of the text embeddings; None for a network without text.
        stacked: pictures that lie on z's channels at the input.
        levels: noise levels of these, with embeddings as the time has one.
        pictures, numbers, classes: as in `ConditionsConfig`; they begin without any effect.
        settings: more numbers, which no picture brings but the settings of its sampling.
    """

    text_width: int | None
    stacked: tuple[PictureCondition, ...] = ()
    levels: tuple[str, ...] = ()
    pictures: tuple[PictureCondition, ...] = ()
    numbers: tuple[str, ...] = ()
    classes: int | None = None
    settings: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """The number of channels of z and what is stacked on it."""
        return 3 + sum(picture.channels for picture in self.stacked)

    @property
    def adds(self) -> bool:
        """Whether there is anything that begins without effect."""
        return bool(self.pictures or self.numbers or self.classes or self.settings)
