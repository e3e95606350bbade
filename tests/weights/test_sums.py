"""Files of weights that something happened to since they were written: noticed, by name."""

import json
import struct
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny
from scripts import ROOT, call, refused, sample, tree, verbs

from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.directory import claim_directory
from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.networks import abstract_frozen_encoder
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.shipped import STAGES, shipped_stage
from imagen_jax.stored.stages import open_stage
from imagen_jax.weights import tensors
from imagen_jax.weights.stage_file import load_stage_file, save_stage_file
from imagen_jax.weights.stored import open_file
from imagen_jax.weights.sums import checksum, read_sums, with_sums
from imagen_jax.weights.t5_names import convert_t5, open_t5, read_t5_config

GOLDEN = ROOT / "tests" / "golden" / "t5"
CONFIG = tiny.stage()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "x.safetensors"
    save_stage_file(path, CONFIG, tiny.random_params(CONFIG), "bfloat16")
    return path


def header_size(content):
    return 8 + struct.unpack("<Q", content[:8])[0]


def flipped(content, place, bit):
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


@pytest.mark.slow
def test_a_flipped_bit_in_any_tensor_is_noticed_and_the_tensor_is_named(exported, tmp_path):
    content, path = exported.read_bytes(), tmp_path / "x.safetensors"
    start = header_size(content)
    table = json.loads(content[8:start])
    del table["__metadata__"]
    for number, (name, entry) in enumerate(table.items()):
        place = start + (sum(entry["data_offsets"]) // 2)
        path.write_bytes(flipped(content, place, number % 8))
        held = open_file(path)[1]
        for other, tensor in held.items():
            if other != name:
                tensor.check()
        with pytest.raises(UsageError, match=f"x.safetensors: {name} is damaged"):
            held[name].whole("float32")


def contents(path):
    about, held = open_file(path)
    return about, {name: tensor.whole("float32").tobytes() for name, tensor in held.items()}


def test_a_flipped_bit_in_the_header_is_noticed_or_changes_nothing(exported, tmp_path):
    content, path = exported.read_bytes(), tmp_path / "x.safetensors"
    wanted, rng, noticed = contents(exported), np.random.default_rng(0), 0
    for place in rng.integers(0, header_size(content), 60).tolist():
        path.write_bytes(flipped(content, place, int(rng.integers(8))))
        try:
            assert contents(path) == wanted
        except UsageError:
            noticed += 1
    assert noticed > 40


def test_sampling_and_converting_notice_too(exported, tmp_path):
    content, path = exported.read_bytes(), tmp_path / "x.safetensors"
    path.write_bytes(flipped(content, len(content) - 3, 6))
    result = call(sample, "a", "--base", path, "--sr256", "none", "--out", tmp_path / "out")
    assert result.code == 2 and "is damaged: its bytes are not" in result.err
    convert_t5(GOLDEN, tmp_path / "t5.safetensors", "float32")
    content = (tmp_path / "t5.safetensors").read_bytes()
    (tmp_path / "t5.safetensors").write_bytes(flipped(content, len(content) - 3, 6))
    again = call(verbs, "convert", "t5", tmp_path / "t5.safetensors", tmp_path / "2.safetensors")
    refused(again, "t5.safetensors: ", " is damaged")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t5.safetensors", "x.safetensors"]


def test_files_without_sums_are_read(exported, tmp_path):
    """Those of older versions, which a header says as it did then."""
    about, path = open_file(exported)[0], tmp_path / "old.safetensors"
    assert sorted(about) == ["config", "format", "weights"]
    safetensors.numpy.save_file(safetensors.numpy.load_file(exported), path, metadata=about)
    _, old = load_stage_file(path)
    jax.tree.map(np.testing.assert_array_equal, old, load_stage_file(exported)[1])


def test_the_shipped_stages_have_sums():
    for name in STAGES:
        held = open_file(shipped_stage(name))[1]
        assert held and all(len(tensor.sum) == 8 for tensor in held.values())


def test_a_header_tells_whether_it_is_the_one_that_was_written():
    about, shapes, sums = {"a": "b"}, {"x": (2, 3), "y": ()}, {"x": "00000001", "y": "00000002"}
    written = with_sums(about, shapes, sums)
    assert read_sums(written, shapes, Path("f")) == (about, sums)
    assert read_sums(about, shapes, Path("f")) == (about, {})
    others = [(written | {"a": "c"}, shapes), (written, shapes | {"x": (3, 2)}), (written, {})]
    for changed in others:
        with pytest.raises(UsageError, match="^f is damaged: its header is not"):
            read_sums(*changed, Path("f"))
    (key,) = written.keys() - about.keys()
    for text in ("", "[]", "{}", '{"header": 1, "tensors": {"x": null, "y": 2}}', "[" * 100_000):
        with pytest.raises(UsageError, match="^f"):
            read_sums(written | {key: text}, shapes, Path("f"))


def test_a_sum_goes_on_where_another_ends():
    assert checksum(b"123456789") == "cbf43926"  # The check value of CRC-32.
    assert checksum(b"6789", checksum(b"12345")) == checksum(b"123456789")
    assert checksum(np.frombuffer(b"123456789", np.uint8)) == "cbf43926"


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_that_are_not_finite_are_neither_read_nor_written(number, dtype, tmp_path):
    params, path = {"net": {"x": np.ones((3, 4), np.float32)}}, tmp_path / "x.safetensors"
    tensors.write_tensors(path, params, dtype, {})
    held = safetensors.numpy.load_file(path)
    held["net.x"][1, 2] = number
    safetensors.numpy.save_file(held, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match=r"other.safetensors: net\.x holds numbers that are"):
        open_file(tmp_path / "other.safetensors")[1]["net.x"].whole(dtype)
    before = tree(tmp_path)
    with pytest.raises(UsageError, match=r"^net\.x holds numbers that are not finite"):
        tensors.write_tensors(path, {"net": {"x": held["net.x"]}}, dtype, {})
    assert tree(tmp_path) == before


def test_weights_that_are_not_finite_paint_nothing(exported, tmp_path):
    about, held = open_file(exported)[0], safetensors.numpy.load_file(exported)
    held["unet.conv_in.kernel"].reshape(-1)[5] = np.nan
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(held, path, metadata=about)
    arguments = ("a", "--base", path, "--sr256", "none", "--out", tmp_path / "out")
    result = call(sample, *arguments)
    assert result.code == 2 and "Traceback" not in result.err
    assert f"error: {path}: unet.conv_in.kernel holds numbers that are not finite." in result.err
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_checkpoint_whose_weights_are_not_finite_is_not_sampled_from(tmp_path):
    config, workdir = tiny.stage(), tmp_path / "run"
    claim_directory(workdir, config)
    state = tiny.state(config, 5)
    state.ema["unet"]["conv_out"]["bias"][1] = np.nan
    checkpoints = Checkpoints(workdir, keep=1)
    checkpoints.save(jax.tree.map(jnp.asarray, state), config, pictures=40)
    checkpoints.close()
    before, mesh = tree(tmp_path), make_mesh(MeshConfig())
    with pytest.raises(UsageError, match=r"checkpoints/5 cannot be used \(ema has numbers"):
        open_stage(workdir).unet.load(mesh)
    open_stage(workdir, "raw").unet.load(mesh)
    refused(
        call(verbs, "export", workdir, tmp_path / "x.safetensors"),
        "checkpoints/5 cannot be used (ema has numbers that are infinite or NaN)",
    )
    assert tree(tmp_path) == before


def test_one_process_of_many_reads_a_tensor_whole(tmp_path, monkeypatch):
    """Every process but one reads of each tensor no more than its devices hold."""
    convert_t5(GOLDEN, tmp_path / "t5.safetensors", "float32")
    config, mesh = read_t5_config(GOLDEN), make_mesh(MeshConfig(), jax.devices()[:1])
    stored, abstract = open_t5(tmp_path / "t5.safetensors", config), abstract_frozen_encoder(config)
    places = []
    monkeypatch.setattr(
        tensors, "place", lambda tensor, *_, check: places.append((check, tensor.origin))
    )
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    for process in range(3):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        tensors.place_params(stored, abstract, mesh)
    assert sorted(origin for check, origin in places if check) == sorted({x for _, x in places})
