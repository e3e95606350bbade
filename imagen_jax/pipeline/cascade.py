"""A cascade to hold and to call: prompts in, pictures out."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from imagen_jax.config import MeshConfig, SamplingConfig
from imagen_jax.config.choices import Weights
from imagen_jax.diffusion.pixels import to_pixels
from imagen_jax.errors import UsageError
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline import painting
from imagen_jax.pipeline.memory import Keep, default_keep
from imagen_jax.pipeline.painting import Painted, SampledStage
from imagen_jax.pipeline.pictures import Pictures
from imagen_jax.pipeline.prompts import PromptEmbeddings, PromptReader, place_of
from imagen_jax.pipeline.stage import Stage
from imagen_jax.storage.files import AnyPath, to_path
from imagen_jax.stored.stages import StoredStage, open_stage
from imagen_jax.text.tokenizer import one_line

_SETTINGS = [field.name for field in dataclasses.fields(SamplingConfig)]


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a callback hears after each denoising step.

    Attributes:
        stage: index of the stage, from the base up.
        step: index of the step.
        num_steps: of the stage.
        estimate: the present estimate of the batch's pictures, uint8.
    """

    stage: int
    step: int
    num_steps: int
    estimate: UInt8[np.ndarray, "batch height width 3"]


class Cascade:
    """Stages in a row, from the base up; loaded and compiled when first needed.

    A second call reads nothing and compiles nothing, as long as the batch size, the sampler and
    the numbers of steps are those of a call before and `keep` is `all`.
    """

    def __init__(
        self, stages: Sequence[StoredStage], *, mesh: Mesh | None = None, keep: Keep | None = None
    ):
        """Reads no weights yet.

        Args:
            stages: each takes what the one before paints.
            mesh: None for all devices, each with pictures of its own.
            keep: `all` holds every network once it is loaded, `one` has one in memory at a time;
                None takes `all` where all fit into half of the devices' memory.

        Raises:
            UsageError: a stage does not take what the one before paints.
        """
        self.mesh = meshes.make_mesh(MeshConfig()) if mesh is None else mesh
        self.keep = keep or default_keep(stages, self.mesh)
        self.stages = [Stage(stage, self.mesh) for stage in stages]
        self._readers: dict[tuple, PromptReader] = {}
        painting.check_order(self._steps({}), self.mesh)

    def __call__(
        self,
        prompts: str | Sequence[str],
        *,
        num_images: int = 1,
        seed: int | Sequence[int] = 0,
        batch_size: int = 4,
        negative_prompt: str | None = None,
        prompt_embeds: Sequence[PromptEmbeddings] | None = None,
        callback: Callable[[Progress], object] | None = None,
        **settings: Any,
    ) -> Pictures:
        """Paints the prompts.

        Picture i of a prompt depends on the prompt, the seed and i alone: neither on the other
        prompts nor on `batch_size` or the devices.

        Args:
            prompts: one or several.
            num_images: pictures of each prompt.
            seed: of all pictures; or one for each picture.
            batch_size: pictures at once.
            negative_prompt: takes the place of the null text, away from which guidance leads.
            prompt_embeds: what `embed` gave for these prompts: no text encoder is run.
            callback: hears of every step; a picture a step is fetched from the devices for it.
            settings: fields of `SamplingConfig`, such as guidance_scale, num_steps, sampler,
                thresholding and aug_level: one value, or a list of one a stage. Where nothing is
                said a stage's own config decides.

        Raises:
            UsageError: a value is out of its range, or there is no prompt.
        """
        prompts = _checked_prompts(prompts)
        _check_numbers(num_images, batch_size)
        seed = _checked_seed(seed, len(prompts) * num_images)
        steps = self._steps(settings)
        texts = list(prompt_embeds or self.embed(prompts, batch_size=batch_size))
        if negative_prompt is not None:
            nulls = self.embed([negative_prompt], batch_size=batch_size)
            texts = [_with_null(text, null) for text, null in zip(texts, nulls, strict=True)]
        painted = list(self._paint(steps, texts, seed, num_images, batch_size, callback))
        starts = meshes.batch_starts(len(prompts) * num_images, batch_size, self.mesh)
        made = {
            "seed": seed, "num_images": num_images, "batch_size": starts.step,
            "split_height": self.mesh.shape["spatial"], "devices": self.mesh.size,
        }  # fmt: skip
        if negative_prompt is not None:
            made["negative_prompt"] = negative_prompt
        return Pictures(prompts, num_images, painted, steps, texts, made)

    def stream(
        self, prompts: Sequence[str], *, chunk: int = 64, **options: Any
    ) -> Iterator[Pictures]:
        """The pictures of any number of prompts, `chunk` prompts at a time.

        They are those of one call with all prompts, but no more are in memory than a chunk has.

        Args:
            options: as a call takes them, but for `seed` a single one.
        """
        _check_numbers(chunk)
        for first in range(0, len(prompts), chunk):
            yield self(prompts[first : first + chunk], **options)

    def embed(self, prompts: str | Sequence[str], *, batch_size: int = 4) -> list[PromptEmbeddings]:
        """The prompts as each stage reads them, for calls with `prompt_embeds`."""
        prompts, embedded = _checked_prompts(prompts), {}
        for stage in self.stages:
            place = place_of(stage.stored)
            if place not in embedded:
                reader = self._readers.pop(place, None) or PromptReader(stage.stored, self.mesh)
                embedded[place] = reader(prompts, batch_size)
                if self.keep == "all":
                    self._readers[place] = reader
        return [embedded[place_of(stage.stored)] for stage in self.stages]

    def _steps(self, settings: dict[str, Any]) -> list[SampledStage]:
        """The stages with their settings, changed by those of a call."""
        for name in settings:
            if name not in _SETTINGS:
                raise UsageError(f"{name!r} is no setting; there are {', '.join(_SETTINGS)}.")
        changes = [{} for _ in self.stages]
        for name, value in settings.items():
            for change, own in zip(changes, _of_stages(name, value, len(changes)), strict=True):
                if own is not None:
                    change[name] = own
        pairs = zip(self.stages, changes, strict=True)
        return [
            SampledStage(stage.stored, dataclasses.replace(stage.config.sampling, **change))
            for stage, change in pairs
        ]

    def _paint(
        self, steps: Sequence[SampledStage], texts: Sequence[PromptEmbeddings],
        seed: int | tuple[int, ...], num_images: int, batch_size: int,
        callback: Callable[[Progress], object] | None,
    ) -> Iterator[Painted]:  # fmt: skip
        listener = _Listener(callback, steps)
        stages = painting.paint(
            steps, texts, seed=seed, num_images=num_images, batch_size=batch_size, mesh=self.mesh,
            on_estimate=listener if callback else None, held=self.stages,
        )  # fmt: skip
        for stage in self.stages:
            yield next(stages)
            listener.stage += 1
            if self.keep == "one":
                stage.release()


