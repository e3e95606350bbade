"""The PyTorch side of diffusers_speed.py, which starts it; eager, as diffusers comes.

    python benchmarks/diffusers_side.py DIRECTORY forward|train|sample DTYPE [channels_last]
    python benchmarks/diffusers_side.py DIRECTORY make TEXT_WIDTH SIDE WIDTH...

DTYPE is what operations compute in: the weights are float32, and bfloat16 is that of autocast.
`make` writes the network into DIRECTORY/unet and ends.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import turns
from diffusers import DDIMScheduler, UNet2DConditionModel

_KINDS = {
    "convolutions": "conv",
    "matrix products": "mm|scaled_dot_product|flash",
    "copies": "copy|cat$|clone",
    "all else": "",
}
"""What the names of operations have in common; the first that fits counts."""
_PLAIN, _ATTENDING = "Resnet{}sampleBlock2D", "SimpleCrossAttn{}Block2D"


def make(directory: Path, widths: list[int], text_width: int, side: int) -> None:
    """A random U-Net in the shape of DeepFloyd IF's stage I."""
    torch.manual_seed(0)
    levels = len(widths)
    UNet2DConditionModel(
        act_fn="gelu", addition_embed_type="text", addition_embed_type_num_heads=text_width // 64,
        attention_head_dim=64, block_out_channels=widths, cross_attention_dim=256,
        cross_attention_norm="group_norm", encoder_hid_dim=text_width, in_channels=3,
        down_block_types=[_PLAIN.format("Down"), *(levels - 1) * [_ATTENDING.format("Down")]],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", norm_num_groups=32, out_channels=6,
        resnet_time_scale_shift="scale_shift", sample_size=side,
        up_block_types=[*(levels - 1) * [_ATTENDING.format("Up")], _PLAIN.format("Up")],
    ).save_pretrained(directory / "unet")  # fmt: skip


def forward(unet: UNet2DConditionModel, given: dict[str, torch.Tensor]) -> Callable:
    def run() -> torch.Tensor:
        with torch.no_grad():
            return unet(given["z"], given["step"], given["text"]).sample

    return run


def train(unet: UNet2DConditionModel, given: dict[str, torch.Tensor]) -> Callable:
    unet.train()
    optimizer = torch.optim.AdamW(
        unet.parameters(), turns.LEARNING_RATE, weight_decay=turns.WEIGHT_DECAY, fused=True
    )

    def run() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        prediction = unet(given["z"], given["step"], given["text"]).sample[:, : turns.TRAINED]
        loss = torch.nn.functional.mse_loss(prediction, given["eps"])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return run


def sample(unet: UNet2DConditionModel, given: dict[str, torch.Tensor]) -> Callable:
    """As IFPipeline guides, by DDIM, which draws no noise: the pictures can be compared."""
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", thresholding=True, sample_max_value=turns.CAP,
        dynamic_thresholding_ratio=turns.PERCENTILE / 100,
    )  # fmt: skip
    scheduler.set_timesteps(turns.STEPS)
    text = torch.cat([given["null"], given["text"]])

    def run() -> torch.Tensor:
        z = given["z"]
        with torch.no_grad():
            for step in scheduler.timesteps:
                output = unet(torch.cat([z, z]), step, text).sample[:, : turns.TRAINED]
                without, conditional = output.chunk(2)
                guided = without + turns.GUIDANCE_SCALE * (conditional - without)
                z = scheduler.step(guided, step, z, use_clipped_model_output=True).prev_sample
        return z

    return run


def shares(run: Callable[[], Any]) -> dict[str, float]:
    """Of the time of one more run, by the kind of operation; attention counts as products."""
    spent = dict.fromkeys(_KINDS, 0.0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    for event in profile.key_averages():
        spent[kind(event.key)] += event.self_cpu_time_total
    return {name: round(x / sum(spent.values()), 3) for name, x in spent.items()}


def kind(name: str) -> str:
    """Of an operation as PyTorch names it."""
    return next(one for one, pattern in _KINDS.items() if re.search(pattern, name))


def main() -> None:
    directory, task, *how = sys.argv[1:]
    if task == "make":
        return make(Path(directory), [int(x) for x in how[2:]], *map(int, how[:2]))
    dtype, *layout = how
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    order = torch.channels_last if layout else torch.contiguous_format
    unet = UNet2DConditionModel.from_pretrained(Path(directory) / "unet").to(memory_format=order)
    given = {name: torch.from_numpy(x) for name, x in np.load(f"{directory}/inputs.npz").items()}
    for name in ("z", "eps"):
        given[name] = given[name].permute(0, 3, 1, 2).contiguous(memory_format=order)
    run = {"forward": forward, "train": train, "sample": sample}[task](unet, given)

    def in_our_order() -> np.ndarray:
        # Anew each time: until it ends, it keeps the weights that it has rounded.
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            result = run().float()
        return (result.permute(0, 2, 3, 1) if result.ndim == 4 else result).numpy()

    turns.serve(in_our_order, task)
    print(json.dumps(shares(in_our_order)))


if __name__ == "__main__":
    main()
