"""The verbs that measure pictures: `paint`, `stats` and `evaluate`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from imagen_jax.cli.sample_flags import PictureFlags, SamplingFlags, StageFlags, stage_paths
from imagen_jax.config.choices import Crop, Recipe, Resizer
from imagen_jax.config.rules import require_positive
from imagen_jax.errors import UsageError
from imagen_jax.parallel.machine import DistributedFlags


@dataclasses.dataclass(frozen=True)
class Paint:
    """Paint a set of prompts, any number of them, for evaluate: of each picture the last stage's is
    kept. The same command goes on after a kill."""

    prompts: Annotated[Positional[str], arg(metavar="PROMPTS")]
    """prompts:FILE with one a line; table:FILE, a .csv or .tsv with a column Prompt or Prompts
    (DrawBench, PartiPrompts); geneval:FILE; coco:FILE with one caption of each picture or
    coco-all:FILE with all."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Directory for the pictures: a new one, or that of the same command before."""
    count: int | None = None
    """So many of the prompts, drawn at random."""
    pictures: OmitArgPrefixes[PictureFlags] = PictureFlags()
    stages: OmitArgPrefixes[StageFlags] = StageFlags()
    sampling: OmitArgPrefixes[SamplingFlags] = SamplingFlags()
    batch_size: int = 4
    """Pictures painted at once: more need more memory."""
    distributed: DistributedFlags = DistributedFlags()
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""

    def run(self) -> None:
        from imagen_jax.cli.sample import settings_of
        from imagen_jax.evaluation.painting import paint
        from imagen_jax.evaluation.prompt_sets import read_prompt_set
        from imagen_jax.parallel import distributed
        from imagen_jax.pipeline.cascade import Cascade
        from imagen_jax.stored.stages import open_stage

        require_positive(self, "batch_size")
        require_positive(self.pictures, "num_images")
        if self.stages.embeddings or self.stages.weights:
            raise UsageError("--embeddings and --weights are for sample.py; leave them out.")
        prompts, paths = read_prompt_set(self.prompts, self.count), stage_paths(self.stages)
        distributed.start(self.distributed)
        distributed.require_accelerator(allow_cpu=self.allow_cpu)
        made = paint(
            Cascade([open_stage(path) for path in paths]),
            prompts,
            self.out,
            num_images=self.pictures.num_images,
            seed=self.pictures.seed,
            batch_size=self.batch_size,
            size=self.pictures.size or None,
            aspect=self.pictures.aspect or None,
            **settings_of(self.sampling, len(paths)),
        )
        if distributed.leads():
            print(f"{self.out}: {made} pictures of {len(prompts)} prompts")


@dataclasses.dataclass(frozen=True)
class Stats:
    """Make the features of a set of pictures once, for --reference of evaluate. The same command
    goes on after a kill."""

    pictures: Annotated[Positional[Path], arg(metavar="PICTURES")]
    """Directory of pictures, or one that sample.py wrote."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Directory for the features: a new one, or that of the same command before."""
    weights: Path
    """Of the network: for inception the file that `convert inception` wrote, for clip and dinov2 a
    directory of Hugging Face."""
    recipe: Recipe = "pytorch-fid"
    """Which network makes the features, and how pictures are read for it. pytorch-fid and clean-fid
    are of inception, whole pictures, and differ in the resizer; imagen-fid30k takes their centre,
    brings larger ones to 256 pixels and goes on as clean-fid. cmmd is of clip and fd-dinov2 of
    dinov2."""
    crop: Crop | None = None
    """Instead of the recipe's: the whole picture, brought to a square, or its centre."""
    resizer: Resizer | None = None
    """Instead of the recipe's: how a picture comes to the network's size."""
    first_side: int | None = None
    """Instead of the recipe's: pixels to which larger pictures are brought before, by lanczos; with
    0 they are not."""
    batch_size: int = 32
    """Pictures that go through the network at once."""
    distributed: DistributedFlags = DistributedFlags()
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""

    def run(self) -> None:
        from imagen_jax.evaluation.feature_files import make_features
        from imagen_jax.evaluation.measures import named
        from imagen_jax.evaluation.pictures import open_pictures
        from imagen_jax.evaluation.reading import RECIPES
        from imagen_jax.evaluation.run import open_here
        from imagen_jax.parallel import distributed

        require_positive(self, "batch_size")
        name, reading = RECIPES[self.recipe]
        chosen = {"crop": self.crop, "resizer": self.resizer, "first_side": self.first_side}
        changes = {field: value for field, value in chosen.items() if value is not None}
        reading = dataclasses.replace(reading, **changes)
        pictures = open_pictures(self.pictures)
        distributed.start(self.distributed)
        distributed.require_accelerator(allow_cpu=self.allow_cpu)
        network = open_here(name, self.weights, reading)
        made = make_features(pictures, network, self.out, batch_size=self.batch_size)
        if distributed.leads():
            print(f"{self.out}: {made.count} pictures, {named(made)}")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Measure pictures against the features of others that stats has made. The same command goes
    on after a kill."""

    pictures: Annotated[Positional[Path], arg(metavar="PICTURES")]
    """Directory of pictures, or one that sample.py wrote."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Directory for results.json and for the features of the pictures."""
    weights: Path
    """Of the network that the reference is of, as for stats; for the CLIP score CLIP's directory,
    tokenizer and all."""
    reference: Path | None = None
    """Directory that stats has made; it says which network measures, and how it reads."""
    measures: tuple[str, ...] = ()
    """Of inception: fid, kid, precision-recall; of clip: cmmd; of dinov2: fd-dinov2,
    precision-recall. All of them where none is named."""
    clip_score: bool = False
    """How well the pictures fit their prompts, which a manifest.json beside them or --prompts says.
    It takes no reference."""
    prompts: str = ""
    """Of the pictures in the order of their names: prompts:FILE with one a line; table:FILE, a .csv
    or .tsv with a column Prompt or Prompts (DrawBench, PartiPrompts); geneval:FILE; coco:FILE with
    one caption of each picture or coco-all:FILE with all."""
    count: int | None = None
    """So many of these prompts, drawn at random."""
    num_images: int = 1
    """Pictures of each of these prompts."""
    batch_size: int = 32
    """Pictures that go through the network at once."""
    distributed: DistributedFlags = DistributedFlags()
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""

    def run(self) -> None:
        from imagen_jax.evaluation.feature_files import open_features
        from imagen_jax.evaluation.pictures import open_pictures
        from imagen_jax.evaluation.prompt_sets import read_prompt_set
        from imagen_jax.evaluation.run import Work, evaluate
        from imagen_jax.parallel import distributed

        require_positive(self, "batch_size", "num_images")
        pictures = open_pictures(self.pictures)
        if self.prompts:
            prompts = read_prompt_set(self.prompts, self.count)
            pictures = pictures.with_prompts(prompts, self.num_images)
        work = Work(
            pictures=pictures,
            reference=open_features(self.reference) if self.reference else None,
            weights=self.weights,
            names=self.measures,
            clip_score=self.clip_score,
        )
        distributed.start(self.distributed)
        distributed.require_accelerator(allow_cpu=self.allow_cpu)
        for name, value in evaluate(work, self.out, batch_size=self.batch_size).items():
            print(f"{value:12.4f}  {name}")
