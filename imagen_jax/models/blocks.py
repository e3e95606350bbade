"""How a run of blocks is executed: what the backward pass keeps, and one scan where it can.

The memory of a U-Net's training step is what its forward pass keeps for the backward pass.
Each run of blocks chooses by `Remat`:

- `none`: all intermediate results are kept.
- `selective`: a block's input and what it marks by `keep` (its convolutions' results) are
  kept; norms, swish and attention weights are computed again, which costs next to nothing.
- `full`: a block's input is kept; its whole forward pass runs again (4/3 of the FLOPs).

With `selective` or `full`, a run of blocks of equal shapes is one `lax.scan`: the program holds
one block instead of many and compiles sooner. (A scan that keeps everything would need more
memory than no scan.)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from imagen_jax import ops
from imagen_jax.config.choices import Remat

Tree = Any
"""A pytree of arrays."""
Gather = Callable[[Tree], Tree]
"""Brings the parameters of one block together where the block runs. With parameters sharded
over devices it is a collective; it is handed in, so that models know no mesh."""

_KEPT = "kept"
_POLICIES = {
    "selective": jax.checkpoint_policies.save_only_these_names(_KEPT),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def as_they_are(parameters: Tree) -> Tree:
    """The `Gather` of parameters that every device holds whole."""
    return parameters


def whole(module: Any, gather: Gather) -> Any:
    """A module that runs outside of all blocks, with its parameters brought together."""
    definition, state = nnx.split(module)
    return nnx.merge(definition, gather(state))


def keep(x: jax.Array) -> jax.Array:
    """Marks a result that `selective` keeps for the backward pass."""
    return checkpoint_name(x, _KEPT)


def run_blocks(
    blocks: Sequence[Any],
    x: Tree,
    inputs: Sequence[Tree],
    call: Callable[[Any, Tree, Tree], Tree],
    *,
    remat: Remat = "none",
    gather: Gather = as_they_are,
) -> list[Tree]:
    """Runs blocks one after another and returns what each gave.

    Args:
        blocks: modules, or tuples of modules, of equal shapes and structure.
        x: input of the first; each block's result is the input of the next.
        inputs: what each block gets beside it, of equal shapes and structure.
        call: (block, x, input) -> x.
    """
    definition = nnx.split(blocks[0])[0]
    states = [nnx.split(block)[1] for block in blocks]

    def step(x: Tree, own: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        state, given = own
        x = call(nnx.merge(definition, gather(state)), ops.written_once(x), given)
        return x, x

    if remat == "none" or len(blocks) == 1:
        step = step if remat == "none" else jax.checkpoint(step, policy=_POLICIES[remat])
        outputs = []
        for own in zip(states, inputs, strict=True):
            x, _ = step(x, own)
            outputs.append(x)
        return outputs
    # Inside a scan the loop itself keeps XLA from merging both computations.
    step = jax.checkpoint(step, policy=_POLICIES[remat], prevent_cse=False)
    stack = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    last, outputs = jax.lax.scan(step, x, (stack(*states), stack(*inputs)))
    # The last is not read from the stack: where the others are not needed, no stack is made.
    before = range(len(blocks) - 1)
    return [*(jax.tree.map(lambda leaf, i=i: leaf[i], outputs) for i in before), last]
