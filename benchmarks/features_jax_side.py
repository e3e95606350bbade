"""Our side of features_speed.py, which starts it.

python benchmarks/features_jax_side.py DIRECTORY NETWORK
"""

import sys
from pathlib import Path

import numpy as np
import turns

from imagen_jax.evaluation.reading import RECIPES
from imagen_jax.evaluation.run import open_here

_RECIPES = {"clip": "cmmd", "dinov2": "fd-dinov2", "inception": "pytorch-fid"}


def main() -> None:
    directory, name = Path(sys.argv[1]), sys.argv[2]
    kind, reading = RECIPES[_RECIPES[name.partition("-")[0]]]
    weights = directory / "inception.safetensors" if kind == "inception" else directory
    network = open_here(kind, weights, reading)
    pictures = np.load(directory / "pictures.npy")
    turns.serve(lambda: next(network(pictures, len(pictures))), "forward")


if __name__ == "__main__":
    main()
