"""Whether one sees where a picture was repainted: the shipped cascade, nothing selected.

    python tools/measure_seams.py SHEET.png

Twenty pictures are painted, and in each a fixed circle or rectangle is repainted after another
prompt, by RePaint and by diffusers' rule, and by RePaint after its own prompt, so that what is new
may be like what was there. Printed for every stage is the mean difference of pixels
on either side of the border, divided by that of pixels which lie as close together near the border
and on one side of it: between neighbours, and between pixels some apart (1/64 of the side), which a
soft step shows too. The unedited picture has the same figures in the same places. What was not to
be repainted must be as it was, to the pixel. The sheet shows each picture before and after.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from imagen_jax.errors import exit_on_usage_error
from imagen_jax.evaluation.tables import table
from imagen_jax.pipeline.given import fit, fit_mask
from imagen_jax.pipeline.load import load_cascade
from imagen_jax.pipeline.sheets import grid, save_png

EDITS = {
    "a red apple": "a green apple", "a cat face": "a tiger face", "a banana": "a carrot",
    "a lemon": "an orange lemon", "a strawberry": "a blue strawberry", "a rocket": "a red rocket",
    "a hamburger": "a slice of pizza", "an ice cream": "a pink ice cream", "a panda": "a bear",
    "a sunflower": "a red sunflower", "a blue heart": "a red heart", "a penguin": "an octopus",
    "a basketball": "a green basketball", "a sailboat": "a purple sailboat", "a red car": "a bus",
    "an apple on a yellow background": "an apple on a green background",
    "a star on a blue background": "a star on a pink background",
    "a dog face": "a fox face", "a fish": "a red fish", "a cactus": "a blue cactus",
}  # fmt: skip
WAYS = {"repaint": ("repaint", 0), "clean": ("clean", 0), "own prompt": ("repaint", 1)}
"""How a part is repainted: the rule, and the seed; the last one after the picture's own prompt."""
NEAR = 8
"""The side of a picture by how far from the border pixels are still compared with it."""
SOFT = 64
"""The side of a picture by the distance over which a soft step is looked for."""
CELL, ON_A_ROW = 144, 2


def masks(side: int) -> tuple[np.ndarray, np.ndarray]:
    """A circle and a rectangle, True where it is repainted; both cut through what stands there."""
    row, column = np.indices((side, side)) / side
    circle = (row - 0.58) ** 2 + (column - 0.42) ** 2 < 0.27**2
    return circle, (row > 0.2) & (row < 0.7) & (column > 0.45) & (column < 0.85)


def pairs(repaint: np.ndarray, apart: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For pixels `apart` in a column and in a row: which have the border between them, and which
    lie near it, on one side. By the first of the two pixels."""
    inside, outside = map(ndimage.distance_transform_edt, (repaint, ~repaint))
    distance = inside + outside
    near = (distance > apart) & (distance <= apart + len(repaint) // NEAR)
    found = []
    for turned, by in ((repaint, near), (repaint.T, near.T)):
        crossed = turned[:-apart] != turned[apart:]
        found.append((crossed, ~crossed & by[:-apart] & by[apart:]))
    return found


def differences(picture: np.ndarray, apart: int, of: list) -> tuple[float, float]:
    """Mean absolute difference, 0 to 255, across the border and beside it; `of` as `pairs` gives
    them."""
    x, found = picture.astype(np.float32), []
    for turned, places in zip((x, x.transpose(1, 0, 2)), of, strict=True):
        steps = np.abs(turned[apart:] - turned[:-apart]).mean(-1)
        found.append([steps[chosen] for chosen in places])
    across, beside = (float(np.concatenate(both).mean()) for both in zip(*found, strict=True))
    return across, beside


def figures(pictures: Sequence[np.ndarray], repaints: Sequence[np.ndarray]) -> Iterator[str]:
    """Ratios between neighbours and between pixels some apart; the masks take turns."""
    for apart in (1, max(2, len(repaints[0]) // SOFT)):
        of = [pairs(repaint, apart) for repaint in repaints]
        each = [differences(x, apart, of[i % len(of)]) for i, x in enumerate(pictures)]
        across, beside = np.mean(each, 0)
        yield f"{across / beside:.2f} ({across:.1f} / {beside:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sheet", type=Path, help="PNG to write")
    flags = parser.parse_args()
    cascade, shown = load_cascade(), []
    found: dict[tuple[int, str], list[np.ndarray]] = {}
    for number, (prompt, other) in enumerate(EDITS.items()):
        image = cascade(prompt, progress=False).images[0]
        mask = masks(image.height)[number % 2]
        hidden = np.where(mask[:, :, None], 255, np.asarray(image)).astype(np.uint8)
        shown += [(np.asarray(image), prompt), (hidden, "what stays")]
        for way, (rule, seed) in WAYS.items():
            after = prompt if way == "own prompt" else other
            edit = {"image": image, "mask": mask, "inpainting": rule, "seed": seed}
            edited = cascade(after, **edit, progress=False)
            for [painted] in edited.stages:
                side = len(painted)
                whole, repaint = fit(image, (side, side)), fit_mask(mask, (side, side))
                np.testing.assert_array_equal(painted[~repaint], whole[~repaint])
                found.setdefault((side, way), []).append(painted)
                if way == "own prompt":
                    found.setdefault((side, "unedited"), []).append(whole)
            shown.append((painted, f"{way}: {after}"))
    width = (2 + len(WAYS)) * ON_A_ROW
    rows = [shown[i : i + width] for i in range(0, len(shown), width)]
    sheet = grid([[x for x, _ in row] for row in rows], [[x for _, x in row] for row in rows], CELL)
    save_png(sheet, flags.sheet)
    lines = [["pixels", "picture", "neighbours: ratio (across / beside)", "1/64 of the side apart"]]
    for (side, name), pictures in found.items():
        repaints = [fit_mask(mask, (side, side)) for mask in masks(image.height)]
        lines.append([str(side), name, *figures(pictures, repaints)])
    print(table(lines))


if __name__ == "__main__":
    with exit_on_usage_error():
        main()
