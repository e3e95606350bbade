"""Train and measure one of the studies in docs/studies.md that need networks of their own.

    python tools/studies.py sizes --out out/studies
    python tools/studies.py encoders --out out/studies
    python tools/studies.py augmentation --out out/studies
    python tools/studies.py objectives --out out/studies
    python tools/studies.py averages --out out/studies
    python tools/studies.py distillation --out out/studies --limit 100

Each command that it runs is printed. The same command goes on after a stop. Networks lie in
OUT/runs, one for all studies that have it; OUT/STUDY has sweep.png, a table and results.json, and
for `distillation` a directory for each base and sheet.png.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHIPPED = "imagen_jax/pretrained/base.safetensors"
STUDENT = "imagen_jax/pretrained/student.safetensors"
UNETS = (8, 16, 32)
TEXTS = (48, 96, 192)
MIDDLE = (16, 192)
WARMUP = 100
STEPS = {"augmentation": 1600, "distillation": 2400}  # Of the other studies 1300.
OBJECTIVES = {
    "eps": {"prediction": "eps"},
    "v": {"prediction": "v"},
    "v-to-zero": {"prediction": "v", "schedule": "linear_to_zero"},
    "shifted": {"schedule": "cosine_shifted_128"},
    "v-sigmoid": {"prediction": "v", "sigmoid-bias": "-1"},
}
STUDENTS = (8, 4, 2, 1)
"""Steps of the students after the one of guidance alone."""
CONSISTENT = 4
"""Steps of the student that learns them by consistency, in as many updates as two halvings."""
BASE_STEPS = (30, 8, 4, 2)
"""Steps of the shipped base beside its students."""
WEIGHTS = ("1", "5")
"""The guidance that students learn. The base has 3."""
LENGTHS = ("0.05", "0.1", "0.15", "0.2")
Command = list[str]


def main() -> None:
    flags = parse()
    # Paths stay relative: they stand in the results and beside the curves.
    for command in STUDIES[flags.study](flags):
        print("\n$", shlex.join(command), flush=True)
        code = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
        if code:
            sys.exit(code)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--out", type=Path, required=True, help="from the repository's root")
    parser.add_argument("--steps", type=int, help="of each network; more is better and longer")
    parser.add_argument("--limit", type=int, default=50, help="prompts of each point")
    flags = parser.parse_args()
    flags.steps = flags.steps or STEPS.get(flags.study, 1300)
    return flags


def sizes(flags: argparse.Namespace) -> Iterator[Command]:
    """U-Nets of three widths with T5s of three widths, all trained along, on the same pictures."""
    names = {sized(unet, text): (unet, text) for unet in UNETS for text in TEXTS}
    for name, (unet, text) in names.items():
        yield trained_along(flags, name, unet, text)
    yield sweep(flags, "guidance=1,2,4", of("base", flags, names), "--sr256", "none")


def encoders(flags: argparse.Namespace) -> Iterator[Command]:
    """A T5 trained along, the shipped base's T5 frozen, and CLIP's text tower frozen; equal in
    width and in the blocks that are read."""
    clip, along = flags.out / "clip", sized(*MIDDLE)
    if not (clip / "model.safetensors").is_file():
        yield ["tools/train_clip.py", str(clip), "--steps", str(min(flags.steps, 600))]
    yield trained_along(flags, along, *MIDDLE)
    unet = ("--unet.embed-dim", str(MIDDLE[0]))
    frozen = ("--text-encoder.no-train", "--text-encoder.source", SHIPPED)
    yield train(flags, "t5-frozen", "emoji_study_32", *unet, *frozen)
    places = ("--text-encoder.source", str(clip), "--text-encoder.tokenizer", str(clip))
    yield train(flags, "clip-frozen", "emoji_study_32_clip", *unet, *places)
    runs = of("base", flags, (along, "t5-frozen", "clip-frozen"))
    yield sweep(flags, "guidance=1,2,4", runs, "--sr256", "none")


def augmentation(flags: argparse.Namespace) -> Iterator[Command]:
    """The stage 64->256 from its first step on with noise on what it enlarges and without; the
    faults that the shipped one was shown beside the noise are left out of both."""
    plain = ("--data.low-res-blur", "0", "--data.low-res-blotches", "0")
    own = ("--text-encoder.source", SHIPPED, "--training.sample-every", "0", *plain)
    levels = {"augmented": "0.5", "clean": "0"}
    for name, level in levels.items():
        yield train(flags, name, "emoji_sr_256", *own, "--diffusion.max-aug-level", level)
    runs = of("sr256", flags, levels)
    yield sweep(flags, "sr256.aug_level=0,0.1,0.3", runs, "--sr1024", "none")


def objectives(flags: argparse.Namespace) -> Iterator[Command]:
    """One network with the study's own objective, the paper's, and others' of `DiffusionConfig`."""
    own = sized(*MIDDLE)
    yield trained_along(flags, own, *MIDDLE)
    for name, fields in OBJECTIVES.items():
        options = [x for field, value in fields.items() for x in (f"--diffusion.{field}", value)]
        yield trained_along(flags, name, *MIDDLE, *options)
    yield sweep(flags, "guidance=1,2,4", of("base", flags, (own, *OBJECTIVES)), "--sr256", "none")


