"""Writes `tests/golden/deepfloyd_if_shapes.json.xz`: the tensors of the published sizes.

    python tests/golden/make_deepfloyd_shapes.py

Needs torch and diffusers, and no weights: diffusers builds each network without memory. Of each
size the file holds `config`, what its `unet/config.json` says, and `tensors`, name to shape. The
published checkpoints are gated; the sizes here are those of IF-I-XL and IF-II-L as published,
and of M and L as their parameter counts on the model cards allow.
"""

import json
import lzma
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

FILE = Path(__file__).parent / "deepfloyd_if_shapes.json.xz"
RESNET, ATTENTION = ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D")
SHARED = dict(
    act_fn="gelu",
    addition_embed_type="text",
    addition_embed_type_num_heads=64,
    attention_head_dim=64,
    cross_attention_norm="group_norm",
    encoder_hid_dim=4096,
    mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    out_channels=6,
    resnet_time_scale_shift="scale_shift",
)
STAGE_1 = dict(
    down_block_types=(RESNET, *3 * [ATTENTION]),
    in_channels=3,
    layers_per_block=3,
    sample_size=64,
    up_block_types=(*3 * ["SimpleCrossAttnUpBlock2D"], "ResnetUpsampleBlock2D"),
)
STAGE_2 = dict(
    class_embed_type="timestep",
    down_block_types=(*3 * [RESNET], *2 * [ATTENTION]),
    in_channels=6,
    layers_per_block=[2, 2, 3, 5, 5],
    mid_block_scale_factor=1.4142135623730951,
    resnet_out_scale_factor=1.4142135623730951,
    resnet_skip_time_act=True,
    sample_size=256,
    time_embedding_act_fn="gelu",
    up_block_types=(*2 * ["SimpleCrossAttnUpBlock2D"], *3 * ["ResnetUpsampleBlock2D"]),
)
SIZES = {
    "IF-I-M": (STAGE_1, 192, (1, 2, 3, 4), 768),
    "IF-I-L": (STAGE_1, 320, (1, 2, 3, 4), 1280),
    "IF-I-XL": (STAGE_1, 704, (1, 2, 3, 4), 2816),
    "IF-II-M": (STAGE_2, 96, (1, 2, 4, 6, 8), 768),
    "IF-II-L": (STAGE_2, 160, (1, 2, 4, 6, 8), 1280),
}


def tensors(stage: dict, width: int, multipliers: tuple[int, ...], text: int) -> dict:
    """Config and shapes of one size."""
    sizes = {
        "block_out_channels": tuple(width * m for m in multipliers), "cross_attention_dim": text
    }  # fmt: skip
    if stage is STAGE_2:  # DeepFloyd's own code has the last width in both stages.
        sizes["time_embedding_dim"] = width * multipliers[-1]
    with torch.device("meta"):
        model = UNet2DConditionModel(**SHARED, **stage, **sizes)
    config = {"_class_name": "UNet2DConditionModel", **model.config}
    config = {name: value for name, value in config.items() if not name.startswith("_name")}
    return {"config": config, "tensors": {n: list(x.shape) for n, x in model.state_dict().items()}}


def main() -> None:
    """Writes the file; the same one every time."""
    content = {name: tensors(*size) for name, size in SIZES.items()}
    FILE.write_bytes(lzma.compress(json.dumps(content).encode()))


if __name__ == "__main__":
    main()