class _Listener:
    """Tells a callback of each step's estimate, as `samplers.advance` does on the host."""

    def __init__(
        self, callback: Callable[[Progress], object] | None, steps: Sequence[SampledStage]
    ):
        self._callback, self._steps, self.stage = callback, steps, 0

    def __call__(self, index: jax.Array, x0: jax.Array) -> None:
        estimate = np.asarray(to_pixels(x0))
        num_steps = self._steps[self.stage].settings.num_steps
        self._callback(Progress(self.stage, int(index), num_steps, estimate))


def _checked_prompts(prompts: str | Sequence[str]) -> tuple[str, ...]:
    prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    if not prompts:
        raise UsageError('There is no prompt; give at least one, such as "a red apple".')
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"A prompt is {prompt!r}; it must be text that is not empty.")
    return tuple(map(one_line, prompts))


def _check_numbers(*numbers: int) -> None:
    for number in numbers:
        if not isinstance(number, int) or number < 1:
            raise UsageError(
                f"A number of pictures or prompts is {number!r}; it must be a whole number from 1."
            )


def _checked_seed(seed: int | Sequence[int], pictures: int) -> int | tuple[int, ...]:
    seeds = (seed,) if isinstance(seed, int) else tuple(seed)
    for one in seeds:
        if not isinstance(one, int) or not 0 <= one < 2**32:
            raise UsageError(f"The seed is {one!r}; it must lie between 0 and {2**32 - 1}.")
    if isinstance(seed, int):
        return seed
    if len(seeds) != pictures:
        raise UsageError(f"There are {len(seeds)} seeds; give one, or one for each of {pictures}.")
    return seeds


def _of_stages(name: str, value: Any, count: int) -> list[Any]:
    """One value a stage: a list has them, and anything else is that of all."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise UsageError(f"{name} has {len(value)} values; give one, or a list of {count}.")
    return value


def _with_null(text: PromptEmbeddings, null: PromptEmbeddings) -> PromptEmbeddings:
    return dataclasses.replace(text, null=(null.text, null.mask))


def load_stage(path: AnyPath | str, weights: Weights | None = None) -> StoredStage:
    """A trained stage: its config and where its weights are, which are not read yet.

    Args:
        path: a training directory or an exported file.
        weights: None takes the EMA of a training directory, and what a file holds.

    Raises:
        UsageError: there is no stage, or it has no text encoder that fits.
    """
    return open_stage(to_path(str(path)), weights)


def load_cascade(
    base: AnyPath | str | None = None,
    sr256: AnyPath | str | None = None,
    sr1024: AnyPath | str | None = None,
    *,
    keep: Keep | None = None,
    mesh: Mesh | None = None,
) -> Cascade:
    """A cascade of training directories or exported files; without any, the shipped one.

    A cascade ends before the first stage that is not given.

    Args:
        keep, mesh: as `Cascade` takes them.

    Raises:
        UsageError: a stage cannot be read or does not take what the one before paints.
    """
    paths = (base, sr256, sr1024)
    if not any(paths):
        paths = painting.shipped_stages()
    given = [path is not None for path in paths]
    if given != sorted(given, reverse=True):
        raise UsageError("A cascade has no gaps: a stage is given without the one before it.")
    return Cascade([load_stage(path) for path in paths if path is not None], keep=keep, mesh=mesh)