def averages(flags: argparse.Namespace) -> Iterator[Command]:
    """Post-hoc EMA: weights of one run at a constant rate, averaged over several lengths."""
    # The rate's decay would do what averages are for.
    kept = ("--optimizer.power-ema", "0.05", "0.1", "--training.snapshot-every", "50")
    yield trained_along(flags, "averages", *MIDDLE, *kept, decay_steps="None")
    workdir = flags.out / "runs" / "averages"
    files = [flags.out / "lengths" / f"{length}.safetensors" for length in LENGTHS]
    for length, file in zip(LENGTHS, files, strict=True):
        yield ["-m", "imagen_jax", "export", str(workdir), str(file), "--ema-length", length]
    yield sweep(flags, "guidance=1,2,4", f"base={','.join(map(str, files))}", "--sr256", "none")


def distillation(flags: argparse.Namespace) -> Iterator[Command]:
    """Students of the shipped base, the one that ships among them, and the base in few steps."""
    runs = flags.out / "runs"
    guided, students, consistent = (runs / name for name in ("any", "students", "consistent"))
    each = max(1, flags.steps // 6)  # A halving begins nearer to its aim than what guidance does.
    yield distill(SHIPPED, "any", guided, flags.steps, "--conditions.guidance", *WEIGHTS)
    yield distill(str(guided), ",".join(map(str, STUDENTS)), students, each)
    method = ("--distillation.method", "consistency")
    yield distill(str(guided), str(CONSISTENT), consistent, 2 * each, *method)
    halved = {str(count): students / f"{count}.safetensors" for count in STUDENTS}
    files = {"any": guided, **halved, "shipped": STUDENT, "consistent": consistent}
    for count in BASE_STEPS:
        yield evaluate(flags, f"base-{count}", "--steps", str(count))
    for name, file in files.items():
        yield evaluate(flags, name, "--base", str(file))
    rows = [*(f"shipped@{count}" for count in BASE_STEPS), *map(str, files.values())]
    yield ["tools/sheet_of_stages.py", str(flags.out / flags.study / "sheet.png"), *rows]


def evaluate(flags: argparse.Namespace, name: str, *stage: str) -> Command:
    """Measures a base, by default the shipped one, on every kind of the emoji's prompts."""
    out = flags.out / flags.study / name
    return ["-m", "imagen_jax", "evaluate", "--out", str(out), "--sr256", "none", "--seeds", "4",
            "--limit", str(flags.limit), *stage]  # fmt: skip


def distill(teacher: str, students: str, workdir: Path, steps: int, *own: str) -> Command:
    """Trains students for so many steps each, at a rate that falls to nothing at the end."""
    warmup = min(50, steps // 20)
    length = {
        "training.num-steps": steps,
        "training.batch-size": 32,
        "training.sample-every": 0,
        "optimizer.learning-rate": 3e-4,
        "optimizer.warmup-steps": warmup,
        "optimizer.decay-steps": max(1, steps - warmup),
    }
    said = [x for field, value in length.items() for x in (f"--{field}", str(value))]
    return ["train.py", "distill_64", "--teacher", teacher, "--student-steps", students,
            "--workdir", str(workdir), *said, *own]  # fmt: skip


STUDIES = {
    "sizes": sizes,
    "encoders": encoders,
    "augmentation": augmentation,
    "objectives": objectives,
    "averages": averages,
    "distillation": distillation,
}


def sized(unet: int, text: int) -> str:
    return f"u{unet}-t{text}"


def trained_along(
    flags: argparse.Namespace,
    name: str,
    unet: int,
    text: int,
    *own: str,
    decay_steps: str | None = None,
) -> Command:
    t5 = {"d-model": text, "num-heads": max(text // 64, 1), "d-ff": 2 * text}
    widths = [x for field, n in t5.items() for x in (f"--text-encoder.t5.{field}", str(n))]
    unet_width = ("--unet.embed-dim", str(unet))
    return train(flags, name, "emoji_study_32", *unet_width, *widths, *own, decay_steps=decay_steps)


def train(
    flags: argparse.Namespace, name: str, config: str, *own: str, decay_steps: str | None = None
) -> Command:
    """Trains a network, or goes on with it; unless said, the rate falls to nothing at the end."""
    length = {
        "training.num-steps": flags.steps,
        "optimizer.warmup-steps": WARMUP,
        "optimizer.decay-steps": decay_steps or max(flags.steps - WARMUP, 1),
        "optimizer.ema-decay": 0.99,
    }
    said = [x for field, value in length.items() for x in (f"--{field}", str(value))]
    return ["train.py", config, "--workdir", str(flags.out / "runs" / name), *said, *own]


def of(stage: str, flags: argparse.Namespace, names: tuple[str, ...] | dict) -> str:
    """An axis of a sweep: the networks of these names."""
    return f"{stage}={','.join(str(flags.out / 'runs' / name) for name in names)}"


def sweep(flags: argparse.Namespace, *axes_then_stages: str) -> Command:
    """Measures every network at every value of the first axis, and draws a curve for each."""
    first, second, *stages = axes_then_stages
    options = ["--limit", str(flags.limit), *stages]
    return ["-m", "imagen_jax", "sweep", str(flags.out / flags.study), "--over", first, second,
            *options]  # fmt: skip


if __name__ == "__main__":
    main()
