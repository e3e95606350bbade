"""Compiling for TPUs that are not there: the exact step, what it reports, what it refuses."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from types import SimpleNamespace
from unittest import mock

import jax
import pytest
import tiny
from pods import needs_libtpu, tpu_devices, uncached
from scripts import ROOT, call, refused, sample, train

from imagen_jax.config import MeshConfig
from imagen_jax.costs import chips
from imagen_jax.costs.collectives import Traffic
from imagen_jax.data.sources import open_source
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.planning import calls, compile_only, topology
from imagen_jax.planning.options import CompileOptions
from imagen_jax.planning.tables import Memory, bound
from imagen_jax.training.loop import open_reader
from imagen_jax.training.step import abstract_batch
from imagen_jax.training.text_inputs import load_caption_reader
from imagen_jax.training.trainer import Trainer
from imagen_jax.weights.stage_file import save_stage_file

POD = ["--compile-only", "--topology", "v5e:2x2"]
FROZEN = {"train": False}


@pytest.fixture(autouse=True, scope="module")
def as_it_was():
    """The environment is the tests' own again, and compilation goes to no cache."""
    with mock.patch.dict(os.environ), uncached():
        yield


@pytest.fixture
def tiny_train(monkeypatch):
    """`train.py tiny_64`, where that config is the tests' tiny super-resolution stage."""
    config = tiny.super_resolution(text_encoder=FROZEN)
    monkeypatch.setattr(train, "load_config", lambda name: config)
    return lambda *arguments: call(train, "tiny_64", *arguments)


@pytest.mark.slow
@needs_libtpu
def test_the_training_step_is_compiled_and_reported(tiny_train, tmp_path):
    result = tiny_train(*POD, "--json", tmp_path / "deeper" / "report.json")
    assert (result.code, result.err) == (0, ""), result
    assert "at best" in result.out and "not measured" in result.out
    (report,) = json.loads((tmp_path / "deeper" / "report.json").read_text())
    config = tiny.super_resolution(text_encoder=FROZEN)
    [step] = calls.training_steps(config, make_mesh(config.mesh, tpu_devices()))
    assert report["parameters"] == {
        name: sum(x.size for x in jax.tree.leaves(step.params[name]))
        for name in ("unet", "text_encoder")
    }
    assert (report["chips"], report["batch_size"], report["unknown_loops"]) == (4, 8, 0)
    memory, trained = report["memory"], report["parameters"]["unet"] * 4
    # Parameters, EMA and two moments, whole on each chip as they are small, and given away.
    assert 4 * trained < memory["aliased"] <= memory["outputs"]
    assert memory["aliased"] < memory["arguments"] < memory["needed"]
    assert memory["needed"] + memory["free"] == memory["available"] == int(15.75 * 2**30)
    assert 0.9 < report["overhead"] < 1.5
    # Gradients of all parameters are summed over the chips.
    assert report["collectives"]["all-reduce"]["bytes"] >= trained / 2
    assert report["bound"]["seconds"] == report["bound"][report["bound"]["slowest"]] > 0


@pytest.mark.slow
@needs_libtpu
def test_a_quick_compilation_differs_in_its_code_alone(tiny_train, tmp_path):
    reports = []
    for flags in ([], ["--quick"]):
        assert tiny_train(*POD, *flags, "--json", tmp_path / "report.json").code == 0
        reports += json.loads((tmp_path / "report.json").read_text())
    exact, quick = reports
    assert not exact.pop("quick") and quick.pop("quick")
    assert quick["memory"]["code"] < exact["memory"]["code"]
    for report in reports:
        for name in ("code", "needed", "free"):
            del report["memory"][name]
        for name in ("trace_seconds", "compile_seconds"):
            del report[name]
    assert quick == exact


@needs_libtpu
def test_the_stages_of_a_cascade_are_compiled_and_reported(tmp_path):
    config = tiny.stage()
    save_stage_file(tmp_path / "x.safetensors", config, tiny.random_params(config), "float32")
    stages = ["--base", tmp_path / "x.safetensors", "--sr256", "none", "--steps", 1]
    result = call(sample, *POD, *stages, "--json", tmp_path / "report.json")
    assert (result.code, result.err) == (0, ""), result
    (report,) = json.loads((tmp_path / "report.json").read_text())
    assert (report["chips"], report["batch_size"]) == (4, 4)
    assert not (tmp_path / "out").exists()


