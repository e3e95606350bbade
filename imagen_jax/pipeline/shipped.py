"""The small cascade that ships with the package: one exported file per stage. No JAX here."""

from pathlib import Path

import safetensors

from imagen_jax.config import StageConfig, json_form

PRETRAINED = Path(__file__).parents[1] / "pretrained"
STAGES = ("base", "sr256", "sr1024")
"""From the base up."""
STUDENT = "student"
"""Of the base: it paints prompts in few steps."""


def shipped_stage(name: str) -> Path:
    """The file of one of `STAGES`, or of `STUDENT`."""
    return PRETRAINED / f"{name}.safetensors"


def shipped_config(name: str) -> StageConfig:
    """What one of them was trained with."""
    path = shipped_stage(name)
    with safetensors.safe_open(path, framework="numpy") as file:
        return json_form.from_json(file.metadata()["config"], str(path))
