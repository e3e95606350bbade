"""What a network is told beside z, as one pytree: dropped and stacked here and nowhere else."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from imagen_jax.arrays import NullText, TextEmbeddings, TextMask, Traced

NO_CLASS = -1
"""The label of a picture without one: the network has an embedding for it too."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a network is told beside z; the first axis of every array counts pictures.

    What a stage is not told is None, or has no entry.

    Attributes:
        text: embeddings, float32 [batch, length, text_width].
        mask: bool [batch, length], True where a token is real.
        label: int32 [batch], the number of a class or `NO_CLASS`.
        pictures: name -> [batch, height, width, channels], each of its own size: uint8 as they are
            stored, and float in [-1, 1] as a network reads them.
        numbers: name -> float32 [batch].
        shown: name of a picture -> bool [batch], whether it is there; what has no entry is.
    """

    text: Traced = None
    mask: Traced = None
    label: Traced = None
    pictures: dict[str, Traced] = dataclasses.field(default_factory=dict)
    numbers: dict[str, Traced] = dataclasses.field(default_factory=dict)
    shown: dict[str, Traced] = dataclasses.field(default_factory=dict)


def drop(
    conditions: Conditions, where: Bool[Array, " batch"], null: NullText | None = None
) -> Conditions:
    """The conditions with the null text and no class where `where` is True.

    Pictures and numbers stay: guidance leads away from what has no text, and not from what has no
    low-resolution picture.

    Args:
        null: as `drop_text` takes it.
    """
    text, mask, label = conditions.text, conditions.mask, conditions.label
    if text is not None:
        text, mask = drop_text(text, mask, where, null)
    if label is not None:
        label = jnp.where(where, NO_CLASS, label)
    return dataclasses.replace(conditions, text=text, mask=mask, label=label)


def hide(conditions: Conditions, where: Mapping[str, Bool[Array, " batch"]]) -> Conditions:
    """The conditions without the pictures named, where those are True."""
    hidden = {name: ~x & conditions.shown.get(name, True) for name, x in where.items()}
    return dataclasses.replace(conditions, shown=conditions.shown | hidden)


def stacked(
    conditions: Conditions,
    null: NullText | None = None,
    positive: NullText | None = None,
    *,
    guided: bool,
    hidden: Sequence[str] = (),
) -> Conditions:
    """The conditions, then the same with another text, then the same without text and class, then
    the last but for the positive text without some pictures too.

    Args:
        null: as `drop_text` takes it.
        positive: embeddings and mask of the other text; None leaves the second part out.
        guided: False leaves the part without text and class out.
        hidden: names of the pictures that the last part has not; none leaves that out.
    """
    if positive is None and not guided and not hidden:  # Then there may be no condition at all.
        return conditions
    every = jnp.ones(len(jax.tree.leaves(conditions)[0]), bool)
    if hidden:  # All parts say which pictures are there.
        conditions = hide(conditions, dict.fromkeys(hidden, ~every))
    parts = [conditions]
    if positive is not None:
        text, mask = drop_text(conditions.text, conditions.mask, every, positive)
        parts.append(dataclasses.replace(conditions, text=text, mask=mask))
    if guided:
        parts.append(drop(conditions, every, null))
    if hidden:
        parts.append(hide(parts[-1] if guided else conditions, dict.fromkeys(hidden, every)))
    return jax.tree.map(_concatenated, *parts)


def _concatenated(*parts: jax.Array) -> jax.Array:
    return jnp.concatenate(parts)


def drop_text(
    text: TextEmbeddings, mask: TextMask, drop: jax.Array, null: NullText | None = None
) -> tuple[TextEmbeddings, TextMask]:
    """The null text where `drop` (batch,) is True: embeddings zeroed (paper, section 4.1).

    Of the null text one (zero) token stays visible, so that the unconditional prediction
    depends neither on the caption's length nor on the padding; the paper is silent here.
    `null`, if given, is taken in its place: the embedded empty caption.
    """
    null_text, null_mask = (0.0, jnp.arange(mask.shape[1])[None] == 0) if null is None else null
    return (
        jnp.where(drop[:, None, None], null_text, text),
        jnp.where(drop[:, None], null_mask, mask),
    )
