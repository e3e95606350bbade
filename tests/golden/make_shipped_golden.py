"""Writes `tests/golden/shipped`: what each stage of the shipped cascade, and the student of its
base, paint of "a red apple".

    PYTHONPATH=. python tests/golden/make_shipped_golden.py

To be run where a stage's weights were replaced, and after somebody has looked at the pictures.
"""

from pathlib import Path

import jax

from imagen_jax.config import MeshConfig
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.load import load_cascade
from imagen_jax.pipeline.sheets import save_png
from imagen_jax.pipeline.shipped import STUDENT, shipped_stage

HERE = Path(__file__).parent / "shipped"


def main() -> None:
    HERE.mkdir(exist_ok=True)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    for pictures in load_cascade(mesh=mesh)("a red apple", seed=0).stages:
        save_png(pictures[0], HERE / f"{pictures.shape[1]}.png")
    student = load_cascade(shipped_stage(STUDENT), mesh=mesh)
    save_png(student("a red apple", seed=0).stages[-1][0], HERE / f"{STUDENT}.png")


if __name__ == "__main__":
    main()
