"""The verb `sweep`: a cascade measured over its settings, and the curves of that."""

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from imagen_jax.cli.given import require_countable_flags, require_positive_flags
from imagen_jax.cli.sample_flags import SamplingFlags
from imagen_jax.cli.stage_flags import CascadeFlags
from imagen_jax.cli.unused import require_default
from imagen_jax.errors import UsageError
from imagen_jax.evaluation import axes as axes_of
from imagen_jax.parallel.machine import DistributedFlags
from imagen_jax.storage.files import check_writable


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepFlags:
    """What is painted at every point, and measured."""

    limit: int = 20
    """Without --prompts: the first so many of the emoji's 100 prompts of seen pairs."""
    seeds: int = 1
    """Without --prompts: seeds that each of them is painted with, from 0 on."""
    prompts: str = ""
    """What is painted instead of emoji, as paint takes it; measured by --clip and --reference."""
    count: int | None = None
    """So many of these prompts, drawn at random."""
    split: str = ""
    """Of a data set of tfds whose captions these prompts are."""
    num_images: int = 1
    """Pictures of each of these prompts."""
    seed: int = 0
    """Of these pictures."""
    clip: Path | None = None
    """CLIP's directory, for the CLIP score of these pictures."""
    reference: Path | None = None
    """Directory that stats has made, for their distance."""
    weights: Path | None = None
    """Of the reference's network."""
    measure: str = "fid"
    """Which distance: of inception fid or kid, of clip cmmd, of dinov2 fd-dinov2."""


_EMOJI = ("limit", "seeds")
_PROMPTS = tuple(x.name for x in dataclasses.fields(SweepFlags) if x.name not in _EMOJI)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Measure a cascade at every combination of settings, and draw the curves: how well pictures
    fit their prompts across, how far they are from true ones up. Without --prompts the emoji's
    judge measures. The same command, or one with more values, goes on with what is there."""

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Directory for sweep.png, a table, results.json, and what the points have made."""
    over: Annotated[
        UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="NAME=VALUE,... ...")
    ] = ()
    """What is varied: guidance, aug_level, steps, sampler, thresholding, interval (times at which
    guidance is on: 0:1 is always), oscillates_from (the step from which it is off in every other),
    parallel (APG: 1 is off, 0 on), momentum (APG: 0 is off) or renoising (CFG++), for all stages or
    for one, as base.guidance=1,2,4; base, sr256 or sr1024 with stages; or paper-base-w or
    paper-sr-w, the paper's lists. The first one runs along each curve."""
    flags: OmitArgPrefixes[SweepFlags] = SweepFlags()
    stages: OmitArgPrefixes[CascadeFlags] = CascadeFlags()
    sampling: OmitArgPrefixes[SamplingFlags] = SamplingFlags()
    batch_size: int = 16
    """Pictures that go through a network at once."""
    distributed: DistributedFlags = DistributedFlags()
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""

    def run(self) -> None:
        from imagen_jax.evaluation.sweeps import sweep
        from imagen_jax.parallel import distributed

        require_positive_flags(self, "batch_size")
        check_measuring(self.flags)
        check_writable(self.out, f"OUT is {self.out}")
        axes = axes_of.read_axes([*itertools.chain.from_iterable(self.over)])
        distributed.start(self.distributed)
        distributed.require_accelerator(allow_cpu=self.allow_cpu)
        table = sweep(axes, self._painter(), measured_by(self.flags), self.out)
        if distributed.leads():
            print(table)

    def _stages(self, point: axes_of.Point) -> CascadeFlags:
        return dataclasses.replace(self.stages, **axes_of.stages_in(point))

    def _painter(self) -> Any:
        """Gives a cascade and its options at a point; points of the same stages share one."""
        from imagen_jax.cli.sample import open_stages, settings_of
        from imagen_jax.pipeline.cascade import Cascade

        held: dict[CascadeFlags, Cascade] = {}

        def painter_at(point: axes_of.Point) -> tuple[Cascade, dict[str, Any]]:
            flags = self._stages(point)
            if flags not in held:
                held.clear()  # One cascade at a time is in memory.
                held[flags] = Cascade(open_stages(flags)[0])
            count = len(held[flags].stages)
            own = settings_of(self.sampling, count)
            settings = axes_of.settings_in(point, own, count)
            return held[flags], {"batch_size": self.batch_size, **settings}

        return painter_at


def check_measuring(flags: SweepFlags) -> None:
    """Raises a UsageError for flags that nothing is measured by."""
    require_countable_flags(flags, "seeds", "num_images")
    if flags.limit < 2:
        raise UsageError(f"--limit is {flags.limit}; a distance takes at least 2 prompts.")
    if flags.prompts:
        require_default(flags, "it is of the emoji; leave it or --prompts out.", *_EMOJI)
    else:
        require_default(flags, "it is of --prompts, which are missing.", *_PROMPTS)


def measured_by(flags: SweepFlags) -> Any:
    """What measures pictures: of the prompts, or of the emoji's seen pairs."""
    return painted_by(flags) if flags.prompts else judged_by(flags, "seen pairs")


def judged_by(flags: SweepFlags, kind: str) -> Any:
    """The emoji's judge, on prompts of a kind."""
    from imagen_jax.evaluation.judge import load_judge
    from imagen_jax.evaluation.sweeps import JudgedEmoji

    return JudgedEmoji(load_judge(), flags.limit, flags.seeds, kind)


def painted_by(flags: SweepFlags) -> Any:
    """CLIP, and the network of a reference, on a set of prompts."""
    from imagen_jax.evaluation.feature_files import open_features
    from imagen_jax.evaluation.prompt_sets import read_prompt_set
    from imagen_jax.evaluation.sweeps import PaintedPrompts

    for name in ("clip", "reference", "weights"):
        if getattr(flags, name) is None:
            raise UsageError(f"--{name} is missing, which --prompts are measured by.")
    return PaintedPrompts(
        read_prompt_set(flags.prompts, flags.count, flags.split),
        flags.clip,
        open_features(flags.reference),
        flags.weights,
        flags.measure,
        num_images=flags.num_images,
        seed=flags.seed,
    )
