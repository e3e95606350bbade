"""Pictures to teach the shipped base a thing that it has never seen, and to keep what it knows.

    python examples/zibo.py zibo
    python train.py dreambooth/emoji --workdir runs/zibo \
        --data.mixture "0.5*folder:zibo/own" "0.5*folder:zibo/prior"
    python sample.py "a zibo toy" --base runs/zibo --sr256 shipped --sr1024 shipped

DIRECTORY/own gets five drawn pictures of a zibo, a star with a face. DIRECTORY/prior gets one
picture of each thing that the base knows, painted by the base itself. Each lies beside its caption.
"""

import argparse
import math
from pathlib import Path

from PIL import Image, ImageDraw

import imagen_jax
from imagen_jax.data.captions import noun_phrase

SIDE = 256
PLACES = ((128, 136, 100), (118, 130, 92), (138, 140, 88), (128, 128, 108), (124, 142, 96))
"""Centre and radius of each zibo, in pixels."""
POINTS = 7


def draw_zibo(x: float, y: float, radius: float) -> Image.Image:
    picture = Image.new("RGB", (SIDE, SIDE), "white")
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    directory = parser.parse_args().directory
    save([draw_zibo(*place) for place in PLACES], ["a zibo toy"] * len(PLACES), directory / "own")
    base = imagen_jax.load_cascade().first(1)
    words = base.stages[0].stored.vocabulary
    names = map(words.shortest_name, words.concepts)
    captions = list(dict.fromkeys(map(noun_phrase, names)))
    save(base(captions, seed=0).images, captions, directory / "prior")


if __name__ == "__main__":
    main()
