"""Prompts, metrics, vocabularies and command lines."""

import contextlib
import functools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args
from unittest import mock

import numpy as np
import tokenizers

from attacks import mutations as m
from attacks.kind import ROOT, Kind, Read
from imagen_jax.cli import sample, train, verbs
from imagen_jax.cli.prompts_file import read_prompts_file
from imagen_jax.embedding.caption_sources import PromptFile
from imagen_jax.pipeline.given import read_noise
from imagen_jax.pipeline.maps import read_palette
from imagen_jax.text.tokenizer import Tokenizer, load_tokenizer
from imagen_jax.training.metrics_file import METRICS_FILE, MetricsFile, read_metrics
from imagen_jax.training.plots import draw_curves

_LENGTH = 8
_FILES = (m.remove, m.empty, m.swap, m.make_directory, m.make_loop)


def tokens(texts: Sequence[str]) -> dict[str, np.ndarray]:
    ids = [_captions().read(text) for text in texts]
    return dict(zip(("token_ids", "mask"), _captions().padded(ids, _LENGTH), strict=True))


@functools.cache
def _captions() -> Tokenizer:
    return load_tokenizer("captions")


# Texts.


def make_prompts(directory: Path) -> None:
    (directory / "prompts.txt").write_text("a red apple\n\n  two  dragons\né 日本 🍎\n")


def read_prompts(directory: Path) -> Read:
    prompts = PromptFile(directory / "prompts.txt")
    for number in range(len(prompts)):
        (prompt,) = prompts.metadata(number).captions.all()
        if not prompt or "\n" in prompt or prompt != " ".join(prompt.split()):
            raise AssertionError(f"prompt {prompt!r}")
        tokens([prompt])
    return {}


def make_table(directory: Path) -> None:
    rows = [
        "prompt,seed,negative_prompt,guidance_scale",
        '"a red, apple",3,,"[3, 1, 1]"',
        "é,,a cat,2",
    ]
    (directory / "prompts.csv").write_text("\n".join(rows))


def read_table(directory: Path) -> Read:
    prompts, settings = read_prompts_file(str(directory / "prompts.csv"))
    if not all(prompts) or len(prompts) != len(settings or ()):
        raise AssertionError(f"{prompts} with {settings}")
    return {}


def make_palette(directory: Path) -> None:
    (directory / "palette.json").write_text(
        json.dumps({"#87ceeb": 0, "#228B22": 1, "#000000": 255})
    )


def read_colours(directory: Path) -> Read:
    for colour, number in (read_palette(directory / "palette.json") or {}).items():
        bytes([*colour, number])
    return {}


def make_noise(directory: Path) -> None:
    np.save(directory / "noise.npy", np.arange(48, dtype=np.float32).reshape(4, 4, 3))


def read_start(directory: Path) -> Read:
    noise = read_noise(directory / "noise.npy", (4, 4), 1)
    if noise is None or noise.shape != (1, 4, 4, 3) or not np.isfinite(noise).all():
        raise AssertionError(f"noise {noise}")
    return {}


def make_metrics(directory: Path) -> None:
    lines = [
        {"step": step, "pictures_seen": 4 * step, "loss": 1 / step, "loss_by_time": [0.5, None]}
        for step in range(1, 9)
    ]
    (directory / METRICS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_metrics_twice(directory: Path) -> Read:
    """A run goes on with the file and loses no line of it; then all is read and drawn."""
    path = directory / METRICS_FILE
    before = path.read_bytes().split(b"\n")
    MetricsFile(directory, 10**9).append({"step": 10**9 + 1, "pictures_seen": 1})
    aside = directory / f"{METRICS_FILE}.damaged"
    after = path.read_bytes() + (aside.read_bytes() if aside.is_file() else b"")
    for line in before:
        if line not in after and b'"step"' not in line:  # Later steps are dropped.
            raise AssertionError(f"line {line[:99]!r} is lost")
    steps = [line["step"] for line in read_metrics(directory)]
    if steps != sorted(set(steps)):
        raise AssertionError(f"steps {steps}")
    draw_curves([directory])
    return {}


def make_sentencepiece(directory: Path) -> None:
    model = ROOT / "imagen_jax" / "text" / "captions.model"
    shutil.copy(model, directory / "spiece.model")


def make_json_tokenizer(directory: Path) -> None:
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁a", "▁red", "▁apple", *"adelpr"]
    vocabulary = [(piece, -float(number)) for number, piece in enumerate(pieces)]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(vocabulary, unk_id=2))
    tokenizer.normalizer = tokenizers.normalizers.NFKC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    tokenizer.save(str(directory / "tokenizer.json"))


