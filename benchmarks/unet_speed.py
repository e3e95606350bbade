"""How fast a 27M-parameter base U-Net trains and samples on this machine.

    python benchmarks/unet_speed.py
    python benchmarks/unet_speed.py --repeats 9 --unet.dtype bfloat16

Three JSON lines: the machine with its float32 matmul peak; a full training step (forward,
backward, clip, Adam, EMA: the step that train.py compiles); guided sampling by DDIM. Times are
medians after a warm-up run. Run it on a machine that does nothing else: it uses all cores that
the process may use, and XLA_FLAGS change what it finds, so the output repeats them.

The text encoder has one layer: an encoder of real size would be timed with the U-Net.
"""

import dataclasses
import functools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from imagen_jax import ops
from imagen_jax.cli.parsing import parse_flags
from imagen_jax.conditions import Conditions
from imagen_jax.config import (
    MeshConfig,
    OptimizerConfig,
    SamplingConfig,
    StageConfig,
    T5Config,
    TextEncoderConfig,
    TrainingConfig,
    UNetConfig,
)
from imagen_jax.config.rules import require_positive
from imagen_jax.costs.model_flops import model_flops
from imagen_jax.errors import exit_on_usage_error
from imagen_jax.networks import Params, init_text_encoder
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline.plan import plan_sampling
from imagen_jax.pipeline.sampling import Run, StepwiseSampler, picture_keys
from imagen_jax.training.trainer import Trainer

TEXT_ENCODER = TextEncoderConfig(
    t5=T5Config(vocab_size=2048, d_model=192, num_layers=1, num_heads=3, d_ff=384), max_length=24
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    unet: UNetConfig = UNetConfig(embed_dim=64, num_res_blocks=(2, 2, 2, 2))
    """27M parameters with the text width of this script (192)."""
    resolution: int = 64
    batch_size: int = 8
    sampling_steps: int = 20
    repeats: int = 5
    """Timed runs; the median counts."""
    matmul_side: int = 4096
    """Of the square matrices that find the machine's peak."""


def measure(flags: Flags) -> None:
    require_positive(flags, "repeats", "matmul_side")
    config = stage_config(flags)
    trainer = Trainer(config, meshes.make_mesh(config.mesh))
    state = trainer.init(jax.random.key(0))
    frozen = {"text_encoder": init_text_encoder(config, jax.random.key(1))}
    parameters = {"unet": count(state.params), "text_encoder": count(frozen)}
    peak = matmul_peak(flags.matmul_side, flags.repeats)
    report("machine", **machine(), matmul_gflop_per_s=peak / 1e9)
    shared = {"parameters": parameters, "dtype": flags.unet.dtype, "batch_size": flags.batch_size}
    batch = random_batch(config, trainer.mesh)
    # First: the training step donates the state.
    sampled = sampling_speed(trainer, state.ema, frozen, batch, flags.repeats)
    trained = training_speed(trainer, state, frozen, batch, flags.repeats)
    report("training_step", **shared, **rates(*trained, flags.batch_size, peak))
    report("guided_sampling", **shared, steps=flags.sampling_steps,
           **rates(*sampled, flags.batch_size, peak))  # fmt: skip


def stage_config(flags: Flags) -> StageConfig:
    """A base stage in the paper's form, with Adam."""
    return StageConfig(
        name="benchmark",
        resolution=flags.resolution,
        unet=flags.unet,
        text_encoder=TEXT_ENCODER,
        optimizer=OptimizerConfig(name="adam"),
        training=TrainingConfig(batch_size=flags.batch_size),
        sampling=SamplingConfig(sampler="ddim", num_steps=flags.sampling_steps),
        mesh=MeshConfig(),
    )


def random_batch(config: StageConfig, mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Noise with captions of full length."""
    rng = np.random.default_rng(0)
    size, side = config.training.batch_size, config.resolution
    tokens = (size, config.text_encoder.max_length)
    batch = {
        "image": rng.integers(256, size=(size, side, side, 3), dtype=np.uint8),
        "token_ids": rng.integers(1, TEXT_ENCODER.t5.vocab_size, size=tokens, dtype=np.int32),
        "mask": np.ones(tokens, bool),
        "weight": np.ones(size, np.float32),
    }
    return meshes.global_batch(batch, mesh)


def training_speed(
    trainer: Trainer, state: Any, frozen: Params, batch: Any, repeats: int
) -> tuple[float, float]:
    """Median seconds of one optimizer step, and the model's FLOPs; takes `state`."""
    key = jax.random.key(2)
    side = trainer.config.resolution
    options = ops.compiler_options(trainer.config.unet.dtype)
    compiled = trainer.step.lower(state, frozen, batch, key).compile(compiler_options=options)

    def run() -> jax.Array:
        nonlocal state
        state, metrics = compiled(state, frozen, batch, key)
        return metrics["loss"]

    return median_seconds(run, repeats), trainer.work(frozen).flops((side, side))


def sampling_speed(
    trainer: Trainer, params: Params, frozen: Params, batch: Any, repeats: int
) -> tuple[float, float]:
    """Median seconds of a batch of pictures, and the model's FLOPs; without the text encoder."""
    config, networks, mask = trainer.config, trainer.networks, batch["mask"]
    size = (config.resolution, config.resolution)
    plan, numbers = plan_sampling(config, config.sampling, size)
    sampler = StepwiseSampler(Run(config, plan, networks, size))
    text = jax.jit(networks.embed)(params | frozen, batch["token_ids"], mask)
    keys = picture_keys(0, 0, len(mask))
    conditions = Conditions(text=text, mask=mask)
    run = functools.partial(sampler, params, numbers, keys, conditions)
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), conditions)
    encoded = jax.jit(networks.encode)(params, twice)
    z, log_snr = jnp.zeros((2 * len(mask), *size, 3)), jnp.zeros(2 * len(mask))
    step = model_flops(networks.predict, params, z, log_snr, encoded)
    return median_seconds(run, repeats), step * config.sampling.num_steps


def matmul_peak(side: int, repeats: int) -> float:
    """FLOP/s of the fastest of some large float32 matmuls, which no network can exceed much."""
    a = jax.random.normal(jax.random.key(3), (side, side))
    product = jax.jit(jnp.matmul)
    return 2 * side**3 / min(seconds(lambda: product(a, a), repeats))


def seconds(run: Callable[[], Any], repeats: int) -> list[float]:
    """Of every run, after one that compiles and warms up."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - start)
    return times


def median_seconds(run: Callable[[], Any], repeats: int) -> float:
    return statistics.median(seconds(run, repeats))


def count(params: Params) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def rates(seconds: float, flops: float, batch_size: int, peak: float) -> dict[str, float]:
    return {
        "seconds": seconds,
        "pictures_per_second": batch_size / seconds,
        "seconds_per_picture": seconds / batch_size,
        "gflop": flops / 1e9,
        "gflop_per_s": flops / seconds / 1e9,
        "share_of_matmul_peak": flops / seconds / peak,
    }


def machine() -> dict[str, Any]:
    """What the figures depend on beside the code."""
    return {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def cpu_name() -> str:
    """From Linux's /proc/cpuinfo, else what Python says."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def report(benchmark: str, **values: Any) -> None:
    """One JSON line, floats with four digits."""
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps({"benchmark": benchmark, **rounded}), flush=True)


def main() -> None:
    with exit_on_usage_error():
        measure(parse_flags(lambda: tyro.cli(Flags, description=__doc__)))


if __name__ == "__main__":
    main()
