"""Commands beside painting and training: exporting, converting, preparing data, measuring.

    python -m imagen_jax sample "a red apple"
    python -m imagen_jax train tiny_64 --workdir runs/tiny

paint pictures and train a stage; each has a --help of its own, and so have those below.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, arg

from imagen_jax.cli.compare import Compare
from imagen_jax.cli.evaluate import Evaluate
from imagen_jax.cli.export import Export
from imagen_jax.cli.given import check_given, require_countable_flags
from imagen_jax.cli.outputs import require_empty, require_other, require_suffix
from imagen_jax.cli.paint import Paint
from imagen_jax.cli.parsing import in_unicode, parse_flags
from imagen_jax.cli.program import load, package_command
from imagen_jax.cli.publish import Publish
from imagen_jax.cli.serve import Serve
from imagen_jax.cli.stats import Stats
from imagen_jax.cli.sweep import Sweep
from imagen_jax.cli.tune import Tune
from imagen_jax.cli.unused import require_default
from imagen_jax.cli.vocabulary import Vocabulary
from imagen_jax.config import DataConfig, StageConfig
from imagen_jax.config.choices import Dtype
from imagen_jax.config.python_file import stage_or_config
from imagen_jax.errors import UsageError, exit_on_usage_error
from imagen_jax.parallel import compilation
from imagen_jax.parallel.machine import DistributedFlags
from imagen_jax.storage.files import absolute, to_path
from imagen_jax.storage.hub import stage_path

_SUFFIX = ".safetensors"
_STAGE = "stage"


@dataclasses.dataclass(frozen=True)
class Convert:
    """Write downloaded weights as one file: an encoder that stages read, a stage, or a network that
    pictures are measured by."""

    kind: Positional[Literal["t5", "deepfloyd-if", "deepfloyd-lora", "inception", "clip"]]
    """t5: a T5 text encoder from a Hugging Face directory or file, for text_encoder.source.
    deepfloyd-if: stage I or II of DeepFloyd IF from its pipeline's directory, for sample.py.
    deepfloyd-lora: a LoRA of diffusers for a stage of DeepFloyd IF, for --base-adapters.
    inception: the network that FID is of, from PyTorch's file, which takes PyTorch.
    clip: for evaluate, from a Hugging Face directory whose weights are PyTorch's."""
    directory: Annotated[Positional[Path], arg(metavar="DIR")]
    """For t5 and clip the directory with config.json and the weights, for t5 also their file; for
    deepfloyd-if the pipeline's, with unet, scheduler, text_encoder and tokenizer; for inception the
    file pt_inception-2015-12-05-6726825d.pth; for deepfloyd-lora the file of safetensors."""
    out: Annotated[Positional[Path], arg(metavar=f"OUT{_SUFFIX}")]
    """File to write; it is replaced whole or left alone."""
    dtype: Dtype = "bfloat16"
    """Of the written weights; bfloat16 takes half the space. A stage of DeepFloyd IF computes in
    it too. For inception and clip it is always float32, since figures depend on it."""
    text_encoder: Path | None = None
    """For deepfloyd-if: another directory with text_encoder and tokenizer, where DIR has none."""
    stage: Annotated[str, arg(metavar="STAGE")] = ""
    """For deepfloyd-lora: the stage that it is added to, as `convert deepfloyd-if` wrote it."""

    def run(self) -> None:
        require_suffix(self.out, _SUFFIX)
        out = Path(absolute(self.out))
        if absolute(self.directory) in (out, *out.parents):
            raise UsageError(f"{self.out} lies in what is read; name another place.")
        require_other(self.out, self.stage)
        if self.kind != "deepfloyd-if" and self.text_encoder is not None:
            raise UsageError(f"--text-encoder is {self.text_encoder}; it is for deepfloyd-if only.")
        if (self.kind == "deepfloyd-lora") != bool(self.stage):
            raise UsageError(
                f"--stage is {self.stage!r} with {self.kind}; deepfloyd-lora needs the stage that "
                "it is added to, and nothing else takes one."
            )
        convert = {
            "t5": self._t5,
            "deepfloyd-if": self._deepfloyd_if,
            "deepfloyd-lora": self._deepfloyd_lora,
            "inception": self._inception,
            "clip": self._clip,
        }
        convert[self.kind]()
        from imagen_jax.weights.hugging_face import licence

        print(licence(self.directory))

    def _clip(self) -> None:
        from imagen_jax.weights.clip_names import convert_clip

        convert_clip(self.directory, self.out)
        print(f"{self.out}: {self.out.stat().st_size / 1e6:.1f} MB")

    def _inception(self) -> None:
        from imagen_jax.weights.inception_names import convert_inception

        convert_inception(self.directory, self.out)
        print(f"{self.out}: {self.out.stat().st_size / 1e6:.1f} MB")

    def _deepfloyd_if(self) -> None:
        from imagen_jax.weights.deepfloyd_stage import convert_deepfloyd_if

        text_from = self.text_encoder or self.directory
        config = convert_deepfloyd_if(self.directory, self.out, self.dtype, text_from)
        print(f"{self.out}: {config.name}, {self.out.stat().st_size / 1e6:.1f} MB")

    def _deepfloyd_lora(self) -> None:
        from imagen_jax.stored.stages import open_stage
        from imagen_jax.weights.adapter_file import save_adapter_file
        from imagen_jax.weights.deepfloyd_lora import read_lora

        stage = open_stage(stage_path(self.stage), needs_encoder=False)
        config, adapter = read_lora(self.directory, stage.unet.abstract)
        fits = {"unet": stage.unet.fingerprint()}
        save_adapter_file(self.out, config, fits, adapter, self.dtype, "ema")
        print(f"{self.out}: an adapter of {stage.config.name}, rank {config.rank}")

    def _t5(self) -> None:
        from imagen_jax.weights.t5_names import convert_t5

        sizes = dataclasses.asdict(convert_t5(self.directory, self.out, self.dtype))
        print(f"{self.out}: {self.out.stat().st_size / 1e6:.1f} MB; for a stage that reads it:")
        flags = [
            f"--text-encoder.t5.{name.replace('_', '-')} {x}"
            for name, x in sizes.items()
            if name not in ("dtype", "remat")
        ]
        print(" ".join([f"--text-encoder.source {self.out}", *flags]))


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw the curves of training directories into one PNG, over each other to be compared."""

    workdirs: Positional[tuple[str, ...]]
    """Training directories; they may lie in a bucket (gs://...)."""
    out: Path = Path("curves.png")
    """PNG to write."""

    def run(self) -> None:
        from imagen_jax.pipeline.sheets import save_png
        from imagen_jax.training.plots import draw_curves

        if not self.workdirs:
            raise UsageError("There is nothing to plot; name at least one training directory.")
        require_suffix(self.out, ".png")
        save_png(draw_curves([to_path(workdir) for workdir in self.workdirs]), self.out)
        print(self.out)


_OF_TRAINING = ("crop", "flip", "low_res_blur", "low_res_blotches", "embeddings", "eval_source")
"""Fields of the data that say nothing of which records there are."""


@dataclasses.dataclass(frozen=True)
class Pack:
    """Write the records of a data source that can be used as ArrayRecord files. Of a mixture each
    part comes once, and captions that a source makes up, as that of emoji does, are written out,
    each as likely as the others."""

    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Directory to write: a new one, or empty."""
    data: Annotated[DataConfig, arg(name="")] = DataConfig()
    shard_records: int = 10_000
    """Records of one file."""
    pictures: tuple[str, ...] = ()
    """Pictures beside each record's own, as `conditions.pictures` of a config names them, such as
    sketch:1."""

    def run(self) -> None:
        from imagen_jax.config import ConditionsConfig
        from imagen_jax.data.pack import pack_source
        from imagen_jax.data.sources import open_source

        require_empty(self.out)
        require_countable_flags(self, "shard_records")
        require_default(self.data, "it is of training; records are packed whole.", *_OF_TRAINING)
        told = ConditionsConfig(pictures=self.pictures)
        source = open_source(self.data, None, told)
        count, left_out = pack_source(source, self.out, self.shard_records, told)
        print(f"{self.out}: {count} records; for training: --data.source arrayrecord:{self.out}")
        if left_out.total():
            print(f"left out: {left_out}")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes of memory that a training step needs per chip, by arithmetic; see also train.py's
    --compile-only, which knows exactly and takes minutes."""

    config: Annotated[Positional[str], arg(metavar="CONFIG")]
    """The name of a config such as tiny_64, a file of your own, a training directory or an exported
    file."""
    chips: int
    """Chips that the step runs on."""

    def run(self) -> None:
        from imagen_jax.planning.topology import use_compiler_alone

        use_compiler_alone()  # An accelerator would be claimed for nothing.
        from imagen_jax.planning.estimate import estimate, to_text
        from imagen_jax.stored.stages import load_config

        config = load_config(stage_or_config(self.config))
        print(to_text(config, self.chips, estimate(config, self.chips)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderFlags:
    """Where the stage's text encoder is, if not where its config says."""

    source: Annotated[str, arg(metavar="STAGE")] = ""
    """Weights: a Hugging Face T5 directory, a file that `convert t5` wrote, or a stage."""
    tokenizer: str = ""
    """`captions`, or a directory that holds a Hugging Face tokenizer."""


@dataclasses.dataclass(frozen=True)
class Embed:
    """Make the text embeddings of all captions of a data set once, for data.embeddings of
    train.py and --embeddings of sample.py. The same command goes on after a kill."""

    dataset: Annotated[Positional[str], arg(metavar="DATASET")]
    """As data.source of train.py; or prompts:FILE, a text file with one prompt a line; or `stage`
    for what the stage's config is trained on and judged by, a mixture too."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Directory for the embeddings. To one that holds some already captions are added."""
    stage: Annotated[str, arg(metavar="STAGE")]
    """The stage that they are for: the name of a config such as base_64, a file of your own, a
    training directory or an exported file."""
    text_encoder: EncoderFlags = EncoderFlags()
    max_length: int | None = None
    """Tokens that captions are cut to, if not what the stage has; text_encoder.max_length of the
    training must be the same."""
    split: str = ""
    """Of DATASET, if that is a tfds data set and it is not the stage's data.split."""
    data_dir: Annotated[str, arg(metavar="DIR")] = ""
    """Where tfds keeps prepared data, if not in the stage's data.data_dir."""
    captions_per_shard: int = 2**14
    """Captions of one file; what a kill undoes at most."""
    batch_tokens: int = 2**13
    """Tokens that a device embeds at once, padding among them."""
    size_only: bool = False
    """Say what the embeddings would take and stop; no weights are needed."""
    distributed: DistributedFlags = DistributedFlags()
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""

    def run(self) -> None:
        from imagen_jax.embedding.run import Work, embed
        from imagen_jax.parallel import distributed
        from imagen_jax.stored.stages import load_config, open_encoder, open_frozen_encoder

        self._check()
        distributed.start(self.distributed)
        distributed.require_accelerator(allow_cpu=self.allow_cpu)
        path = stage_or_config(self.stage)
        config, encoder = load_config(path), None
        if not config.conditions.text:
            raise UsageError(f"--stage is {self.stage}; it reads no text, so it embeds none.")
        config = self._with_flags(config)
        if not self.size_only:
            own = not self.text_encoder.source
            encoder = open_encoder(path) if own else open_frozen_encoder(config, None)
        for data in self._data(config):
            work = Work(
                config=config,
                data=data,
                encoder=encoder,
                batch_tokens=self.batch_tokens,
                captions_per_shard=self.captions_per_shard,
            )
            embed(work, self.out)

    def _check(self) -> None:
        if self.dataset == _STAGE and self.split:
            raise UsageError(
                f"--split is {self.split} and DATASET {_STAGE}; a stage's own splits are embedded."
            )
        least = {"captions_per_shard": 1, "batch_tokens": 1, "max_length": 2}
        for name, at_least in least.items():
            value = getattr(self, name)
            if value is not None and value < at_least:
                flag = name.replace("_", "-")
                raise UsageError(f"--{flag} is {value}; it must be at least {at_least}.")

    def _with_flags(self, config: StageConfig) -> StageConfig:
        """The stage's config with the text encoder that flags name."""
        flags = {
            "source": self.text_encoder.source,
            "tokenizer": self.text_encoder.tokenizer,
            "max_length": self.max_length,
        }
        changes = {name: value for name, value in flags.items() if value}
        encoder = dataclasses.replace(config.text_encoder, train=False, **changes)
        return dataclasses.replace(config, text_encoder=encoder)

    def _data(self, config: StageConfig) -> list[DataConfig]:
        """DATASET, or what the stage is trained on and judged by."""
        own = {"data_dir": self.data_dir} if self.data_dir else {}
        if self.dataset == _STAGE:
            data = dataclasses.replace(config.data, **own)
            held_out = data.held_out() if config.training.eval_every else None
            return [data, *([held_out] if held_out else [])]
        flags = {"split": self.split, **own}
        changes = {name: value for name, value in flags.items() if value}
        return [dataclasses.replace(config.data, source=self.dataset, mixture=(), **changes)]


Preparing = Export | Publish | Convert | Pack | Plot | Estimate | Embed
Measuring = Paint | Stats | Evaluate | Compare | Sweep | Tune
Verb = Preparing | Measuring | Serve | Vocabulary


def main(arguments: Sequence[str]) -> None:
    with exit_on_usage_error():
        verb = parse_flags(
            lambda: tyro.cli(
                Verb,
                prog=package_command(),
                description=(__doc__ or "").replace("python -m imagen_jax", package_command()),
                args=in_unicode(arguments),
            )
        )
        check_given(arguments, verb)
        compilation.prepare()
        load("numpy", "ml_dtypes")  # What all else in C waits for.
        verb.run()
