"""The small cascade that ships with the package: one exported file per stage. No JAX here."""

from pathlib import Path

PRETRAINED = Path(__file__).parents[1] / "pretrained"
STAGES = ("base", "sr256", "sr1024")
"""From the base up."""


def shipped_stage(name: str) -> Path:
    """The file of one of `STAGES`."""
    return PRETRAINED / f"{name}.safetensors"
