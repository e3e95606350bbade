"""Paints the same prompts by several base stages: nothing is selected, the seed is 0.

    python tools/sheet_of_stages.py SHEET.png shipped shipped@8 runs/students/8.safetensors
    python tools/sheet_of_stages.py SHEET.png shipped runs/zibo --prompts "a zibo star"

Each stage has a row, in the order given. STAGE@STEPS paints in so many steps, and STAGE alone in
its own number; `shipped` is the base of the shipped cascade.
"""

import argparse
from pathlib import Path

from imagen_jax.errors import exit_on_usage_error
from imagen_jax.pipeline.load import load_cascade
from imagen_jax.pipeline.sheets import grid, save_png
from imagen_jax.pipeline.shipped import shipped_stage

PROMPTS = (
    "a red apple", "a cat face", "a rocket, noto style", "a blue car", "a slice of pizza",
    "a sunflower on a yellow background", "a panda, twemoji style", "a purple strawberry",
)  # fmt: skip
SEED = 0
CELL = 128


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sheet", type=Path, help="PNG to write")
    parser.add_argument("stages", nargs="+", metavar="STAGE")
    parser.add_argument("--prompts", nargs="+", default=PROMPTS, metavar="PROMPT")
    flags = parser.parse_args()
    with exit_on_usage_error():
        rows = []
        for told in flags.stages:
            stage, _, steps = told.rpartition("@")
            if not (stage and steps.isdecimal()):
                stage, steps = told, ""
            path = str(shipped_stage("base")) if stage == "shipped" else stage
            settings = {"num_steps": int(steps)} if steps else {}
            painted = load_cascade(path)(flags.prompts, seed=SEED, **settings)
            rows.append(list(painted.stages[0]))
        save_png(grid(rows, [flags.prompts] * len(rows), CELL), flags.sheet)


if __name__ == "__main__":
    main()
