"""Flags as users of other programs spell them: what they are called here, or why there is none."""

import dataclasses
from collections.abc import Mapping, Sequence

from imagen_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Spellings:
    same: Mapping[str, str]
    """Flag of others -> the flag here that means the same."""
    absent: Mapping[str, str]
    """Flag of others -> what to do instead, as the end of a sentence."""


def _each(names: str, meaning: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), meaning)


_DEVICE = _each(
    "--device --devices --gpu --gpus --cuda",
    "JAX takes the accelerator that it finds; the environment variable JAX_PLATFORMS=cpu keeps to "
    "the CPU.",
)

SAMPLE = Spellings(
    same={
        **_each("--guidance-scale --cfg --cfg-scale --scale", "--guidance"),
        **_each(
            "--num-steps --num-inference-steps --inference-steps --sampling-steps "
            "--num-sampling-steps --ddim-steps",
            "--steps",
        ),
        **_each(
            "--num-images-per-prompt --images-per-prompt --num-samples --n-samples -n",
            "--num-images",
        ),
        **_each(
            "--output --output-dir --output-directory --output-path --out-dir --outdir "
            "--save-dir -o",
            "--out",
        ),
        **_each("--scheduler", "--sampler"),
        **_each("--aspect-ratio --ar", "--aspect"),
        **_each("--style-prompt --style", "--positive-prompt"),
        **_each("--negative --uncond --neg-prompt", "--negative-prompt"),
        **_each("--prompt-file --from-file --prompts-from-file", "--prompts-file"),
        **_each("--latents --init-latents --noise-file", "--init-noise"),
        **_each("--outpaint --expand", "--extend"),
        **_each("--init-image --init-img --input-image --source-image", "--image"),
        **_each("--label-map --segmentation --seg-map --label-image", "--labels"),
        **_each("--scribble --lineart --outline --control-image", "--sketch"),
        **_each("--mask-image --init-mask --inpaint-mask", "--mask"),
        **_each("--denoising-strength --denoise --image-strength", "--strength"),
        **_each("--noise-level --noise-conditioning-level", "--aug-level"),
        **_each("--class --class-label --class-labels --label", "--classes"),
    },
    absent={
        **_DEVICE,
        **_each(
            "--prompt --prompts --text --caption -p", "write the prompt in quotes without a flag."
        ),
        **_each(
            "--height --width --resolution --image-size -H -W",
            "--size HEIGHTxWIDTH says how large the base's pictures are, and the stages after it "
            "enlarge them; --sr256 none and --sr1024 none end before a stage.",
        ),
        **_each(
            "--model --model-id --model-path --ckpt --checkpoint --config --workdir "
            "--pretrained-model-name-or-path",
            "name the stages with --base, --sr256 and --sr1024.",
        ),
        **_each(
            "--dtype --torch-dtype --precision --mixed-precision --fp16 --bf16 --half",
            "each stage computes in the type that its config names.",
        ),
        **_each(
            "--lora --lora-path --lora-weights --adapter --adapters",
            "--base-adapters, --sr256-adapters and --sr1024-adapters add to a stage.",
        ),
        **_each("--eta", "it is the field sampling.eta of a stage's config."),
    },
)

TRAIN = Spellings(
    same={
        **_each("--lr --learning-rate", "--optimizer.learning-rate"),
        **_each("--lr-warmup-steps --warmup-steps", "--optimizer.warmup-steps"),
        **_each("--max-grad-norm", "--optimizer.clip-global-norm"),
        **_each("--optimizer", "--optimizer.name"),
        **_each("--batch-size --train-batch-size", "--training.batch-size"),
        **_each("--gradient-accumulation-steps", "--training.accumulation-steps"),
        **_each(
            "--steps --num-steps --max-steps --max-train-steps --num-train-steps",
            "--training.num-steps",
        ),
        **_each("--checkpointing-steps --save-every", "--training.checkpoint-every"),
        **_each("--seed", "--training.seed"),
        **_each("--validation-prompt --validation-prompts", "--training.sample-prompts"),
        **_each(
            "--output --output-dir --out --out-dir --outdir --logdir --log-dir --save-dir",
            "--workdir",
        ),
        **_each("--dataset --dataset-name", "--data.source"),
        **_each("--dataloader-num-workers --num-workers", "--data.num-workers"),
    },
    absent={
        **_DEVICE,
        **_each(
            "--train-data-dir --data-path --images --image-dir",
            "a folder of pictures and captions is named as --data.source folder:DIR.",
        ),
        **_each(
            "--enable-bucket --buckets --bucket-reso-steps --aspect-ratio-bucketing",
            "--data.sizes lists height and width of each size to train on, as in 64 64 48 80.",
        ),
        **_each(
            "--epochs --num-epochs --num-train-epochs",
            "a run is counted in steps, --training.num-steps.",
        ),
        **_each(
            "--resume --resume-from --resume-from-checkpoint",
            "the same command goes on by itself from the newest checkpoint in --workdir.",
        ),
        **_each("--config", "the config is the first word, as in tiny_64 --workdir DIR."),
        **_each(
            "--model --ckpt --checkpoint --pretrained-model-name-or-path",
            "--init-from starts from the weights of a trained stage.",
        ),
        **_each(
            "--mixed-precision --precision --dtype --fp16 --bf16 --half",
            "--unet.dtype bfloat16 computes in half the bytes.",
        ),
        **_each(
            "--report-to --wandb --use-wandb",
            "curves go to WORKDIR/tensorboard and WORKDIR/metrics.jsonl.",
        ),
    },
)


def respell(arguments: Sequence[str], spellings: Spellings) -> list[str]:
    """The arguments with flags of others as they are called here.

    Raises:
        UsageError: one of them has nothing like it here; it says what to do.
    """

    def respelt(argument: str) -> str:
        flag, equals, value = argument.partition("=")
        plain = flag.replace("_", "-")
        if plain in spellings.absent:
            raise UsageError(f"There is no {flag}: {spellings.absent[plain]}")
        return f"{spellings.same[plain]}{equals}{value}" if plain in spellings.same else argument

    return [respelt(argument) for argument in arguments]