def read_vocabulary(directory: Path) -> Read:
    tokenizer = load_tokenizer(str(directory))
    for text in ("a red apple", "é 日本 🍎 </s>"):
        ids = tokenizer.ids(text)
        if not all(0 <= number < tokenizer.vocab_size for number in ids):
            raise AssertionError(f"ids {ids} of {tokenizer.vocab_size}")
        tokenizer.decode(ids)
    return {}


# Command lines.

_LINES = {
    "train": [
        "tiny_64 --workdir runs/x --training.num-steps 4 --unet.channel-mult 1 2 --data.source "
        "folder:x --optimizer.learning-rate 3e-4 --profile 1:3",
        "emoji_sr_256 --workdir x --text_encoder.source runs/base --data.crop 64",
        "base_64 --compile-only --topology v5e:16x16 --quick --what step",
        "tiny_64 --workdir x --init-from y --weights raw --mesh.fsdp 2 --data.filters side>=2 "
        "--data.mixture 0.5*folder:x 0.5*folder:y",
    ],
    "sample": [
        "apple --seed 1 --num-images 2 --out out --steps 8 16 8",
        "a b --base runs/base --guidance 3.5 --sampler ddim --resume",
        "--compile-only --topology v5e:2x4 --base tiny_64",
        "x --thresholding dynamic --embeddings e --weights ema --batch-size 2",
    ],
    "verbs": [
        "export runs/x x.safetensors --dtype float32 --weights raw",
        "convert t5 dir out.safetensors", "plot a b --out x.png",
        "pack out --source folder:x --shard-records 10", "estimate tiny_64 --chips 4",
        "embed prompts:x out --stage base_64 --max-length 9 --size-only",
    ],
}  # fmt: skip


def make_command(program: str) -> Callable[[Path], None]:
    def make(directory: Path) -> None:
        for number, words in enumerate(_LINES[program]):
            (directory / f"{number}.json").write_text(json.dumps([program, *words.split()]))

    return make


def read_command(directory: Path) -> Read:
    """Parses the one command line that is not as it was made."""
    for path in sorted(directory.iterdir()):
        program, *words = json.loads(path.read_text())
        if words != _LINES[program][int(path.stem)].split():
            parse(program, words)
    return {}


def parse(program: str, words: list[str]) -> None:
    """Reads a command line; no verb runs. --help exits with code 0."""
    if program == "verbs":
        with contextlib.ExitStack() as stack:
            for verb in get_args(verbs.Verb):
                stack.enter_context(mock.patch.object(verb, "run"))
            verbs.main(words)
    else:
        {"train": train, "sample": sample}[program].parse(words)


KINDS: dict[str, Kind] = {
    "prompts": Kind(make_prompts, read_prompts, ("*.txt",), (m.as_text, m.as_bytes, *_FILES)),
    "prompts csv": Kind(make_table, read_table, ("*.csv",), (m.as_text, m.as_bytes, *_FILES)),
    "palette": Kind(make_palette, read_colours, ("*.json",), (m.as_json, m.as_text, *_FILES)),
    "noise npy": Kind(make_noise, read_start, ("*.npy",), (m.as_bytes, m.flip_bit, *_FILES)),
    "metrics.jsonl": Kind(
        make_metrics, read_metrics_twice, (METRICS_FILE,), (m.as_json_lines, m.as_text, m.as_bytes)
    ),
    "spiece.model": Kind(
        make_sentencepiece, read_vocabulary, ("spiece.model",), (m.as_bytes, *_FILES)
    ),
    "tokenizer.json": Kind(
        make_json_tokenizer, read_vocabulary, ("tokenizer.json",), (m.as_json, m.as_text, *_FILES)
    ),
    **{
        f"command line {program}": Kind(
            make_command(program), read_command, ("*.json",), (m.as_arguments,)
        )
        for program in _LINES
    },
}  # fmt: skip
