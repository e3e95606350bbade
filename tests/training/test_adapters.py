"""Adapters: trained alone, kept alone, and added to the stage that they were trained beside."""

import dataclasses
import functools
import json
import math

import fake_hub
import jax
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict
from PIL import Image
from scripts import call, sample, verbs

from imagen_jax.checkpoints.weights import load_directory
from imagen_jax.config import AdapterConfig, MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.models import low_rank
from imagen_jax.networks import ADAPTER, abstract_adapted, build_networks, init_params
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.load import load_stage
from imagen_jax.stored.adapters import open_adapter
from imagen_jax.stored.stages import load_weights, open_stage
from imagen_jax.training.adapting import account_of_adapted, of_adapter
from imagen_jax.training.loop import run
from imagen_jax.training.objective import diffusion_loss, mean_loss
from imagen_jax.weights.stage_file import save_stage_file

TARGETS = ("unet.*conv_1.kernel", "unet.middle.attention.*.kernel")
MESH = make_mesh(MeshConfig())


def config_of(stage, data, **changes):
    """A run of two steps that adapts `stage`."""
    return tiny.stage(
        text_encoder={"train": False, "source": str(stage)},
        data=data,
        training={"num_steps": 2, "sample_every": 2},
        adapter={"rank": 2, "targets": TARGETS, "base": str(stage)},
        **changes,
    )


def save_stage(path, seed=0):
    save_stage_file(path, tiny.stage(), tiny.random_params(tiny.stage(), seed), "float32")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def stage(place):
    return save_stage(place / "stage.safetensors")


@pytest.fixture(scope="module")
def config(place, stage):
    return config_of(stage, tiny.folder(place / "data"))


@pytest.fixture(scope="module")
def workdir(place, config):
    run(config, place / "run")
    return place / "run"


@pytest.fixture(scope="module")
def exported(place, workdir):
    path = place / "adapter.safetensors"
    assert call(verbs, "export", workdir, path, "--dtype", "float32").code == 0
    return path


def unet_of(stage):
    return jax.device_get(stage.unet.load(MESH))


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


@pytest.mark.slow
def test_a_run_keeps_the_factors_alone(workdir, config):
    _, kept = load_directory(workdir, MESH, "raw")
    assert set(kept) == {ADAPTER}
    factors = {path[-1] for path in flatten_dict(kept)}
    assert factors == {low_rank.DOWN, low_rank.UP}
    before = init_params(config, jax.random.split(jax.random.key(0))[1])
    moved = [np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (kept, before)), strict=True)]
    assert all(moved)


@pytest.mark.slow
def test_its_directory_is_the_stage_with_the_adapter(workdir, stage):
    before, after = (flatten_dict(unet_of(open_stage(path))) for path in (stage, workdir))
    _, kept = load_directory(workdir, MESH, "ema")
    chosen = {path[1:] for path in low_rank.kernel_paths(kept[ADAPTER])}
    assert 0 < len(chosen) < len(before)
    for path, kernel in before.items():
        assert np.array_equal(kernel, after[path]) == (path not in chosen), path


@pytest.mark.slow
def test_an_exported_adapter_is_added_by_its_weight(exported, workdir, stage):
    adapter = open_adapter(exported)
    add = lambda *weights: open_stage(stage, adapters=[(adapter, w) for w in weights])  # noqa: E731
    assert_same(unet_of(add(1.0)), unet_of(open_stage(workdir)))
    assert_same(unet_of(add(0.0)), unet_of(open_stage(stage)))
    close = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(close, unet_of(add(0.75, 0.25)), unet_of(add(1.0)))


@pytest.mark.slow
def test_a_merged_stage_is_one_file(workdir, place):
    path = place / "merged.safetensors"
    assert call(verbs, "export", workdir, path, "--dtype", "float32", "--merged").code == 0
    merged = open_stage(path)
    assert merged.config == dataclasses.replace(
        tiny.stage(), data=merged.config.data, text_encoder=merged.config.text_encoder
    )
    assert_same(unet_of(merged), unet_of(open_stage(workdir)))


@pytest.mark.slow
def test_an_adapter_of_another_stage_is_refused(exported, place):
    other = save_stage(place / "other.safetensors", seed=1)
    with pytest.raises(UsageError, match="is an adapter of another stage than"):
        open_stage(other, adapters=[(open_adapter(exported), 1.0)])


@pytest.mark.slow
def test_a_run_does_not_go_on_beside_another_stage(workdir, config, place):
    other = save_stage(place / "third.safetensors", seed=2)
    changed = tiny.replace(config, adapter={"base": str(other)})
    with pytest.raises(UsageError, match="trained beside other weights"):
        run(tiny.replace(changed, training={"num_steps": 3}), workdir)


@pytest.mark.slow
def test_a_stage_that_was_moved_is_found_by_its_new_path(workdir, config, stage, place):
    moved = place / "moved.safetensors"
    moved.write_bytes(stage.read_bytes())
    run(tiny.replace(config, adapter={"base": str(moved)}), workdir)


