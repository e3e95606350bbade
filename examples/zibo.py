"""Pictures to teach the shipped base a thing that it has never seen, and to keep what it knows.

    python examples/zibo.py zibo
    python train.py dreambooth/emoji --workdir runs/alone --data.source folder:zibo/own \
        --training.num-steps 400 --training.checkpoint-every 100 --training.keep-checkpoints 4 \
        --training.sample-every 0
    python train.py dreambooth/emoji --workdir runs/zibo \
        --data.mixture "0.5*folder:zibo/own" "0.5*folder:zibo/prior" \
        --training.num-steps 400 --training.checkpoint-every 100 --training.keep-checkpoints 4 \
        --training.sample-every 0
    python tools/sheet_of_stages.py zibo.png shipped runs/alone runs/zibo --prompts \
        "a zibo star" "a red zibo star" "a green zibo star" "a zibo star on a green background" \
        "a zibo star on a red background" "a zibo star on a black background" \
        "a red apple" "a cat face"
    python -m imagen_jax sweep out/kept --sr256 none --limit 100 \
        --over base=shipped,runs/alone,runs/zibo
    python sample.py "a zibo star" --base runs/zibo --sr256 shipped --sr1024 shipped

It draws five pictures of a zibo, a star with a face, to DIRECTORY/own, on five backgrounds; a
caption names one that is not white. DIRECTORY/prior gets what the base itself paints: one picture
of each thing that it knows, and stars in every colour and on every background. Each picture lies
beside its caption.
"""

import argparse
import math
from pathlib import Path

from PIL import Image, ImageDraw

import imagen_jax
from imagen_jax.data.captions import plain_captions
from imagen_jax.data.emoji_colours import BACKGROUNDS, HUES
from imagen_jax.errors import exit_on_usage_error

KIND = "star"
"""What a zibo is one of, by a word that the base knows."""
NAME = f"zibo {KIND}"
SIDE = 256
PLACES = (
    ("white", 128, 136, 100),
    ("yellow", 118, 130, 92),
    ("pink", 138, 140, 88),
    ("orange", 128, 128, 108),
    ("blue", 124, 142, 96),
)
"""The background of each zibo, and its centre and radius in pixels."""
POINTS = 7


def draw_zibo(background: str, x: float, y: float, radius: float) -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), BACKGROUNDS[background])
    pen = ImageDraw.Draw(picture)
    corners = [
        (x + r * math.sin(turn), y - r * math.cos(turn))
        for i in range(2 * POINTS)
        for r, turn in [(radius * (0.55 if i % 2 else 1.0), math.pi * i / POINTS)]
    ]
    pen.polygon(corners, fill=(120, 60, 180))
    pen.circle((x, y), radius * 0.42, fill=(60, 200, 190))
    for eye in (x - radius * 0.16, x + radius * 0.16):
        pen.circle((eye, y - radius * 0.09), radius * 0.11, fill="white")
        pen.circle((eye, y - radius * 0.07), radius * 0.05, fill="black")
    mouth = (x - radius * 0.2, y - radius * 0.02, x + radius * 0.2, y + radius * 0.28)
    pen.arc(mouth, 20, 160, fill="black", width=5)
    return picture


def save(pictures: list[Image.Image], captions: list[str], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        picture.save(directory / f"{number:03}.png")
        (directory / f"{number:03}.txt").write_text(f"{caption}\n")


def make(directory: Path) -> None:
    """Draws zibos to DIRECTORY/own, and paints what the base knows to DIRECTORY/prior."""
    grounds = ["" if ground == "white" else ground for ground, *_ in PLACES]
    captions = [plain_captions(NAME, background=ground)[1] for ground in grounds]
    save([draw_zibo(*place) for place in PLACES], captions, directory / "own")
    base = imagen_jax.load_cascade().first(1)
    words = base.stages[0].stored.vocabulary
    captions = [
        *(plain_captions(words.shortest_name(concept))[1] for concept in words.concepts),
        *(plain_captions(KIND, colour=colour)[1] for colour in HUES),
        *(plain_captions(KIND, background=colour)[1] for colour in BACKGROUNDS),
    ]
    captions = list(dict.fromkeys(captions))
    save(base(captions, seed=0).images, captions, directory / "prior")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    flags = parser.parse_args()
    with exit_on_usage_error():
        make(flags.directory)


if __name__ == "__main__":
    main()
