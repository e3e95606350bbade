"""The benchmarks' flags; what they measure is no test's matter."""

import json
import re
import sys

import pytest
from scripts import ROOT, call, refused, tool

from imagen_jax.errors import UsageError


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repeats", "0"], ["repeats is 0", "must be positive"]),
        (["--matmul-side", "0"], ["matmul_side is 0", "must be positive"]),
        (["--repeats", "often"], ["--repeats", "'often'"]),
        (["--colour", "red"], ["--colour"]),
    ],
)
def test_flags_that_measure_nothing_are_refused(arguments, says):
    refused(call(tool("unet_speed", "benchmarks"), *arguments), *says)


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("pipeline_speed", ["--repeats", "0"], ["repeats is 0", "must be positive"]),
        ("pipeline_speed", ["--pictures", "31"], ["--pictures is 31", "at least 32"]),
        ("data_at_scale", ["--records", "0"], ["records is 0", "must be positive"]),
    ],
)
def test_flags_of_the_data_benchmarks_are_checked(script, arguments, says):
    refused(call(tool(script, "benchmarks"), *arguments), *says)


def test_the_pipeline_is_timed_beside_pillow(monkeypatch):
    """On a few small pictures; what comes out is no figure."""
    module = tool("pipeline_speed", "benchmarks")
    monkeypatch.setattr(module, "TASKS", (module.Task(32, 16, 8),))
    monkeypatch.setattr(module, "ways", lambda: {"pipeline": module.by_pipeline,
                                                 "Pillow": module.by_pillow})  # fmt: skip
    result = call(module, "--pictures", "64", "--repeats", "1")
    assert result.code == 0 and "32 -> 16, crop 8" in result.out and "1.00" in result.out


@pytest.fixture
def race(monkeypatch):
    """The benchmark against diffusers, which imports its neighbours."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return tool("diffusers_speed", "benchmarks")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repeats", "0"], ["repeats is 0", "must be positive"]),
        (["--starts", "0"], ["starts is 0", "must be positive"]),
        (["--tasks", "forward", "dance"], ["'dance'", "forward, train, sample"]),
        (["--pytorch-python", "/nowhere/python"], ["'/nowhere/python'", "No such file"]),
        (["--pytorch-python", "false"], ["'false' made no network"]),
    ],
)
def test_flags_of_the_race_are_checked(race, arguments, says):
    refused(call(race, *arguments), *says)


@pytest.mark.parametrize("turns", [0, 1])
def test_a_side_that_ends_is_named_with_its_code(race, tmp_path, turns):
    """In its first turn, or after it: before the next and where its profile is waited for."""
    turn = "np.save(input(), np.zeros(1)); print('{}', flush=True)\n"
    side = race.Side("weak", [sys.executable, "-c", f"import numpy as np\n{turns * turn}exit(3)"])
    says = pytest.raises(UsageError, match="'weak' ended with code 3")
    side.start()
    for _ in range(turns):
        side.turn(tmp_path, counts=True)
    side.process.wait()
    with says:
        side.turn(tmp_path, counts=True)
    with says:
        side.stop()


def test_a_tiny_network_trains_as_in_diffusers(race):
    """Two steps of each side, twice, whose losses are compared; what comes out is no figure."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    sizes = ["--widths", "32", "64", "--text-width", "64", "--resolution", "16"]
    turns = ["--batch-size", "4", "--repeats", "1", "--starts", "2"]
    result = call(race, "--tasks", "train", *turns, *sizes)
    assert result.code == 0, result.err
    found = json.loads(result.out.splitlines()[1])
    assert found["largest_difference"] < 1e-4 and found["ratio_of_megabytes"] > 0
    assert set(found["shares"]) == {"jax", "pytorch", "pytorch_channels_last"}
    for shares in found["shares"].values():
        assert set(shares) == {"convolutions", "matrix products", "copies", "all else"}
        assert sum(shares.values()) == pytest.approx(1, abs=3e-3)


@pytest.fixture
def features_race(monkeypatch):
    """The benchmark of the feature networks, which imports its neighbours."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return tool("features_speed", "benchmarks")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repeats", "0"], ["repeats is 0", "must be positive"]),
        (["--networks", "clip-b32", "vgg"], ["'vgg'", "clip-b32, clip-l14, dinov2-l14, inception"]),
        (["--pytorch-python", "/nowhere/python"], ["'/nowhere/python'", "No such file"]),
    ],
)
def test_flags_of_the_feature_networks_race_are_checked(features_race, arguments, says):
    refused(call(features_race, *arguments), *says)


@pytest.mark.slow
def test_inception_makes_the_features_of_pytorch_fid(features_race):
    """Which are compared; what comes out is no figure."""
    for name in ("torch", "torchvision", "pytorch_fid", "transformers"):
        pytest.importorskip(name)
    turns = ["--batch-size", "2", "--repeats", "1", "--starts", "1"]
    result = call(features_race, "--networks", "inception", *turns)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["largest_difference"] < 1e-3 and found["jax_pictures_per_second"] > 0


@pytest.mark.slow
def test_a_million_records_open_in_two_seconds_and_take_under_100_bytes_each(tmp_path):
    """By the lines of the benchmark, which writes and opens them: 9 GB and five minutes."""
    out = call(tool("data_at_scale", "benchmarks"), "--directory", tmp_path).out
    numbers = r"of 1,000,000 records in ([\d.]+) s; bytes a record: ([\d.]+) .*, ([\d.]+) in memory"
    lines = [line for line in out.splitlines() if "again" in line or "ArrayRecord, op" in line]
    assert len(lines) == 3
    for line in lines:
        seconds, on_disk, in_memory = map(float, re.search(numbers, line).groups())
        assert seconds < 2 and on_disk + in_memory < 100
