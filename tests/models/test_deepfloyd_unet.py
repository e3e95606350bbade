"""The U-Net with DeepFloyd IF's fields, against what diffusers computes with the same weights."""

import importlib.util

import numpy as np
import pytest
import safetensors.numpy
from deepfloyd_networks import GOLDEN, build, run

STAGES = ("stage_1", "stage_2")


def outputs(directory, arrays):
    """`run` on inputs as diffusers has them."""
    definition, params = build(directory)
    arrays = {name: np.asarray(x) for name, x in arrays.items()}
    aug_step = arrays.get("class_labels")
    return run(
        definition, params, arrays["sample"].transpose(0, 2, 3, 1),
        arrays["timestep"].astype(np.float32), arrays["encoder_hidden_states"],
        None if aug_step is None else aug_step.astype(np.float32),
    )  # fmt: skip


@pytest.fixture(scope="module", params=STAGES)
def golden(request):
    """(what diffusers gave, what we give) of a stage."""
    stored = safetensors.numpy.load_file(GOLDEN / "expected.safetensors")
    prefix = f"{request.param}.network."
    arrays = {name.removeprefix(prefix): x for name, x in stored.items() if prefix in name}
    return arrays, outputs(GOLDEN / request.param / "unet", arrays)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "name", "tolerance"),
    [(0, "output", 2e-5), (1, "projected", 1e-5), (2, "pooled", 1e-5)],
)
def test_equals_diffusers_golden(golden, index, name, tolerance):
    expected, ours = golden
    assert np.abs(expected[name]).max() > 0.1
    np.testing.assert_allclose(ours[index], expected[name], rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def script():
    """The script that makes the golden files, where diffusers is installed."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    path = GOLDEN.with_name("make_deepfloyd_golden.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LIVE = {
    "STAGE_1": {"block_out_channels": (8, 24, 24, 48), "layers_per_block": 1, "sample_size": 16},
    "STAGE_2": {"attention_head_dim": 4, "addition_embed_type_num_heads": 8,
                "norm_num_groups": 4, "cross_attention_dim": 32},
}  # fmt: skip


@pytest.mark.parametrize("stage", LIVE)
def test_equals_diffusers_on_other_sizes(script, stage, tmp_path):
    script.torch.manual_seed(7)
    model = script.unet(**{**getattr(script, stage), **LIVE[stage]})
    model.save_pretrained(tmp_path)
    arrays = script.network(model)
    output, projected, pooled = outputs(tmp_path, arrays)
    np.testing.assert_allclose(output, arrays["output"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(projected, arrays["projected"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pooled, arrays["pooled"], rtol=0, atol=1e-5)
