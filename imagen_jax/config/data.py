"""Where captioned pictures come from and which of them are taken, as text that checks itself."""

import dataclasses
import math
import operator
import re
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

from imagen_jax.config.checked import Checked
from imagen_jax.config.rules import (
    require,
    require_at_most,
    require_fraction,
    require_not_negative,
    require_positive,
)
from imagen_jax.errors import UsageError

FOLDER, WEBDATASET, ARRAYRECORD = "folder:", "webdataset:", "arrayrecord:"
PREFIXES = (FOLDER, WEBDATASET, ARRAYRECORD)
"""Of sources that are files; what has none is a tfds name."""
Size = tuple[int, int]
"""Height and width in pixels."""
LARGEST_SIDE = 2**15
"""Pixels; what is larger is a slip, and would take all memory before it shows."""
_MOST_WORKERS = 1024
_MOST_SIZES = 255
_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclasses.dataclass(frozen=True)
class Condition:
    """What a number of a record must fulfil to be trained on: `similarity>=0.3`."""

    name: str
    operator: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        match = re.fullmatch(r"\s*([^\s<>=!]+)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*", text)
        try:
            condition = cls(match[1], match[2], float(match[3])) if match else None
        except ValueError:
            condition = None
        if condition is None or math.isnan(condition.bound):
            raise UsageError(
                f"data.filters has {text!r}; it must be a name, one of {' '.join(_OPERATORS)} and "
                "a number, such as 'side>=256'."
            )
        return condition

    def holds(self, values: Any) -> Any:
        """Whether a number, or each of an array, fulfils the condition."""
        return _OPERATORS[self.operator](values, self.bound)

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.bound:g}"