@needs_libtpu
def test_the_text_encoders_of_a_cascade_are_compiled_on_prompts(tmp_path):
    """Two stages that read prompts in the same way are one program, of a whole batch a chip."""
    configs = {
        "base": tiny.stage(),
        "sr256": tiny.super_resolution(low_resolution=16, resolution=32),
    }
    flags = [f"--{name}={tmp_path / name}.safetensors" for name in configs]
    for name, config in configs.items():
        path = tmp_path / f"{name}.safetensors"
        save_stage_file(path, config, tiny.random_params(config), "float32")
    embed = ["--what", "embedding", "--batch-size", 2]
    result = call(sample, *POD, *flags, *embed, "--json", tmp_path / "report.json")
    assert (result.code, result.err) == (0, ""), result
    (report,) = json.loads((tmp_path / "report.json").read_text())
    assert (report["what"], report["batch_size"]) == ("text embedding", 4)
    assert list(report["parameters"]) == ["text_encoder"]


@needs_libtpu
def test_what_does_not_fit_ends_with_code_1_and_the_compilers_sentence(tiny_train):
    sizes = ["--text-encoder.t5.d-ff", 1_000_000, "--text-encoder.t5.d-model", 100_000]
    result = tiny_train(*POD, "--what", "embedding", *sizes)
    assert (result.code, result.err) == (1, "")
    assert "RESOURCE_EXHAUSTED" in result.out and "exceeds available HBM (15.75G)" in result.out
    assert "accumulation_steps" in result.out


@needs_libtpu
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*POD, "--training.batch-size", "6"], ["6 pictures", "4 devices"]),
        ([*POD, "--mesh.fsdp", "3"], ["mesh.fsdp is 3", "4 devices"]),
        ([*POD, "--num-slices", "4"], ["8 pictures", "16 devices"]),
    ],
)
def test_what_does_not_divide_is_refused(arguments, says, tiny_train):
    refused(tiny_train(*arguments), *says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--compile-only"], ["--topology is ''", "v4:4x8x8"]),
        (["--compile-only", "--topology", "v5e:3x5"], ["'v5e:3x5'", "v5e:16x16", "v6e:1x1"]),
        (["--compile-only", "--topology", "v5e:32x16"], ["'v5e:32x16'"]),
        ([*POD, "--num-slices", "0"], ["--num-slices is 0", "at least 1"]),
        (["--topology", "v5e:2x2", "--workdir", "w"], ["--compile-only, which is missing"]),
        (["--quick", "--workdir", "w"], ["--compile-only, which is missing"]),
        (["--what", "embedding", "--workdir", "w"], ["--compile-only, which is missing"]),
        ([], ["--workdir is missing"]),
    ],
)
def test_bad_flags_are_refused(arguments, says, tiny_train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tiny_train(*arguments), *says)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [".", "/", "made", "file/report.json"])
def test_a_report_that_cannot_be_written_is_refused_first(path, tiny_train, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "file").write_text("precious")
    monkeypatch.setattr(topology, "has_compiler", lambda: pytest.fail("it went on"))
    refused(tiny_train(*POD, "--json", path), f"--json is {path}", "directory")
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == ["file", "made"]


def test_what_was_compiled_before_a_stage_that_does_not_fit_is_written(tmp_path, monkeypatch):
    def compile_call(stage, *_):
        if stage.what == "large":
            raise compile_only.DoesNotFit("too large")
        return stage.what

    monkeypatch.setattr(compile_only, "slice_devices", lambda *_: [])
    monkeypatch.setattr(compile_only, "compile_call", compile_call)
    monkeypatch.setattr(compile_only, "to_text", str)
    monkeypatch.setattr(compile_only, "to_json", json.dumps)
    stages = [SimpleNamespace(what=what, name="tiny") for what in ("small", "large", "x")]
    options = CompileOptions(compile_only=True, json=tmp_path / "report.json")
    assert compile_only.run(lambda devices: stages, options) == 1
    assert json.loads(options.json.read_text()) == ["small"]


def test_without_the_compiler_it_says_how_to_get_it(tiny_train, monkeypatch):
    monkeypatch.setattr(topology, "has_compiler", lambda: False)
    refused(tiny_train(*POD), "libtpu", "pip install libtpu", '"tpu"')


@needs_libtpu
@pytest.mark.parametrize("stage", ["nowhere", "tiny_6"])
def test_sample_refuses_what_has_no_config(stage):
    refused(call(sample, *POD, "--base", stage), stage, "neither a config")


def test_flags_are_read_before_jax_starts():
    code = "import train, sample, sys; sys.exit('jax' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment).returncode == 0


def chip_count(name):
    return math.prod(int(side) for side in name.partition(":")[2].split("x"))


@needs_libtpu
@pytest.mark.parametrize(
    "name", [name for name in chips.known_topologies() if chip_count(name) <= 512]
)
def test_every_small_topology_that_is_listed_exists(name):
    assert len(topology.slice_devices(name)) == chip_count(name)


@needs_libtpu
def test_slices_are_told_apart():
    devices = topology.slice_devices("v5e:2x2", num_slices=2)
    assert [device.slice_index for device in devices] == [0] * 4 + [1] * 4


