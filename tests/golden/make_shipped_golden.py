"""Writes `tests/golden/shipped`: what each stage of the shipped cascade paints of "a red apple".

    PYTHONPATH=. python tests/golden/make_shipped_golden.py

To be run where a stage's weights were replaced, and after somebody has looked at the pictures.
"""

from pathlib import Path

import jax

from imagen_jax.config import MeshConfig
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.load import load_cascade
from imagen_jax.pipeline.sheets import save_png

HERE = Path(__file__).parent / "shipped"


def main() -> None:
    HERE.mkdir(exist_ok=True)
    cascade = load_cascade(mesh=make_mesh(MeshConfig(), jax.devices()[:1]))
    for pictures in cascade("a red apple", seed=0).stages:
        save_png(pictures[0], HERE / f"{pictures.shape[1]}.png")


if __name__ == "__main__":
    main()