@dataclasses.dataclass(frozen=True)
class Share:
    """One source of a mixture and its weight among them: `0.7*folder:pictures`."""

    weight: float
    source: str

    @classmethod
    def parse(cls, text: str) -> "Share":
        weight, star, source = text.partition("*")
        try:
            share = cls(float(weight), source.strip())
        except ValueError:
            share = cls(math.nan, source)
        if not (star and share.source and 0 < share.weight < math.inf):
            raise UsageError(
                f"data.mixture has {text!r}; it must be a positive number, * and a source, such "
                "as '0.7*folder:pictures'."
            )
        return share


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig(Checked):
    """Captioned pictures: where from and how they are fed."""

    source: str = "captioned_emoji/core_64"
    """`folder:DIR` of pictures beside `.txt` captions, `webdataset:DIR_OR_PATTERN` of tar shards,
    `arrayrecord:DIR_OR_PATTERN`, or a tfds name with image and text features."""
    mixture: tuple[str, ...] = ()
    """Several sources, each as WEIGHT*SOURCE, that are read in these proportions instead of
    `source`."""
    filters: tuple[str, ...] = ()
    """Conditions on the records to train on, such as side>=256, aspect<=2, caption_length>=5, or
    on any number that a record has: similarity>=0.3. All must hold."""
    data_dir: str = ""
    """Where tfds keeps prepared data and other sources their index; empty means tfds's own default
    and a hidden directory beside the data."""
    split: str = "train"
    """Of tfds data sets."""
    label_feature: str = "label"
    """Where `conditions.classes` is set, the number of a record that is its class, from 0 up: a
    feature of a tfds data set, or a name in the JSON of other sources."""
    eval_source: str = ""
    """Of the held-out pictures (`training.eval_every`); empty takes another split of `source`, and
    none where that has no splits: then there is no evaluation."""
    eval_split: str = ""
    """Of the held-out pictures; empty takes `split`."""
    crop: int | None = None
    """Side of the random square crops of the target; None trains on whole pictures."""
    sizes: tuple[Size, ...] = ()
    """(height, width) of the pictures to train on, one size a batch: each picture is resized and
    cropped to the one whose ratio is nearest to its own. Empty is squares of the resolution."""
    low_res_blur: float = 0.0
    """Largest standard deviation, in pixels, of the blur of a super-resolution stage's
    low-resolution pictures in training. The paper has none, nor the following."""
    low_res_blotches: float = 0.0
    """Largest standard deviation of the smooth random colours that are added to them, of 255."""
    flip: float = 0.0
    """Share of the pictures that are mirrored, left for right, with all that is shown beside them;
    captions stay, so 0 is right where they name sides. The paper has none."""
    num_workers: int = 0
    """Worker processes that decode; 0 decodes in threads of the main process."""
    max_broken_share: float = 0.01
    """A run stops when more of what it read could not be used."""
    embeddings: str = ""
    """Directory that `python -m imagen_jax embed` wrote: text embeddings are read from it, and the
    text encoder, which must be a frozen one, is neither loaded nor run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "num_workers", "low_res_blur", "low_res_blotches")
        require_at_most(self, _MOST_WORKERS, num_workers=self.num_workers)
        require_at_most(
            self, 255, low_res_blur=self.low_res_blur, low_res_blotches=self.low_res_blotches
        )
        require_fraction(self, "max_broken_share", "flip")
        if self.crop is not None:
            require_positive(self, "crop")
            require_at_most(self, LARGEST_SIDE, crop=self.crop)
        self._check_sizes()
        _ = self.conditions, self.shares

    def _check_sizes(self) -> None:
        require(
            len(self.sizes) <= _MOST_SIZES,
            f"data.sizes has {len(self.sizes)} sizes; the most is {_MOST_SIZES}.",
        )
        for height, width in self.sizes:
            require(
                0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE,
                f"data.sizes has {height}x{width}; height and width must lie between 1 and "
                f"{LARGEST_SIDE}.",
            )
        ratios: dict[Fraction, Size] = {}
        for size in self.sizes:
            other = ratios.setdefault(Fraction(*size), size)
            require(
                other is size,
                f"data.sizes has {_shown(other)} and {_shown(size)}; their ratios are equal, so "
                "that no picture would be nearer to the second.",
            )
        require(
            not self.sizes or self.crop is None,
            f"data.crop is {self.crop} and data.sizes {' '.join(map(_shown, self.sizes))}; sizes "
            "are those of whole pictures.",
        )

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(map(Condition.parse, self.filters))

    @property
    def shares(self) -> tuple[Share, ...]:
        """The mixture, or the one source."""
        return tuple(map(Share.parse, self.mixture)) or (Share(1.0, self.source),)

    def held_out(self) -> "DataConfig | None":
        """The data that a run is judged by; None where it has no other than it is trained on.

        Files have no splits, so that a run on them needs an `eval_source` to be judged.

        Raises:
            UsageError: it would be data that the run is trained on.
        """
        source, split = self.eval_source or self.source, self.eval_split or self.split
        trained_on = [share.source for share in self.shares]
        if not self.eval_source and (split_prefix(source)[0] or source not in trained_on):
            return None
        require(
            source not in trained_on or (split != self.split and not split_prefix(source)[0]),
            f"training.eval_every needs held-out pictures, and data.eval_source {source!r} with "
            f"data.eval_split {split!r} is what the run is trained on; name another split of a "
            "tfds data set or another source, or set training.eval_every to 0.",
        )
        return dataclasses.replace(
            self, source=source, split=split, mixture=(), eval_source="", eval_split=""
        )

    def without_places(self) -> "DataConfig":
        """The same, naming no directory of this machine."""
        mixture = [Share.parse(text) for text in self.mixture]
        held_out = _last_part(self.eval_source)
        # Two directories of one name would be held-out pictures that the run is trained on.
        trained_on = {_last_part(share.source) for share in self.shares}
        apart = held_out not in trained_on or not split_prefix(held_out)[0]
        return dataclasses.replace(
            self,
            data_dir="",
            embeddings="",
            source=_last_part(self.source),
            eval_source=held_out if apart else "",
            eval_split=self.eval_split if apart else "",
            mixture=tuple(f"{part.weight:g}*{_last_part(part.source)}" for part in mixture),
        )


def _shown(size: Size) -> str:
    return "{}x{}".format(*size)


def split_prefix(source: str) -> tuple[str, str]:
    """(prefix, place) of a source that is files; ("", name) of a tfds name."""
    prefix = next((prefix for prefix in PREFIXES if source.startswith(prefix)), "")
    return prefix, source.removeprefix(prefix)


def _last_part(source: str) -> str:
    prefix, place = split_prefix(source)
    return prefix + PurePosixPath(place).name if prefix else place
