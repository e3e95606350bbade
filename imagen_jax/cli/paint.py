"""The verb `paint`: the pictures of a set of prompts, to be measured."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from imagen_jax.cli.given import require_countable_flags, require_positive_flags
from imagen_jax.cli.sample_flags import PictureFlags, SamplingFlags
from imagen_jax.cli.stage_flags import StageFlags
from imagen_jax.parallel.machine import DistributedFlags
from imagen_jax.storage.files import check_writable


@dataclasses.dataclass(frozen=True)
class Paint:
    """Paint a set of prompts, any number of them, for evaluate: of each picture the last stage's is
    kept. The same command goes on after a kill."""

    prompts: Annotated[Positional[str], arg(metavar="PROMPTS")]
    """prompts:FILE with one a line; table:FILE, a .csv or .tsv with a column Prompt or Prompts
    (DrawBench, PartiPrompts); geneval:FILE, whose pictures lie as GenEval reads them; coco:FILE
    with one caption of each picture or coco-all:FILE with all; data:SOURCE with one caption of each
    picture of a data set, SOURCE as data.source of train.py."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Directory for the pictures: a new one, or that of the same command before."""
    count: int | None = None
    """So many of the prompts, drawn at random."""
    split: str = ""
    """Of a data set of tfds, such as test; unnamed it is that which is trained on."""
    pictures: OmitArgPrefixes[PictureFlags] = PictureFlags()
    stages: OmitArgPrefixes[StageFlags] = StageFlags()
    sampling: OmitArgPrefixes[SamplingFlags] = SamplingFlags()
    batch_size: int = 4
    """Pictures painted at once: more need more memory."""
    distributed: DistributedFlags = DistributedFlags()
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""

    def run(self) -> None:
        from imagen_jax.cli.sample import open_stages, settings_of
        from imagen_jax.evaluation.painting import paint
        from imagen_jax.evaluation.prompt_sets import read_prompt_set
        from imagen_jax.parallel import distributed
        from imagen_jax.pipeline.cascade import Cascade

        check_writable(self.out, f"OUT is {self.out}")
        require_positive_flags(self, "batch_size")
        require_countable_flags(self.pictures, "num_images")
        prompts = read_prompt_set(self.prompts, self.count, self.split)
        distributed.start(self.distributed)
        distributed.require_accelerator(allow_cpu=self.allow_cpu)
        stages, stored_prompts = open_stages(self.stages)
        made = paint(
            Cascade(stages, stored_prompts=stored_prompts),
            prompts,
            self.out,
            num_images=self.pictures.num_images,
            seed=self.pictures.seed,
            batch_size=self.batch_size,
            size=self.pictures.size or None,
            aspect=self.pictures.aspect or None,
            **settings_of(self.sampling, len(stages)),
        )
        if distributed.leads():
            print(f"{self.out}: {made} pictures of {len(prompts)} prompts")