@pytest.mark.slow
@needs_libtpu
def test_the_step_is_compiled_for_several_slices(tiny_train):
    result = tiny_train(*POD, "--num-slices", "2")
    assert (result.code, result.err) == (0, ""), result
    assert "compiled for 2 x v5e:2x2 (8 chips)" in result.out


@pytest.mark.parametrize("stage", [tiny.stage, tiny.super_resolution])
@pytest.mark.parametrize("sizes", [{}, {"crop": 8}, {"sizes": ((8, 24),)}])
def test_the_abstract_batch_is_what_the_pipeline_feeds(stage, sizes, tmp_path):
    data = dataclasses.replace(tiny.folder(tmp_path / "pictures"), **sizes)
    config = stage(data=data)
    source = open_source(config.data, config.low_resolution)
    trainer = Trainer(config, make_mesh(MeshConfig()))
    read = load_caption_reader(config)
    batch = next(open_reader(trainer, source, read, first_picture=0))
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)  # noqa: E731
    assert shapes(dict(batch)) == shapes(abstract_batch(config, 8))


def test_the_step_of_every_size_is_compiled_the_largest_first():
    config = tiny.super_resolution(data={"sizes": ((8, 24), (16, 16), (24, 8))})
    steps = list(calls.training_steps(config, make_mesh(MeshConfig())))
    assert [step.what for step in steps] == [
        f"training step of {size} pixels" for size in ("16x16", "8x24", "24x8")
    ]
    for step, (height, width) in zip(steps, ((16, 16), (8, 24), (24, 8)), strict=True):
        _, _, batch, _ = step.arguments
        assert batch["image"].shape == (8, height, width, 3)
        assert batch["low_res"].shape == (8, height // 2, width // 2, 3)
    flops = [step.count_flops() for step in steps]
    assert flops[0] > flops[1] == pytest.approx(flops[2], rel=0.1)


def test_a_stage_samples_any_size():
    config, mesh = tiny.super_resolution(), make_mesh(MeshConfig(), jax.devices()[:1])
    wide = calls.sampler(config, config.sampling, 1, mesh, (32, 64))
    shapes = [x.shape for x in jax.tree.leaves(wide.arguments[2:])]
    shown, z, x0 = (shape for shape in shapes if len(shape) == 4 and shape[-1] == 3)
    assert (shown, z, x0) == ((2, 16, 32, 3), (1, 32, 64, 3), (1, 32, 64, 3))  # Guided: both.
    usual = calls.sampler(config, config.sampling, 1, mesh)
    assert wide.count_flops() > 6 * usual.count_flops()


def test_a_stage_that_samples_by_tiles_is_planned_by_tiles():
    """Which overlap, and so are more work together than the whole."""
    config, mesh = tiny.super_resolution(), make_mesh(MeshConfig(), jax.devices()[:1])
    whole = calls.sampler(config, config.sampling, 1, mesh, (64, 64))
    tiles = calls.sampler(config, config.sampling, 1, mesh, (64, 64), 16)
    assert tiles.count_flops() > 1.2 * whole.count_flops()


def test_a_batch_takes_a_call_for_each_step_that_works_twice_for_guidance():
    config, mesh = tiny.super_resolution(), make_mesh(MeshConfig(), jax.devices()[:2])

    def step(steps, batch_size, scale):
        settings = dataclasses.replace(config.sampling, num_steps=steps, guidance_scale=scale)
        return calls.sampler(config, settings, batch_size, mesh)

    one, three, guided = step(1, 1, 1.0), step(3, 2, 1.0), step(3, 3, 4.0)
    assert (one.times, three.times, guided.times) == (1, 3, 3)
    assert one.count_flops() == three.count_flops() > 0
    # Three pictures are four on two devices.
    assert guided.count_flops() == 4 * three.count_flops()


def test_the_bound_is_the_slowest_rate():
    chip = chips.CHIPS["v5e"]
    sent = {"all-gather": Traffic(count=1, bytes=8, wire_bytes=400e9)}
    found = bound(chip, 197 * 10**12, 98.5e12, 4095 * 10**8, sent)
    assert (found.compute, found.hbm, found.ici) == (1.0, 0.5, 2.0)
    assert (found.seconds, found.slowest, found.utilisation) == (2.0, "ici", 0.25)


def test_memory_adds_up():
    memory = Memory(
        arguments=10, outputs=9, aliased=8, temporaries=5, code=1, peak=12, held=2, available=20
    )
    assert (memory.needed, memory.free) == (19, 1)


@needs_libtpu
@pytest.mark.parametrize("name", chips.CHIPS)
def test_a_chip_is_known_by_what_jax_calls_it(name):
    device = topology.slice_devices(f"{name}:{chips.CHIPS[name].slices[1]}")[0]
    assert chips.chip_of_kind(device.device_kind) is chips.CHIPS[name]
