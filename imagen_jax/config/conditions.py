"""What a stage's network is told beside z, as text that checks itself."""

import dataclasses
import keyword

from imagen_jax.config.checked import Checked
from imagen_jax.config.rules import require

LOW_RES, AUG_LEVEL = "low_res", "aug_level"
"""The picture that a super-resolution stage enlarges, and how much noise was added to it."""
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
_GREY, _COLOUR = 1, 3


@dataclasses.dataclass(frozen=True)
class PictureCondition:
    """A picture that a network is shown beside z."""

    name: str
    channels: int = _COLOUR

    @classmethod
    def parse(cls, text: str) -> "PictureCondition":
        name, colon, channels = text.partition(":")
        known = {"": _COLOUR, f":{_GREY}": _GREY, f":{_COLOUR}": _COLOUR}
        require(
            name.isidentifier() and colon + channels in known,
            f"conditions.pictures has {text!r}; it must be a name, and behind a colon {_GREY} for "
            f"grey or {_COLOUR} for colours, such as 'sketch:1'.",
        )
        return cls(name, known[colon + channels])


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
    """More pictures, each as NAME or NAME:CHANNELS, such as sketch:1; of any size, and aligned
    with the picture that is painted."""
    numbers: tuple[str, ...] = ()
    """Names of numbers, one for each picture, about 0 to 1 in size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.classes is None or 1 <= self.classes <= _MOST_CLASSES,
            f"conditions.classes is {self.classes}; it must lie between 1 and {_MOST_CLASSES:,}.",
        )
        names = [*(picture.name for picture in self.shown), *self.numbers]
        for name in names:
            require(
                name.isidentifier() and not keyword.iskeyword(name) and name not in _TAKEN,
                f"conditions has the name {name!r}; it must be a word of letters, digits and _, "
                f"and none of {', '.join(_TAKEN)}.",
            )
            require(names.count(name) == 1, f"conditions has the name {name!r} twice.")

    @property
    def shown(self) -> tuple[PictureCondition, ...]:
        """The pictures beside the low-resolution one."""
        return tuple(map(PictureCondition.parse, self.pictures))

    @property
    def can_be_dropped(self) -> bool:
        """Whether there is anything that guidance can leave out."""
        return self.text or self.classes is not None

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
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkInputs:
    """All that a network is told beside z, by name and shape.

    Attributes:
        text_width: of the text embeddings; None for a network without text.
        stacked: pictures that lie on z's channels at the input.
        levels: noise levels of these, with embeddings as the time has one.
        pictures, numbers, classes: as in `ConditionsConfig`; they begin without any effect.
    """

    text_width: int | None
    stacked: tuple[PictureCondition, ...] = ()
    levels: tuple[str, ...] = ()
    pictures: tuple[PictureCondition, ...] = ()
    numbers: tuple[str, ...] = ()
    classes: int | None = None

    @property
    def channels(self) -> int:
        """The number of channels of z and what is stacked on it."""
        return 3 + sum(picture.channels for picture in self.stacked)

    @property
    def adds(self) -> bool:
        """Whether there is anything that begins without effect."""
        return bool(self.pictures or self.numbers or self.classes)
