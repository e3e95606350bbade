"""The verb `evaluate`: what pictures or a cascade are measured by."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from imagen_jax.cli.given import require_countable_flags, require_positive_flags
from imagen_jax.cli.sample_flags import SamplingFlags
from imagen_jax.cli.stage_flags import CascadeFlags, stage_names, tell_what_is_left_out
from imagen_jax.cli.unused import require_default
from imagen_jax.config.choices import Recipe
from imagen_jax.errors import UsageError
from imagen_jax.parallel.machine import DistributedFlags
from imagen_jax.planning.options import CompileOptions
from imagen_jax.storage.files import check_writable

_PICTURES = "pictures"
"""Below --out, where pictures are painted of --prompts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialFlags:
    """How much of the fixed prompts a cascade of emoji is measured by."""

    limit: int = 20
    """Without PICTURES and --prompts: the first so many prompts of each kind. There are 100 seen
    pairs, 34 held-out pairs, 60 held-out colours and 30 held-out backgrounds."""
    seeds: int = 1
    """Of these prompts: seeds that the base paints each of them with, from 0 on."""
    enlarged: int = 1
    """Of these prompts: so many of each kind are painted by all stages too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureFlags:
    """What PICTURES, or those that are painted of --prompts, are measured by."""

    weights: tuple[Path, ...] = ()
    """Of the network of each reference, in their order, as for stats; last, for the CLIP score
    where no reference is of clip, CLIP's directory, tokenizer and all."""
    reference: tuple[Path, ...] = ()
    """Directories that stats has made; each says which network measures, and how it reads. Or an
    .npz of pytorch-fid's form, for FID."""
    recipe: Recipe | None = None
    """Of an .npz, which does not say how its pictures were read; of --compile-only, whose network
    is compiled."""
    measures: tuple[str, ...] = ()
    """Of inception: fid, kid, precision-recall; of clip: cmmd; of dinov2: fd-dinov2,
    precision-recall. All of them where none is named."""
    clip_score: bool = False
    """How well the pictures fit their prompts, which a manifest.json beside them or --prompts says.
    It takes no reference."""
    prompts: str = ""
    """Of the pictures in the order of their names, as paint takes them; without PICTURES they are
    painted first."""
    count: int | None = None
    """So many of these prompts, drawn at random."""
    split: str = ""
    """Of a data set of tfds whose captions these prompts are."""
    num_images: int = 1
    """Pictures of each of these prompts."""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure PICTURES against the features of others that stats has made, or against their
    prompts; the same command goes on after a kill. Without PICTURES: measure a cascade, that which
    ships with the package or stages of your own, in the same way by what it paints of --prompts;
    or, without these, of emoji by a judge that has seen true pictures alone."""

    pictures: Annotated[Positional[Path | None], arg(metavar="PICTURES")] = None
    """Directory of pictures, or one that sample.py or paint wrote."""
    out: Path = Path("out/measured")
    """Directory for results.json, a table and sheets, for the features of pictures, and for those
    pictures that are painted of --prompts."""
    measuring: OmitArgPrefixes[MeasureFlags] = MeasureFlags()
    trial: OmitArgPrefixes[TrialFlags] = TrialFlags()
    stages: OmitArgPrefixes[CascadeFlags] = CascadeFlags()
    sampling: OmitArgPrefixes[SamplingFlags] = SamplingFlags()
    compiling: OmitArgPrefixes[CompileOptions] = CompileOptions()
    batch_size: int = 32
    """Pictures that go through a network at once."""
    distributed: DistributedFlags = DistributedFlags()
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""

    def run(self) -> None:
        require_positive_flags(self, "batch_size")
        require_countable_flags(self.measuring, "num_images")
        require_countable_flags(self.trial, "limit", "seeds", "enlarged")
        self.compiling.prepare()
        if self.compiling.compile_only:
            sys.exit(self._compile())
        check_writable(self.out, f"--out is {self.out}")
        if self.pictures is None and not self.measuring.prompts:
            why = "it measures PICTURES or --prompts, which are missing."
            require_default(self.measuring, why)
            self._measure_emoji()
            return
        if self.pictures is None:
            require_default(self.trial, "it is of the emoji; leave it or --prompts out.")
        else:
            for flags in (self.trial, self.stages, self.sampling):
                require_default(flags, "it is of a cascade; leave it or PICTURES out.")
        if not self.measuring.weights:
            raise UsageError("--weights is missing; name those of the network that measures.")
        if self.pictures is None:
            self._measure_prompts()
        else:
            self._measure_pictures(self.pictures)

    def _start(self) -> None:
        from imagen_jax.parallel import distributed

        distributed.start(self.distributed)
        distributed.require_accelerator(allow_cpu=self.allow_cpu)

    def _compile(self) -> int:
        """Reports what the network of --recipe takes of --topology; the exit code."""
        from imagen_jax.config import MeshConfig
        from imagen_jax.evaluation.reading import RECIPES
        from imagen_jax.parallel.mesh import make_mesh
        from imagen_jax.planning import calls
        from imagen_jax.planning.compile_only import run

        if self.pictures is not None:
            raise UsageError(f"--compile-only measures nothing; leave {self.pictures} out.")
        why = "--compile-only paints and measures nothing."
        for flags in (self.trial, self.stages, self.sampling):
            require_default(flags, why)
        require_default(self.measuring, why, "prompts", "reference", "weights")
        if self.measuring.recipe is None:
            raise UsageError("--recipe is missing; it says whose network --compile-only compiles.")
        name, _ = RECIPES[self.measuring.recipe]
        return run(
            lambda devices: [
                calls.features(name, self.batch_size, make_mesh(MeshConfig(), devices))
            ],
            self.compiling,
        )

    def _measure_emoji(self) -> None:
        from imagen_jax.cli.sample import open_stages, settings_of
        from imagen_jax.evaluation.emoji import Trial, check_sides, measure_emoji
        from imagen_jax.parallel import distributed

        last = stage_names(self.stages)[-1]
        self._start()
        stages, _ = open_stages(self.stages)
        check_sides(stages)
        tell_what_is_left_out(self.stages, last)
        table = measure_emoji(
            stages,
            self.out,
            Trial(**dataclasses.asdict(self.trial)),
            batch_size=self.batch_size,
            **settings_of(self.sampling, len(stages)),
        )
        if distributed.leads():
            print(table)

    def _measure_pictures(self, directory: Path) -> None:
        from imagen_jax.evaluation.pictures import open_pictures
        from imagen_jax.evaluation.prompt_sets import read_prompt_set, texts_of

        flags, pictures = self.measuring, open_pictures(directory)
        if not flags.prompts:
            why = "it is of --prompts, which are missing."
            require_default(flags, why, "count", "split", "num_images")
        else:
            prompts = read_prompt_set(flags.prompts, flags.count, flags.split)
            pictures = pictures.with_prompts(texts_of(prompts), flags.num_images)
        work = _work(flags, pictures)
        self._start()
        self._evaluate(work)

    def _measure_prompts(self) -> None:
        """Paints prompts below --out, what is not there yet, and measures the pictures.

        All that can be checked is checked before, as painting may take days.
        """
        from imagen_jax.cli.sample import open_stages, settings_of
        from imagen_jax.evaluation.painting import paint
        from imagen_jax.evaluation.pictures import PictureSet, open_pictures
        from imagen_jax.evaluation.prompt_sets import read_prompt_set, texts_of
        from imagen_jax.evaluation.run import open_networks
        from imagen_jax.pipeline.cascade import Cascade

        last, flags = stage_names(self.stages)[-1], self.measuring
        directory = self.out / _PICTURES
        prompts = read_prompt_set(flags.prompts, flags.count, flags.split)
        planned = PictureSet(directory, ("",) * (len(prompts) * flags.num_images))
        work = _work(flags, planned.with_prompts(texts_of(prompts), flags.num_images))
        self._start()
        open_networks(work.yardsticks)
        stages, _ = open_stages(self.stages)
        tell_what_is_left_out(self.stages, last)
        settings = settings_of(self.sampling, len(stages))
        batches = {"num_images": flags.num_images, "seed": 0, "batch_size": self.batch_size}
        sizes = {"size": None, "aspect": None}  # As the verb paint has them, which may go on.
        paint(Cascade(stages), prompts, directory, **batches, **sizes, **settings)
        self._evaluate(dataclasses.replace(work, pictures=open_pictures(directory)))

    def _evaluate(self, work: Any) -> None:
        from imagen_jax.evaluation.run import evaluate, markdown
        from imagen_jax.parallel import distributed

        figures = evaluate(work, self.out, batch_size=self.batch_size)
        if distributed.leads():
            print(markdown(figures))


def _work(flags: MeasureFlags, pictures: Any) -> Any:
    """What is measured of pictures."""
    from imagen_jax.evaluation.run import Work, yardsticks
    from imagen_jax.evaluation.statistics_file import SUFFIX

    if flags.recipe and not any(path.suffix == SUFFIX for path in flags.reference):
        raise UsageError(
            f"--recipe is {flags.recipe}; it is for an {SUFFIX}, since all else says its own."
        )
    references = [_reference(path, flags.recipe) for path in flags.reference]
    by = yardsticks(references, flags.weights, flags.measures, clip_score=flags.clip_score)
    return Work(pictures=pictures, yardsticks=by)


def _reference(path: Path, recipe: Recipe | None) -> Any:
    """The features or statistics that pictures are measured against."""
    from imagen_jax.evaluation.feature_files import open_features
    from imagen_jax.evaluation.statistics_file import SUFFIX, open_statistics

    if path.suffix != SUFFIX:
        return open_features(path)
    if recipe is None:
        raise UsageError(f"{path} does not say how its pictures were read; name it with --recipe.")
    return open_statistics(path, recipe)
