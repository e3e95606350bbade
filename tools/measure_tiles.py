"""How far pictures by tiles are from whole ones: the shipped super-resolution stages, seed 0.

    python tools/measure_tiles.py

Each stage enlarges one picture of the cascade, whole and by tiles of half its side. Printed are the
mean and the largest difference of a colour's value, 0 to 255, and the share of pixels of which one
differs by more than 8.
"""

import numpy as np

from imagen_jax.evaluation.tables import table
from imagen_jax.pipeline.load import load_cascade
from imagen_jax.pipeline.painting import shipped_stages

PROMPT = "a red apple"
LARGE = 8


def main() -> None:
    names, paths = ("sr256", "sr1024"), shipped_stages()[1:]
    pictures = load_cascade().first(2)(PROMPT, progress=False).stages
    rows = [["stage", "tile", "mean", "largest", f"pixels off by more than {LARGE}"]]
    for name, path, [low_res] in zip(names, paths, pictures, strict=True):
        alone = load_cascade(**{name: path})
        whole = alone(PROMPT, image=low_res, progress=False).stages[0].astype(int)
        tile = whole.shape[1] // 2
        tiled = alone(PROMPT, image=low_res, tile=tile, progress=False).stages[0]
        off = np.abs(tiled - whole)
        share = (off.max(-1) > LARGE).mean()
        rows.append([name, str(tile), f"{off.mean():.2f}", str(off.max()), f"{share:.1%}"])
    print(table(rows))


if __name__ == "__main__":
    main()
