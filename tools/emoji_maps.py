"""Label maps and sketches of the emoji, and how well a stage follows them.

    python tools/emoji_maps.py make drawings
    python tools/emoji_maps.py measure runs/maps drawings/test --sheet sheet.png

`make` draws core emoji from their vectors, in their own and in other colours, of any size and at
any place, as folders train and test, the latter with what the shipped cascade never saw. Beside
each NAME.png lie its captions, in NAME.labels.png the number of the nearest of eleven colours for
each pixel, of those that cover a part worth mention, and in NAME.sketch.png its outlines, black on
white. palette.json says which colour is which number.

`measure` paints pictures of such a folder after their captions alone, and after their maps and
sketches too, and finds both again in what was painted.
"""

import argparse
import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from imagen_jax.data import captions, emoji_colours, emoji_concepts, emoji_vectors
from imagen_jax.data.emoji_vectors import Concept
from imagen_jax.data.picture_maps import (
    COLOURS,
    Labels,
    Outlines,
    Pixels,
    in_colours,
    label_map,
    outlines,
    sketch,
)
from imagen_jax.errors import UsageError, exit_on_usage_error
from imagen_jax.pipeline.load import load_cascade
from imagen_jax.pipeline.sheets import grid, save_png

SIDE = 64
VARIANTS = 6
"""The most looks of a concept in a style beside the plain one."""
PLACES, SMALLEST = 2, 28
"""Pictures of each look, and the least pixels that a thing measures in them. The base paints all
things large and in the middle: drawings like that would tell it little more than their captions."""
NEAR = 1
"""Pixels by which an outline may lie beside another and still meet it."""
WAYS = {
    "text alone": (),
    "text, labels": ("labels",),
    "text, sketch": ("sketch",),
    "text, both": ("labels", "sketch"),
}
"""What a stage is shown."""
ON_SHEET, CELL = 12, 96


def mean_iou(wanted: Labels, found: Labels) -> float:
    """The mean over the classes of a map of what both agree on by what either has of them."""
    ratios = [
        ((wanted == k) & (found == k)).sum() / ((wanted == k) | (found == k)).sum()
        for k in np.unique(wanted)
    ]
    return float(np.mean(ratios))


def met(wanted: Outlines, found: Outlines) -> float:
    """The share of outline pixels near which others have one; NaN where there are none."""
    near = ndimage.binary_dilation(found, np.ones((2 * NEAR + 1,) * 2, bool))
    return float(near[wanted].mean()) if wanted.any() else float("nan")


def make(directory: Path) -> None:
    """Writes the folders train and test, and the palette."""
    if directory.exists():
        raise UsageError(f"{directory} is there already; name a new directory.")
    for split in ("train", "test"):
        (directory / split).mkdir(parents=True)
    palette = {emoji_colours.BACKGROUNDS[name]: n for n, name in enumerate(COLOURS)}
    (directory / "palette.json").write_text(json.dumps(palette, indent=1))
    for concept in emoji_concepts.core_concepts():
        for style in emoji_vectors.STYLES:
            looks = [("", ""), *emoji_concepts.variants(concept, style)[:VARIANTS]]
            for look in looks:
                held_out = emoji_concepts.held_out(concept, style, *look)
                write(directory / ("test" if held_out else "train"), concept, style, *look)


def write(directory: Path, concept: Concept, style: str, colour: str, background: str) -> None:
    """Pictures of a look with their captions, maps and sketches; none whose map is all ground."""
    label = emoji_concepts.colourable_label(concept) if colour else concept.label
    label = captions.plain_quotes(label)
    lines = captions.plain_captions(label, (), colour, background)
    lines += captions.styled_captions(label, style, colour, background)
    for place in range(PLACES):
        look = [concept.key, style, colour or "own", background or "plain", str(place)]
        stem = "-".join(look)
        pixels = placed(style, concept.key, colour, background, random.Random(stem))
        labels = label_map(pixels)
        if (labels == labels[0, 0]).all():
            continue
        save_png(pixels, directory / f"{stem}.png")
        (directory / f"{stem}.txt").write_text("\n".join(lines))
        save_png(labels, directory / f"{stem}.labels.png")
        save_png(sketch(pixels), directory / f"{stem}.sketch.png")


