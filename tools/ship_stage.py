"""Put a trained stage into the shipped cascade.

    python tools/ship_stage.py runs/emoji_base_64 base

It writes the EMA in bfloat16 to imagen_jax/pretrained, with the config that it was trained with but
the sampling of the committed config of that name. Look at its pictures and measure it first, with
`--out`; then paint tests/golden/shipped and the pictures of docs/ anew.
"""

import argparse
import dataclasses
from pathlib import Path

from imagen_jax.config.python_file import find_config, read_config_file
from imagen_jax.errors import exit_on_usage_error
from imagen_jax.pipeline.shipped import STAGES, STUDENT, shipped_stage
from imagen_jax.storage.files import to_path
from imagen_jax.stored.stages import load_weights
from imagen_jax.weights.stage_file import save_stage_file


def ship(trained: str, out: Path) -> None:
    """Writes one stage.

    Raises:
        UsageError: no such stage, or no committed config of its name.
    """
    stage = load_weights(to_path(trained))
    committed = read_config_file(find_config(stage.config.name))
    config = dataclasses.replace(stage.config, sampling=committed.sampling)
    save_stage_file(out, config, stage.params, "bfloat16", stage.weights, stage.tokenizer)
    print(f"{out}: {config.name}, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trained", help="a training directory, or an exported file")
    parser.add_argument("stage", choices=(*STAGES, STUDENT))
    parser.add_argument("--out", type=Path, help="another file (default: the shipped one)")
    given = parser.parse_args()
    with exit_on_usage_error():
        ship(given.trained, given.out or shipped_stage(given.stage))