def test_what_is_no_adapter_is_one_sentence(stage, place):
    with pytest.raises(UsageError, match="is not an adapter: its header says"):
        open_adapter(stage)
    with pytest.raises(UsageError, match="neither a training directory nor an exported adapter"):
        open_adapter(place / "nowhere.safetensors")


@pytest.mark.slow
def test_what_is_no_stage_is_one_sentence(exported):
    with pytest.raises(UsageError, match="is an adapter"):
        open_stage(exported)
    with pytest.raises(UsageError, match="is an adapter"):
        load_weights(exported)


def test_an_encoder_can_be_adapted(config):
    config = tiny.replace(config, adapter={"targets": ("text_encoder.*",)})
    assert set(init_params(config, jax.random.key(0))[ADAPTER]) == {"text_encoder"}


@pytest.mark.slow
def test_the_gradient_reaches_the_adapter_as_it_reaches_the_kernels(config):
    """dL/dB = s A^T dL/dW, of a kernel that is a matrix."""
    config = tiny.replace(config, adapter={"targets": ("unet.middle.attention.out.kernel",)})
    whole = tiny.random_params(tiny.stage())
    params = init_params(config, jax.random.key(0))
    params = tiny_up(params)
    batch, keys = tiny.batch(config), jax.random.split(jax.random.key(1), 8)
    of = (config, build_networks(config))
    adapted = jax.grad(functools.partial(mean_loss, of_adapter(diffusion_loss), *of))
    path = ("middle", "attention", "out", "kernel")
    factors = flatten_dict(params[ADAPTER]["unet"])
    down, up = factors[*path, "down"], factors[*path, "up"]
    got = flatten_dict(jax.jit(adapted)(params, whole, batch, keys)[ADAPTER]["unet"])

    merged = {"unet": low_rank.merge(whole["unet"], params[ADAPTER]["unet"], 1.0)}
    plain = jax.grad(functools.partial(mean_loss, diffusion_loss, *of))
    frozen = {"text_encoder": whole["text_encoder"]}
    kernel = flatten_dict(jax.jit(plain)(merged, frozen, batch, keys)["unet"])[path]
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6)
    close(got[*path, "up"], down.T @ kernel)
    close(got[*path, "down"], kernel @ up.T)


def tiny_up(params):
    """A second factor that is not zero, so that gradients reach the first."""
    draw = np.random.default_rng(5).normal
    return jax.tree_util.tree_map_with_path(
        lambda path, x: draw(size=x.shape).astype(np.float32) if path[-1].key == "up" else x,
        params,
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"adapter": {"rank": -1}}, "rank is -1"),
        ({"adapter": {"alpha": 0.0}}, "alpha is 0.0"),
        ({"adapter": {"targets": ()}}, "targets is empty"),
        ({"adapter": {"base": ""}}, "adapter.base is empty"),
        ({"text_encoder": {"train": True, "source": ""}}, "text_encoder.train is on"),
        (
            {"adapter": {"targets": ("text_encoder.*",)}, "data": {"embeddings": "somewhere"}},
            "data.embeddings is 'somewhere'",
        ),
    ],
)
def test_a_config_that_cannot_be_trained_is_one_sentence(config, changes, says):
    with pytest.raises(UsageError, match=says):
        tiny.replace(config, **changes)


def test_a_run_that_starts_from_a_stage_is_none_of_an_adapter(config, stage, place):
    with pytest.raises(UsageError, match="an adapter begins anew"):
        run(config, place / "new", stage)


def test_the_scale_is_alpha_by_rank():
    assert AdapterConfig(rank=4, base="x").scale == 1.0
    assert AdapterConfig(rank=4, alpha=8.0, base="x").scale == 2.0


def test_adapted_networks_are_those_that_a_pattern_may_choose(config):
    assert set(abstract_adapted(config)) == {"unet"}


@pytest.mark.slow
def test_a_picture_is_painted_with_adapters_by_flag(exported, stage, workdir, place):
    """With weight 1 a file paints what its directory paints; with 0, what the stage paints."""
    none = ("--sr256", "none", "--steps", "1", "--seed", "3")
    paint = lambda *flags: call(sample, "a toy", *none, *flags)  # noqa: E731
    by = {
        "run": ("--base", workdir),
        "file": ("--base", stage, "--base-adapters", exported),
        "nothing": ("--base", stage, "--base-adapters", f"{exported}:0"),
        "stage": ("--base", stage),
    }
    pictures = {}
    for name, flags in by.items():
        out = place / f"out_{name}"
        assert paint(*flags, "--out", out).code == 0
        pictures[name] = np.asarray(Image.open(out / "00-a-toy-0-16.png"))
    np.testing.assert_array_equal(pictures["run"], pictures["file"])
    np.testing.assert_array_equal(pictures["nothing"], pictures["stage"])
    (told,) = json.loads((place / "out_file" / "manifest.json").read_text())["stages"]
    assert told["adapters"] == [[exported.name, 1.0]]


