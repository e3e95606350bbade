"""The cascade: what is asked for through base and super-resolution stages, one after another."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from imagen_jax.config import SamplingConfig
from imagen_jax.config.data import Size
from imagen_jax.diffusion.noise import NoiseKeys
from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline.editing import StageEdit
from imagen_jax.pipeline.interpolation import Seed, SeedsBetween
from imagen_jax.pipeline.sampling import picture_keys
from imagen_jax.pipeline.shipped import STAGES, shipped_stage
from imagen_jax.pipeline.stage import Stage
from imagen_jax.pipeline.subjects import StageInputs
from imagen_jax.stored.stages import StoredStage

_FIRST = "it comes first, and there is no image that it could enlarge"


def shipped_stages() -> list[Path]:
    """The files of the shipped cascade, from the base up."""
    return [shipped_stage(name) for name in STAGES]


@dataclasses.dataclass(frozen=True)
class SampledStage:
    """One stage of a cascade with the settings that it samples with.

    Attributes:
        size: (height, width) of its pictures; None becomes what it was trained on.
        edit: what it edits; None paints anew.
        tile: side of the tiles that it takes; None takes pictures whole.
    """

    stage: StoredStage
    settings: SamplingConfig
    size: Size | None = None
    edit: StageEdit | None = None
    tile: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self.size or (self.side, self.side))

    @property
    def side(self) -> int:
        """The side of the pictures that it was trained on."""
        return self.stage.config.resolution

    @property
    def num_steps(self) -> int:
        """The steps that it takes; an edit leaves some out and goes others again."""
        return self.settings.num_steps if self.edit is None else len(self.edit.course.visits)


@dataclasses.dataclass(frozen=True)
class Painted:
    """What a stage made.

    Attributes:
        pictures: uint8 (subjects * num_images, height, width, 3).
        unet_sha256: of the weights of its U-Net.
    """

    pictures: np.ndarray
    unet_sha256: str


class Keeper:
    """Where the pictures of stage after stage are kept as they come; this one keeps none."""

    def begin(self, unet_sha256: str) -> None:
        """The next stage begins, with these weights; a UsageError if it may not."""

    def find(self, rows: Sequence[int]) -> np.ndarray | None:
        """Pictures of the stage that need not be painted; None if one of them is not there."""

    def keep(self, rows: Sequence[int], pictures: np.ndarray) -> None:
        """Takes pictures that were painted."""


class LeadersKeeper(Keeper):
    """What the first of several processes keeps, so that one writes the files.

    A UsageError of the first process is raised on all.
    """

    def __init__(self, keeper: Keeper):
        """`keeper`: that of the first process."""
        self._keeper = keeper

    def begin(self, unet_sha256: str) -> None:
        distributed.leader_does(lambda: self._keeper.begin(unet_sha256))

    def find(self, rows: Sequence[int]) -> np.ndarray | None:
        return distributed.told_by_leader(distributed.leader_does(lambda: self._keeper.find(rows)))

    def keep(self, rows: Sequence[int], pictures: np.ndarray) -> None:
        distributed.leader_does(lambda: self._keeper.keep(rows, pictures))


class PartKeeper(Keeper):
    """What keeps the pictures of a part of a call among those of the whole one."""

    def __init__(self, keeper: Keeper, rows: Sequence[int], *, begins: bool):
        """
        Args:
            keeper: of the whole call.
            rows: numbers that the part's pictures have in it.
            begins: whether it is the first part.
        """
        self._keeper, self._rows, self._begins = keeper, rows, begins

    def begin(self, unet_sha256: str) -> None:
        if self._begins:
            self._keeper.begin(unet_sha256)

    def find(self, rows: Sequence[int]) -> np.ndarray | None:
        return self._keeper.find([self._rows[row] for row in rows])

    def keep(self, rows: Sequence[int], pictures: np.ndarray) -> None:
        self._keeper.keep([self._rows[row] for row in rows], pictures)


def check_order(steps: Sequence[SampledStage], mesh: Mesh, *, given: bool = False) -> None:
    """Raises a UsageError unless each stage takes what the one before paints, in whole rows.

    Args:
        given: the first stage may take a picture, which a call brings.
    """
    side, size = steps[0].stage.config.low_resolution if given else None, None
    for step in steps:
        config = step.stage.config
        if config.low_resolution != side:
            takes = (
                f"{config.low_resolution}-pixel pictures" if config.low_resolution else "no picture"
            )
            paints = f"the stage before paints {side} pixels" if side else _FIRST
            raise UsageError(f"{step.stage.origin} ({config.name}) takes {takes}, but {paints}.")
        if size is not None:
            meshes.check_height(size[0], mesh)
        side, size = config.resolution, step.size


def paint(
    stages: Sequence[Stage],
    steps: Sequence[SampledStage],
    inputs: Sequence[StageInputs],
    *,
    seed: Seed,
    num_images: int,
    batch_size: int,
    low_res: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    on_step: Callable | None = None,
    on_estimate: Callable | None = None,
    keeper: Keeper = Keeper(),  # noqa: B008
) -> Iterator[Painted]:
    """What each stage paints, in turn.

    The pictures of one subject stand together. Picture i of a prompt depends on the prompt, the
    seed and i alone: neither on the other prompts nor on `batch_size` or the devices.

    Args:
        stages: from the base up, in the order that `check_order` accepts. Where their mesh has a
            `spatial` axis, super-resolution stages split the height of a picture over that.
        steps: the same, with the settings and sizes that they sample with.
        inputs: what each stage is told of the subjects.
        seed: of all pictures; or one for each subject; or one for each picture, which is then the
            first of its seed; or two that pictures lie between.
        batch_size: pictures at once, as `meshes.batch_starts` rounds it.
        low_res: uint8 [height, width, 3], which a first super-resolution stage enlarges.
        noise: float32 [1 or pictures, height, width, 3] that the first stage begins with; None
            takes that of the seed.
        on_step: called after every denoising step of every batch, and as often for a batch that
            the keeper had.
        on_estimate: called as `sampling.StepwiseSampler` calls it, and with the numbers of the
            pictures.
        keeper: is given the pictures of each batch, and asked for them before. A batch is painted
            whole or not at all, so that its pictures are the same to the byte.

    Raises:
        UsageError: weights are damaged, or a picture is not finite; those of the batches before are
            with the keeper.
    """
    pictures = None if low_res is None else low_res[None]
    for stage, step, said in zip(stages, steps, inputs, strict=True):
        keys = picture_keys_of(seed, step.side, num_images, len(said.names))
        work = _Work(stage, step, said, pictures, noise, keys, num_images, batch_size)
        painted = _paint_stage(work, keeper, on_step=on_step, on_estimate=on_estimate)
        yield painted
        pictures, noise = painted.pictures, None


def picture_keys_of(seed: Seed, stream: int, num_images: int, subjects: int) -> NoiseKeys:
    """The key of every picture, those of one subject together; arguments as in `paint`."""
    if isinstance(seed, SeedsBetween):
        return seed.keys(stream)
    if isinstance(seed, int):
        return picture_keys(seed, stream, num_images)[np.tile(np.arange(num_images), subjects)]
    if len(seed) == subjects:
        return jnp.concatenate([picture_keys(one, stream, num_images) for one in seed])
    return jnp.concatenate([picture_keys(one, stream, 1) for one in seed])


@dataclasses.dataclass(frozen=True)
class _Work:
    """What the pictures of a stage are painted from, with `paint`'s names."""

    stage: Stage
    step: SampledStage
    inputs: StageInputs
    low_res: np.ndarray | None
    noise: np.ndarray | None
    keys: NoiseKeys
    num_images: int
    batch_size: int


