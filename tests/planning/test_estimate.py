"""Memory by arithmetic: the state exactly, activations by a model with known answers."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import pytest
import tiny
from scripts import ROOT, call, refused, train, verbs

from imagen_jax.costs.liveness import peak_bytes
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.planning.estimate import estimate
from imagen_jax.training.trainer import Trainer

X, W = jnp.ones((64, 32)), jnp.ones((32, 32))
SIZE = X.size * 4
TRAINING_STEPS = [
    report
    for path in sorted((ROOT / "docs" / "pods").glob("*.json"))
    for report in json.loads(path.read_text())["reports"]
    if report["what"] == "training step"
]


def peak(function, *arguments, weights=0):
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    is_weight = [index < weights for index in range(len(jaxpr.invars))]
    return peak_bytes(jaxpr, is_weight, [False] * len(jaxpr.outvars))


def test_a_chain_holds_two_values_and_elementwise_ones_none():
    """The one that is read and the one that is made; beside them one whole weight."""

    def chain(w, x):
        for _ in range(5):
            x = jax.nn.relu(x @ w) * 2 + 1
        return x

    assert peak(chain, W, X, weights=1) == 2 * SIZE + W.size * 4


def test_a_sum_of_stored_values_is_stored_itself():
    """A residual stream is one value, not all that were added to it."""

    def stream(w, x):
        x = x @ w
        for _ in range(5):
            x = x + x @ w
        return x @ w

    assert peak(stream, W, X, weights=1) <= 3 * SIZE + W.size * 4


def loss(ws, x, checkpoint):
    layer = lambda x, w: (jnp.tanh(x @ w @ w @ w), None)  # noqa: E731
    return jnp.sum(jax.lax.scan(jax.checkpoint(layer) if checkpoint else layer, x, ws)[0])


@pytest.mark.parametrize("layers", [8, 32])
def test_a_backward_pass_keeps_a_value_a_product_and_remat_one_a_layer(layers):
    ws = jnp.ones((layers, 32, 32))
    kept = {}
    for checkpoint in (False, True):
        gradient = jax.value_and_grad(lambda ws, x, c=checkpoint: loss(ws, x, c))
        jaxpr = jax.make_jaxpr(gradient)(ws, X).jaxpr
        kept[checkpoint] = peak_bytes(jaxpr, [True, False], [False, True])
    assert layers * SIZE <= kept[True] < (layers + 8) * SIZE
    assert 3 * layers * SIZE <= kept[False] < (5 * layers + 8) * SIZE


def test_what_a_scan_stacks_is_there_from_the_beginning():
    def stacks_late(w, x):
        x = jnp.concatenate([x @ w] * 8) @ w  # Eight times as much, and gone before the scan.
        return jax.lax.scan(lambda x, _: (x @ w, x @ w), x[:64], None, length=8)

    assert peak(stacks_late, W, X, weights=1) >= (8 + 8 + 8) * SIZE


def test_of_what_depends_on_the_platform_only_the_default_takes_room():
    wide = lambda x: jnp.concatenate([x @ W] * 8)[:64] @ W  # noqa: E731
    choose = lambda x: jax.lax.platform_dependent(x, cpu=wide, default=lambda x: x + 1)  # noqa: E731
    gradient = jax.grad(lambda x, f: jnp.sum(f(jnp.tanh(x @ W))), argnums=0)
    default = peak(lambda x: gradient(x, lambda x: x + 1), X)
    assert peak(lambda x: gradient(x, choose), X) == default
    assert peak(lambda x: gradient(x, wide), X) > default + 7 * SIZE


@functools.cache
def estimated(name, chips):
    """A config's batch size and bytes; some rows differ only in the kind of their chips."""
    config = train.load_config(name)
    return config.training.batch_size, estimate(config, chips).total


@pytest.mark.slow
@pytest.mark.parametrize("report", TRAINING_STEPS, ids=lambda r: f"{r['config']} {r['topology']}")
def test_it_agrees_with_the_tpu_compiler(report):
    """Within 15% of what is in use at the peak, for every training step of docs/pods.md."""
    batch_size, found = estimated(report["config"], report["chips"])
    assert batch_size == report["batch_size"]
    assert abs(found / report["memory"]["peak"] - 1) < 0.15


@pytest.mark.slow
def test_the_state_is_counted_as_it_lies():
    config = tiny.stage()
    for devices in (1, 4, 8):
        mesh = make_mesh(config.mesh, jax.devices()[:devices])
        state = Trainer(config, mesh).abstract_state
        shard = lambda tree: sum(  # noqa: E731
            jax.tree.leaves(
                jax.tree.map(
                    lambda x: x.dtype.itemsize * jnp.zeros(x.sharding.shard_shape(x.shape)).size,
                    tree,
                )
            )
        )
        found = estimate(config, devices)
        assert found.parameters == found.ema == found.gradients == shard(state.params)
        assert found.optimizer == shard(state.opt_state)


@pytest.mark.slow
def test_activations_follow_the_pictures_of_one_chip():
    size = lambda chips, **training: estimate(  # noqa: E731
        tiny.stage(training={"batch_size": 64, **training}), chips
    )
    one, two, parts = size(1), size(2), size(1, accumulation_steps=2)
    assert 1.9 < one.activations / two.activations <= 2.1
    assert parts.activations == two.activations
    assert parts.gradients == 2 * one.gradients
    assert one.batch == 2 * two.batch == 64 * (16 * 16 * 3 + 8 * 4 + 8 + 4)


@pytest.mark.slow
def test_the_verb_prints_every_part_and_refuses_what_it_cannot_use(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path[:])  # Reading a config file adds to it.
    result = call(verbs, "estimate", ROOT / "configs" / "tiny_64.py", "--chips", "4")
    assert (result.code, result.err) == (0, "")
    for word in ("tiny_64", "4 chips", "parameters", "activations", "total"):
        assert word in result.out
    config = [ROOT / "configs" / "tiny_64.py", "--chips"]
    refused(call(verbs, "estimate", *config, "0"), "--chips is 0", "at least 1")
    refused(call(verbs, "estimate", *config, "5"), "32 pictures", "5 devices")
    assert call(verbs, "estimate", "tiny_64", "--chips", "4").out == result.out
    refused(call(verbs, "estimate", "tiny_46", "--chips", "4"), "tiny_46", "tiny_64")
    (tmp_path / "other.py").write_text("")
    refused(
        call(verbs, "estimate", tmp_path / "other.py", "--chips", "1"), "no function get_config"
    )


@pytest.mark.slow
def test_a_frozen_encoder_lies_in_the_dtype_of_its_computation():
    exact, half = (
        estimate(tiny.stage(text_encoder={"train": False, "t5": {"dtype": dtype}}), 1).frozen
        for dtype in ("float32", "bfloat16")
    )
    assert exact == 2 * half > 0
