"""The command that paints what the page painted."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from imagen_jax.pipeline.shipped import STAGES
from imagen_jax.serve.order import Order

_OWN_FLAGS = ("labels", "sketch")
"""Of what stages are shown; the others are given by --maps."""


@dataclasses.dataclass(frozen=True)
class Given:
    """The stages as who started the page named them.

    Attributes:
        stages: "base", "sr256", ... -> the name.
        weights: which of each; empty, or one for each stage.
        palette: file with the colours of a map of classes; "" for none.
        adapters: "base", "sr256", ... -> what is added to it, as a flag names it.
    """

    stages: Mapping[str, str]
    weights: Sequence[str] = ()
    palette: str = ""
    adapters: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


def file_of(name: str) -> str:
    """What a download calls the picture to edit, its mask, or what stages are shown."""
    return f"{name}.png"


def command(order: Order, given: Given, defaults: Sequence[Mapping[str, Any]]) -> str:
    """A line for a shell.

    Args:
        defaults: "steps" and "guidance_scale" of each stage, for those that nobody chose.
    """
    words = ["python", "-m", "imagen_jax", "sample"]
    if order.prompt:
        # With a space before it, which is dropped again, it is taken for no flag.
        words.append(f" {order.prompt}" if order.prompt.startswith("-") else order.prompt)
    words += ["--seed", str(order.seed), "--num-images", str(order.num_images)]
    names = list(given.stages)
    for name in names[: order.stages]:
        words += [f"--{name}", given.stages[name]]
        if added := given.adapters.get(name):
            words += [f"--{name}-adapters", *added]
    if order.stages < len(STAGES):
        words += [f"--{STAGES[order.stages]}", "none"]
    if given.weights:
        words += ["--weights", ",".join(given.weights[: order.stages])]
    for flag, field in (("--steps", "steps"), ("--guidance", "guidance_scale")):
        words += _per_stage(flag, getattr(order, field), [known[field] for known in defaults])
    for flag, value in (("--aspect", order.aspect), ("--strength", order.strength)):
        words += [] if value is None else [flag, str(value)]
    words += ["--image", file_of("image")] if order.image else []
    words += ["--mask", file_of("mask")] if order.mask else []
    return shlex.join(words + _shown(order, given))


def _shown(order: Order, given: Given) -> list[str]:
    if not order.shown:
        return []
    own = [word for x in _OWN_FLAGS if x in order.shown for word in (f"--{x}", file_of(x))]
    others = [f"{name}={file_of(name)}" for name in order.shown if name not in _OWN_FLAGS]
    palette = ["--palette", given.palette] if given.palette else []
    return own + (["--maps", *others] if others else []) + palette


def _per_stage(flag: str, chosen: Sequence[Any], defaults: Sequence[Any]) -> list[str]:
    if all(value is None for value in chosen):
        return []
    values = [own if own is not None else known for own, known in zip(chosen, defaults)]  # noqa: B905
    return [f"{flag}={','.join(map(str, values))}"]