def _paint_stage(work: _Work, keeper: Keeper, **watching: Callable | None) -> Painted:
    """All pictures of one stage."""
    keeper.begin(work.stage.unet_sha256)
    total, batches, on_step = len(work.keys), [], watching["on_step"]
    starts = meshes.batch_starts(total, work.batch_size, work.stage.mesh)
    for first in starts:
        rows = range(first, min(first + starts.step, total))
        pictures = keeper.find(rows)
        if pictures is None:
            pairs = np.arange(first, first + starts.step) % total
            pictures = _paint_batch(work, pairs, len(rows), **watching)
            keeper.keep(rows, pictures)
        elif on_step is not None:
            for index in range(work.step.num_steps):
                on_step(index)
        batches.append(pictures)
    return Painted(np.concatenate(batches), work.stage.unet_sha256)


def _paint_batch(
    work: _Work,
    pairs: np.ndarray,
    count: int,
    *,
    on_step: Callable | None,
    on_estimate: Callable | None,
) -> np.ndarray:
    """The first `count` of these pictures of all subjects; the rest fills the devices."""

    def tell(number: int, estimate: np.ndarray) -> None:
        on_estimate(number, estimate[:count], pairs[:count])

    inputs, subjects = work.inputs, pairs // work.num_images
    low_res, noise = (_rows(of_pictures, pairs) for of_pictures in (work.low_res, work.noise))
    pictures, finite = work.stage.paint(
        work.step.settings,
        work.keys[pairs],
        inputs.rows(subjects, low_res),
        inputs.null,
        noise,
        positive=inputs.positive,
        size=work.step.size,
        edit=work.step.edit,
        tile=work.step.tile,
        on_step=on_step,
        on_estimate=tell if on_estimate else None,
    )
    for bad in np.flatnonzero(~finite):
        raise UsageError(
            f"Picture {pairs[bad] % work.num_images} of {inputs.names[subjects[bad]]!r} "
            f"holds numbers that are not finite after {work.stage.stored.origin}; its weights or "
            "the settings of its sampling do not do."
        )
    edit = work.step.edit
    return pictures[:count] if edit is None else edit.put_back(pictures[:count])


def _rows(of_pictures: np.ndarray | None, rows: np.ndarray) -> np.ndarray | None:
    """Those of some pictures; one stands for all."""
    if of_pictures is None:
        return None
    return of_pictures[rows if len(of_pictures) > 1 else np.zeros_like(rows)]