def test_each_stage_gets_its_own_adapters(monkeypatch):
    monkeypatch.setattr("imagen_jax.stored.adapters.open_adapter", lambda path: path.name)
    monkeypatch.setattr("imagen_jax.stored.stages.open_stage", lambda path, *_, **told: told)
    given = ("--base-adapters", "a", "b:0.5", "--sr256-adapters", "c:2", "--sr1024-adapters", "d")
    stages, _ = sample.open_stages(sample.parse(["a toy", *given]).stages)
    assert [told["adapters"] for told in stages] == [
        [("a", 1.0), ("b", 0.5)], [("c", 2.0)], [("d", 1.0)],
    ]  # fmt: skip


@pytest.mark.slow
def test_python_takes_paths_and_weights(exported, stage):
    for weight in (math.nan, -math.inf):
        with pytest.raises(UsageError, match=r"zibo.* must be a finite number"):
            load_stage(stage, adapters=[("zibo.safetensors", weight)])
    one = load_stage(stage, adapters=[exported])
    other = load_stage(str(stage), adapters=[(str(exported), 1.0)])
    assert_same(unet_of(one), unet_of(other))


def test_a_stage_without_an_adapter_is_not_merged(stage, tmp_path):
    refused = call(verbs, "export", stage, tmp_path / "out.safetensors", "--merged")
    assert refused.code == 2 and f"--merged adds an adapter to its stage; {stage}" in refused.err


@pytest.mark.slow
def test_the_page_paints_with_adapters(exported, stage, monkeypatch):
    served = []
    monkeypatch.setattr("imagen_jax.serve.run.serve", lambda *of, **_: served.append(of))
    flags = ("--base", stage, "--base-adapters", f"{exported}:0.5", "--sr256", "none")
    assert call(verbs, "serve", *flags).code == 0
    ((cascade, given, *_),) = served
    assert cascade.stages[0].stored.adapters == ((exported, 0.5),)
    assert given.adapters == {"base": (f"{exported}:0.5",)}


@pytest.mark.slow
def test_both_may_be_on_the_hub(exported, stage, monkeypatch, tmp_path):
    near = load_stage(stage, adapters=[exported])
    with fake_hub.running(monkeypatch, tmp_path) as hub:
        hub.add("me/toys", {"stage.safetensors": stage.read_bytes()})
        hub.add("me/zibo", {"zibo.safetensors": exported.read_bytes()})
        far = load_stage("hf://me/toys", adapters=["hf://me/zibo"])
        names = ("--base", "hf://me/toys", "--base-adapters", "hf://me/zibo:0.5", "--sr256", "none")
        assert call(sample, "a toy", *names, "--steps", "1", "--out", tmp_path / "out").code == 0
    assert_same(unet_of(near), unet_of(far))
    (told,) = json.loads((tmp_path / "out" / "manifest.json").read_text())["stages"]
    assert told["adapters"] == [["zibo.safetensors", 0.5]]


def test_a_base_on_the_hub_is_trained_beside(config, stage, monkeypatch, tmp_path):
    there = dataclasses.replace(config.adapter, base="hf://me/toys")
    with fake_hub.running(monkeypatch, tmp_path / "cache") as hub:
        hub.add("me/toys", {"stage.safetensors": stage.read_bytes()})
        beside = account_of_adapted(dataclasses.replace(config, adapter=there), tmp_path)
    assert set(beside) == {"unet"}


@pytest.mark.parametrize(
    ("of_base", "says"),
    [
        ({"diffusion": {"prediction": "v"}}, "has diffusion.prediction 'v'; this config has 'eps'"),
        ({"diffusion": {"schedule": "linear"}}, "has diffusion.schedule 'linear'; this config has"),
        ({"text_encoder": {"null": "empty"}}, "has text_encoder.null 'empty'; this config has"),
        (
            {"conditions": {"numbers": ("side",)}},
            r"has conditions.numbers \('side',\); this config",
        ),
    ],
)
def test_a_base_that_predicts_or_sees_something_else_is_refused(of_base, says, tmp_path):
    """Whose adapter would be trained for one network and used by another."""
    base = tiny.stage(**of_base)
    path = tmp_path / "base.safetensors"
    save_stage_file(path, base, tiny.random_params(base), "float32")
    with pytest.raises(UsageError, match=f"adapter.base {path} {says}"):
        account_of_adapted(config_of(path, tiny.folder(tmp_path / "data")), tmp_path / "run")


def test_patterns_of_anything_ask_for_no_encoder_where_there_is_none():
    config = tiny.stage(conditions={"text": False}, text_encoder={"train": False})
    config = tiny.replace(config, adapter={"rank": 2, "base": "x", "targets": ("*kernel",)})
    assert set(abstract_adapted(config)) == {"unet"}