def placed(style: str, key: str, colour: str, background: str, rng: random.Random) -> Pixels:
    """A drawing of any size at any place on its ground."""
    size = rng.randint(SMALLEST, SIDE)
    drawn = Image.open(io.BytesIO(emoji_colours.draw(style, key, colour, background, size)))
    canvas = Image.new("RGB", (SIDE, SIDE), emoji_colours.BACKGROUNDS[background or "white"])
    canvas.paste(drawn, (rng.randint(0, SIDE - size), rng.randint(0, SIDE - size)))
    return np.asarray(canvas)


def measure(stage: str, directory: Path, count: int, scale: float, sheet: Path | None) -> None:
    """Prints the agreement, and writes a sheet of the first pictures."""
    names = chosen(directory, count)
    prompts = [(directory / f"{name}.txt").read_text().split("\n")[1] for name in names]
    pictures = [read(directory / f"{name}.png", "RGB") for name in names]
    maps = {
        kind: [read(directory / f"{name}.{kind}.png", "L") for name in names]
        for kind in ("labels", "sketch")
    }
    shown = {
        "as drawn": pictures,
        "labels": [in_colours(x) for x in maps["labels"]],
        "sketch": [np.stack([x] * 3, -1) for x in maps["sketch"]],
    }
    cascade = load_cascade(base=stage)
    for name, kinds in WAYS.items():
        told = {kind: maps[kind] for kind in kinds}
        guided = {"picture_guidance_scale": scale} if told else {}
        shown[name] = list(cascade(prompts, pictures=told, **guided).stages[-1])
        print(f"{name}: {agreement(pictures, shown[name])}", flush=True)
    if sheet is not None:
        rows = [of_way[:ON_SHEET] for of_way in shown.values()]
        save_png(grid(rows, [[name] * len(rows[0]) for name in shown], cell=CELL), sheet)


def chosen(directory: Path, count: int) -> list[str]:
    """Names of `count` records, spread evenly over all."""
    names = sorted(path.stem for path in directory.glob("*.txt"))
    if len(names) < count:
        raise UsageError(f"{directory} has {len(names)} pictures with captions; {count} are asked.")
    return [names[len(names) * i // count] for i in range(count)]


def read(path: Path, mode: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert(mode))


def agreement(pictures: Sequence[Pixels], painted: Sequence[Pixels]) -> str:
    """How much of the maps and outlines of pictures is found again in others."""
    pairs = list(zip(pictures, painted, strict=True))
    ious = [mean_iou(label_map(x), label_map(y)) for x, y in pairs]
    shares = [met(outlines(x), outlines(y)) for x, y in pairs]
    backwards = [met(outlines(y), outlines(x)) for x, y in pairs]
    return (
        f"mean IoU of the map {np.mean(ious):.3f}, outline pixels met {np.nanmean(shares):.3f}, "
        f"painted outline pixels that were asked for {np.nanmean(backwards):.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True, dest="verb")
    making = verbs.add_parser("make")
    making.add_argument("directory", type=Path)
    measuring = verbs.add_parser("measure")
    measuring.add_argument("stage", help="a training directory or an exported file")
    measuring.add_argument("directory", type=Path)
    measuring.add_argument("--count", type=int, default=48)
    measuring.add_argument("--scale", type=float, default=1.0, help="guidance by the pictures")
    measuring.add_argument("--sheet", type=Path)
    flags = parser.parse_args()
    with exit_on_usage_error():
        if flags.verb == "make":
            make(flags.directory)
        else:
            measure(flags.stage, flags.directory, flags.count, flags.scale, flags.sheet)


if __name__ == "__main__":
    main()
