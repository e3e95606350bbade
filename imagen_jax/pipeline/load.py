"""Stages and cascades to hold, from where they are kept."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import get_args

from jax.sharding import Mesh

from imagen_jax.config.choices import Weights
from imagen_jax.errors import UsageError
from imagen_jax.pipeline import painting
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.memory import Keep
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.hub import stage_path
from imagen_jax.stored.adapters import open_adapter
from imagen_jax.stored.stages import StoredStage, open_stage

Place = AnyPath | str


def load_stage(
    path: Place,
    weights: Weights | None = None,
    *,
    adapters: Sequence[Place | tuple[Place, float]] = (),
) -> StoredStage:
    """A trained stage: its config and where its weights are, which are not read yet.

    Args:
        path: a training directory or an exported file; or a stage on Hugging Face's hub, such as
            hf://owner/name, which is fetched.
        weights: None takes the EMA of a training directory, and what a file holds.
        adapters: training directories or files of adapters that are added to it, each with a
            weight if it is not 1.

    Raises:
        UsageError: there is no stage, it has no text encoder that fits, or an adapter is one of
            another stage or has a weight that is not finite.
    """
    if weights not in (None, *get_args(Weights)):
        raise UsageError(f"weights is {weights!r}; it must be {' or '.join(get_args(Weights))}.")
    pairs = [adapter if isinstance(adapter, tuple) else (adapter, 1.0) for adapter in adapters]
    for pair in pairs:
        if len(pair) != 2:
            raise UsageError(f"An adapter is {pair!r}; it must be a path, or one with a weight.")
    for place, weight in pairs:
        if not isinstance(weight, Real) or not math.isfinite(weight):
            raise UsageError(f"The weight of {place} is {weight!r}; it must be a finite number.")
    added = [(open_adapter(stage_path(str(place))), weight) for place, weight in pairs]
    return open_stage(stage_path(str(path)), weights, adapters=added)


def load_cascade(
    base: Place | StoredStage | None = None,
    sr256: Place | StoredStage | None = None,
    sr1024: Place | StoredStage | None = None,
    *,
    keep: Keep | None = None,
    mesh: Mesh | None = None,
) -> Cascade:
    """A cascade of training directories, exported files or what `load_stage` gave; without any, the
    shipped one.

    A cascade ends before the first stage that is not given. Without a base it begins with a
    super-resolution stage, and each call brings the picture that this enlarges.

    Args:
        keep, mesh: as `Cascade` takes them.

    Raises:
        UsageError: a stage cannot be read or does not take what the one before paints.
    """
    paths = (base, sr256, sr1024)
    if all(path is None for path in paths):
        paths = painting.shipped_stages()
    if base is not None and sr1024 is not None and sr256 is None:
        raise UsageError("A cascade has no gaps: a stage is given without the one before it.")
    given = [path for path in paths if path is not None]
    stages = [path if isinstance(path, StoredStage) else load_stage(path) for path in given]
    return Cascade(stages, keep=keep, mesh=mesh)
