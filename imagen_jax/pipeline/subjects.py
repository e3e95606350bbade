"""What a cascade is asked to paint, and what each of its stages is told of it."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from imagen_jax.conditions import Conditions
from imagen_jax.config import StageConfig
from imagen_jax.config.conditions import LOW_RES, PictureCondition
from imagen_jax.config.data import Size
from imagen_jax.data import shown
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.arguments import checked_prompts
from imagen_jax.pipeline.editing import Edit
from imagen_jax.pipeline.maps import Map, fit_map, known_part, read_map, read_palette
from imagen_jax.pipeline.prompts import HostNullText, PromptEmbeddings
from imagen_jax.stored.stages import StoredStage

_NO_PROMPT = 'There is no prompt; give at least one in quotes, such as "a red apple".'
_UNCONDITIONAL = "unconditional"


@dataclasses.dataclass(frozen=True)
class Subjects:
    """What is to be painted, as a user says it; each part has one entry, or one for each subject.

    Attributes:
        prompts: for the stages that read text.
        classes: for the stages that have classes.
        pictures: for the stages that are shown pictures of these names, each as `maps.read_map`
            takes it, or a list of them; once `read`, uint8 arrays [height, width, channels].
        numbers: for the stages that are told numbers of these names: a number or a list of them.
    """

    prompts: tuple[Any, ...] = ()
    classes: tuple[Any, ...] = ()
    pictures: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises a UsageError for what no stage could take."""
        for name in ("pictures", "numbers"):
            if not isinstance(getattr(self, name), Mapping):
                raise UsageError(f"{name} is {getattr(self, name)!r}; each must have a name.")
        checked = {
            "prompts": checked_prompts(self.prompts) if self.prompts else (),
            "classes": tuple(map(_class, self.classes)),
            "pictures": {name: _entries(value) for name, value in self.pictures.items()},
            "numbers": {name: _numbers(name, value) for name, value in self.numbers.items()},
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        _ = self.count

    @classmethod
    def of(
        cls,
        prompts: Any = (),
        classes: Any = (),
        pictures: Mapping[str, Any] | None = None,
        numbers: Mapping[str, Any] | None = None,
    ) -> "Subjects":
        """The same where one prompt or class may stand alone, and nothing may be None."""
        return cls(_several(prompts), _several(classes), pictures or {}, numbers or {})

    def read(self, stages: Sequence[StoredStage], palette: Any = None) -> "Subjects":
        """The same with its pictures read as the stages take them.

        Args:
            palette: of maps of classes, as `read_palette` takes it.

        Raises:
            UsageError: one cannot be read, or no stage is shown it.
        """
        known = _conditions_of(stages)
        colours = read_palette(palette)
        if colours and not any(known[x].kind == "labels" for x in self.pictures if x in known):
            raise UsageError("There is a palette, but no map of classes that it belongs to.")
        for name in self.pictures:
            if name not in known:
                raise UsageError(f"No stage is told {name!r}; leave it out.")
        pictures = {
            name: tuple(read_map(known[name], one, colours) for one in given)
            for name, given in self.pictures.items()
        }
        return dataclasses.replace(self, pictures=pictures)

    @property
    def count(self) -> int:
        """How many subjects there are; at least one, though nothing be said of it."""
        parts = {"prompts": self.prompts, "classes": self.classes, **self.pictures, **self.numbers}
        counts = {name: len(part) for name, part in parts.items() if len(part)}
        most = max(counts.values(), default=1)
        for name, count in counts.items():
            if count not in (1, most):
                raise UsageError(
                    f"There are {count} of {name} and {most} subjects; give one of each, or as "
                    "many as there are subjects."
                )
        return most

    @property
    def names(self) -> tuple[str, ...]:
        """What files, sheets and errors call each subject."""
        words = [self.prompts, [f"class {label}" for label in self.classes]]
        rows = zip(*(_repeated(part, self.count) for part in words if part), strict=True)
        return tuple(map(", ".join, rows)) or (_UNCONDITIONAL,) * self.count

    def of_subjects(self, rows: slice) -> dict[str, Any]:
        """What is said of some of the subjects, as arguments of a call."""
        own = lambda part: part[rows] if len(part) > 1 else part  # noqa: E731
        return {
            "prompts": own(self.prompts),
            "classes": own(self.classes),
            "pictures": {name: own(part) for name, part in self.pictures.items()},
            "numbers": {name: own(part) for name, part in self.numbers.items()},
        }

    def described(self) -> dict[str, Any]:
        """What a manifest says of it beside the names."""
        said = {"classes": list(self.classes)} if self.classes else {}
        if self.numbers:
            said["numbers"] = {name: list(values) for name, values in self.numbers.items()}
        if self.pictures:
            said["pictures_sha256"] = {
                name: [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pictures]
                for name, pictures in self.pictures.items()
            }
        return said

    def check(
        self, stages: Sequence[StoredStage], sizes: Sequence[Size], *, given: bool = False
    ) -> None:
        """Raises a UsageError unless every stage gets what it takes, and all is taken by some.

        Args:
            sizes: (height, width) of what each stage paints.
            given: there is a picture to begin with, so that prompts may be missing.
        """
        for stage, size in zip(stages, sizes, strict=True):
            if stage.config.conditions.text and not (self.prompts or given):
                raise UsageError(f"{stage.origin} ({stage.config.name}) reads text. {_NO_PROMPT}")
            for problem in _missing(self, stage.config, size):
                raise UsageError(f"{stage.origin} ({stage.config.name}) {problem}")
        configs = [stage.config for stage in stages]
        if self.prompts and not any(config.conditions.text for config in configs):
            raise UsageError(
                f"There is the prompt {self.prompts[0]!r}, but no stage reads text; leave prompts "
                "out."
            )
        if self.classes and all(config.conditions.classes is None for config in configs):
            raise UsageError(
                f"There is the class {self.classes[0]}, but no stage has classes; leave them out."
            )
        taken = {name for config in configs for name in config.inputs.numbers}
        for name in self.numbers:
            if name not in taken:
                raise UsageError(f"No stage is told {name!r}; leave it out.")


@dataclasses.dataclass(frozen=True)
class StageInputs:
    """What one stage is told of every subject; on the host.

    Attributes:
        names: what files and errors call them.
        conditions: a row for each subject, pictures as pixels.
        null: what the unconditional half reads in place of the text, if not zeros.
        encoder_sha256: of the weights of the text encoder; None where no text is read.
        positive: another text and its share.
    """

    names: tuple[str, ...]
    conditions: Conditions
    null: HostNullText | None = None
    encoder_sha256: str | None = None
    positive: tuple[HostNullText, float] | None = None

    @classmethod
    def prompts(cls, text: PromptEmbeddings) -> "StageInputs":
        """Prompts and nothing else."""
        conditions = Conditions(text=text.text, mask=text.mask)
        return cls(text.prompts, conditions, text.null, text.encoder_sha256)

    def of(self, subjects: Sequence[int]) -> "StageInputs":
        """Those of some of the subjects."""
        rows = np.array(subjects)
        conditions = jax.tree.map(lambda x: x[rows], self.conditions)
        names = tuple(self.names[subject] for subject in subjects)
        return dataclasses.replace(self, names=names, conditions=conditions)

    def away_from(self, text: PromptEmbeddings | None) -> "StageInputs":
        """The same, guided away from the one prompt of `text`, where text is read."""
        return self if text is None else dataclasses.replace(self, null=(text.text, text.mask))

    def towards(self, text: PromptEmbeddings | None, share: float) -> "StageInputs":
        """The same, with a share of the one prompt of `text`, where text is read."""
        if text is None:
            return self
        return dataclasses.replace(self, positive=((text.text, text.mask), share))

    def rows(self, subjects: np.ndarray, low_res: np.ndarray | None) -> Conditions:
        """The conditions of pictures of these subjects, with their low-resolution pictures."""
        rows = jax.tree.map(lambda x: x[subjects], self.conditions)
        stacked = {} if low_res is None else {LOW_RES: low_res}
        return dataclasses.replace(rows, pictures=rows.pictures | stacked)


def stage_inputs(
    subjects: Subjects,
    stages: Sequence[StoredStage],
    texts: Sequence[PromptEmbeddings | None],
    sizes: Sequence[Size],
    edit: Edit | None = None,
) -> list[StageInputs]:
    """What each stage is told, once `Subjects.check` has found nothing amiss.

    Args:
        texts: the prompts as each stage reads them, None where it reads none.
        sizes: (height, width) of what each stage paints.
        edit: whose known part is shown to the stages that are shown one.
    """

    def inputs(stage: StoredStage, text: PromptEmbeddings | None, size: Size) -> StageInputs:
        others = _others(subjects, stage.config, size, edit)
        if text is None:
            return StageInputs(subjects.names, others)
        rows = np.array(_repeated(range(len(text.prompts)), subjects.count))
        conditions = dataclasses.replace(others, text=text.text[rows], mask=text.mask[rows])
        return StageInputs(subjects.names, conditions, text.null, text.encoder_sha256 or None)

    return [inputs(*of_stage) for of_stage in zip(stages, texts, sizes, strict=True)]


def _several(given: Any) -> tuple[Any, ...]:
    """One thing, or the entries of a list or array of them."""
    if isinstance(given, np.ndarray) and given.ndim:
        return tuple(given.tolist())
    several = isinstance(given, Sequence) and not isinstance(given, str)
    return tuple(given) if several else (given,)


def _others(subjects: Subjects, config: StageConfig, size: Size, edit: Edit | None) -> Conditions:
    count, inputs = subjects.count, config.inputs
    label = None
    if inputs.classes is not None:
        label = np.array(_repeated(subjects.classes, count), np.int32)
    numbers = {
        x: np.array(_repeated(subjects.numbers[x], count), np.float32) for x in inputs.numbers
    }
    pictures, present = {}, {}
    for condition in inputs.pictures:
        fitted, there = _fitted(subjects, condition, size, edit)
        pictures[condition.name] = np.stack(_repeated(fitted, count))
        if config.conditions.can_hide:
            present[condition.name] = np.full(count, there)
    return Conditions(label=label, numbers=numbers, pictures=pictures, shown=present)


def _fitted(
    subjects: Subjects, condition: PictureCondition, size: Size, edit: Edit | None
) -> tuple[list[Map], bool]:
    """A picture of each subject, or one for all, and whether there is any."""
    if condition.kind == "mask":
        known, there = known_part(edit, size)
        return [known], there
    if condition.name not in subjects.pictures:
        return [np.zeros((*size, condition.stored_channels), np.uint8)], False
    return [fit_map(condition, x, size) for x in subjects.pictures[condition.name]], True


def _repeated(part: Sequence[Any], count: int) -> list[Any]:
    return list(part) * (count if len(part) == 1 else 1)


def _conditions_of(stages: Sequence[StoredStage]) -> dict[str, PictureCondition]:
    """Name -> the picture that stages are shown; all must take it in the same way."""
    known: dict[str, PictureCondition] = {}
    for stage in stages:
        for condition in stage.config.inputs.pictures:
            if known.setdefault(condition.name, condition) != condition:
                raise UsageError(
                    f"{stage.origin} ({stage.config.name}) is shown {condition.name!r} as another "
                    "kind of picture than a stage before; their conditions.pictures must agree."
                )
    return known


def _missing(subjects: Subjects, config: StageConfig, size: Size) -> Iterator[str]:
    """What a stage does not get, or gets as it cannot take it."""
    inputs = config.inputs
    if inputs.classes is not None:
        known = f"0 to {inputs.classes - 1}"
        if not subjects.classes:
            yield f"paints classes, {known}; say which."
        for label in subjects.classes:
            if not 0 <= label < inputs.classes:
                yield f"has no class {label}; its classes are {known}."
    for name in inputs.numbers:
        if name not in subjects.numbers:
            yield f"needs the number {name!r}; a call from Python takes numbers={{{name!r}: ...}}."
    for condition in inputs.pictures:
        name, given = condition.name, subjects.pictures.get(condition.name)
        needed = condition.kind != "mask" and not config.conditions.can_hide
        if given is None and needed:
            yield (
                f"needs the picture {name!r}; sample.py takes --maps {name}=FILE, and a call from "
                f"Python pictures={{{name!r}: ...}}."
            )
        for picture in given or ():
            height, width, _ = picture.shape
            if not shown.same_ratio((height, width), size):
                yield (
                    f"paints {size[0]}x{size[1]} pixels; the picture {name!r} has "
                    f"{height}x{width}, which is of another ratio."
                )


def _class(label: Any) -> int:
    if not isinstance(label, int | np.integer) or isinstance(label, bool):
        raise UsageError(f"A class is {label!r}; it must be a whole number.")
    return int(label)


def _numbers(name: str, value: Any) -> list[float]:
    values = _several(value) or [value]
    for one in values:
        if not isinstance(one, int | float | np.number) or not math.isfinite(one):
            raise UsageError(f"The number {name!r} is {one!r}; it must be a finite number.")
    return [float(one) for one in values]


def _entries(value: Any) -> tuple[Any, ...]:
    """One picture, or those of a list or of an array with a further axis."""
    several = isinstance(value, list | tuple) or getattr(value, "ndim", 0) == 4
    return tuple(value) if several and len(value) else (value,)
