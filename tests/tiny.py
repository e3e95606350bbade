"""Tiny stages, batches and folders that several test files share."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from imagen_jax.checkpoints.state import TrainState
from imagen_jax.conditions import Conditions
from imagen_jax.config import (
    DataConfig,
    EfficientUNetConfig,
    OptimizerConfig,
    SamplingConfig,
    StageConfig,
    T5Config,
    TextEncoderConfig,
    TrainingConfig,
    UNetConfig,
)
from imagen_jax.diffusion import samplers
from imagen_jax.diffusion.edits import Visit
from imagen_jax.networks import abstract_params, build_networks
from imagen_jax.training.optim import make_optimizer

LENGTH = 8
UNET = UNetConfig(
    embed_dim=8, channel_mult=(1,), num_res_blocks=(1,), attention_resolutions=(), head_dim=8,
    patch_size=2,
)  # fmt: skip
EFFICIENT_UNET = EfficientUNetConfig(
    channels=(8,), num_res_blocks=(1,), strides=(2,), self_attention=(False,),
    text_attention=(True,), num_heads=2,
)  # fmt: skip
T5 = T5Config(vocab_size=2048, d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=16)


def stage(**changes) -> StageConfig:
    """A 16-pixel base stage that trains its own text encoder; nested dicts change parts."""
    config = StageConfig(
        name="tiny",
        resolution=16,
        unet=UNET,
        text_encoder=TextEncoderConfig(t5=T5, max_length=LENGTH, train=True),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, warmup_steps=0),
        training=TrainingConfig(
            batch_size=8, num_steps=4, log_every=1, checkpoint_every=2, sample_every=0
        ),
        sampling=SamplingConfig(num_steps=3),
    )
    return replace(config, **changes)


def super_resolution(**changes) -> StageConfig:
    """8 -> 16 pixels by an Efficient U-Net without self-attention."""
    return stage(**{"low_resolution": 8, "unet": EFFICIENT_UNET, **changes})


def replace(config, **changes):
    """`dataclasses.replace`, where a dict changes the fields of a part."""
    parts = {
        name: replace(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(config, **parts)


def batch(config: StageConfig, size: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    """Random pictures and tokens, of random lengths."""
    rng = np.random.default_rng(seed)
    pictures = lambda side: rng.integers(0, 256, (size, side, side, 3)).astype(np.uint8)  # noqa: E731
    lengths = rng.integers(2, LENGTH + 1, size)
    mask = np.arange(LENGTH)[None] < lengths[:, None]
    token_ids = np.where(mask, rng.integers(2, 2048, mask.shape), 0).astype(np.int32)
    arrays = {
        "image": pictures(config.resolution), "token_ids": token_ids, "mask": mask,
        "weight": np.ones(size, np.float32),
    }  # fmt: skip
    if config.low_resolution is not None:
        arrays["low_res"] = pictures(config.low_resolution)
    return arrays


def told(**conditions) -> StageConfig:
    """A 16-pixel stage without text, which is told what `conditions` names."""
    return stage(
        text_encoder=TextEncoderConfig(t5=T5, max_length=LENGTH),
        conditions={"text": False, **conditions},
    )


def labelled_folder(directory: Path, count: int = 12) -> DataConfig:
    """`count` pictures without captions, each beside a grey sketch of it, and with the numbers
    `label`, 0 to 2, and `age`."""
    rng = np.random.default_rng(0)
    directory.mkdir()
    for number in range(count):
        pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        grey = Image.fromarray(pixels).convert("L")
        Image.fromarray(pixels).save(directory / f"{number:02}.png")
        grey.save(directory / f"{number:02}.sketch.png")
        values = {"label": number % 3, "age": number / count}
        (directory / f"{number:02}.json").write_text(json.dumps(values))
    return DataConfig(source=f"folder:{directory}")


def folder(directory: Path, count: int = 12) -> DataConfig:
    """`count` plain pictures with captions, as a data set."""
    rng = np.random.default_rng(0)
    directory.mkdir()
    for number in range(count):
        pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(directory / f"{number:02}.png")
        captions = f"picture {number}\nnumber {number}\n"
        (directory / f"{number:02}.txt").write_text(captions)
    return DataConfig(source=f"folder:{directory}")


def random_params(config: StageConfig, seed: int = 0):
    """Parameters as numpy arrays away from the zero initialisation; nothing is compiled."""
    rng = np.random.default_rng(seed)

    def draw(path, x):
        name, draws = path[-1].key, rng.normal(size=x.shape)
        fan_in = math.prod(x.shape[:-1]) if name == "kernel" else 1
        around = 1.0 if name == "scale" else 0.0
        spread = fan_in**-0.5 if name in ("kernel", "embedding") else 0.2
        return (around + spread * draws).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config))


def state(config: StageConfig, step: int = 0, seed: int = 0) -> TrainState:
    """A state on the host, with an EMA apart from the parameters; no step donates it away."""
    params = random_params(config, seed)
    return TrainState(
        step=np.int32(step),
        params=params,
        ema=jax.tree.map(lambda x: x + 1, params),
        opt_state=jax.device_get(make_optimizer(config.optimizer).init(params)),
        power_ema=tuple(params for _ in config.optimizer.power_ema),
    )


def inputs(config: StageConfig) -> dict[str, np.ndarray]:
    """Of a U-Net, two pictures: the first caption has two tokens, the second all."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    batch = {
        "z": normal(2, config.resolution, config.resolution, 3),
        "log_snr": np.array([-1.0, 2.0], np.float32),
        "text": normal(2, LENGTH, T5.d_model),
        "mask": np.arange(LENGTH)[None] < np.array([[2], [LENGTH]]),
    }
    if config.low_resolution is not None:
        batch["low_res"] = normal(2, config.low_resolution, config.low_resolution, 3)
        batch["aug_level"] = np.array([0.1, 0.6], np.float32)
    return batch


def conditions(batch: dict) -> Conditions:
    """What `inputs` has beside z and its noise."""
    levels = {"aug_level": batch["aug_level"]} if "aug_level" in batch else {}
    pictures = {"low_res": batch["low_res"]} if "low_res" in batch else {}
    return Conditions(
        text=batch["text"], mask=batch["mask"], pictures=pictures, numbers=levels
    )  # fmt: skip


def predictor(config: StageConfig):
    """A compiled (params, **inputs) -> prediction."""
    networks = build_networks(config)

    @jax.jit
    def run(params, **batch):
        told = networks.encode(params, conditions(batch))
        return networks.predict(params, batch["z"], batch["log_snr"], told).value

    return run


def painted_images(run, *inputs):
    """What a `Run` paints, in [-1, 1]: from its beginning, which takes `inputs`, to its end."""
    told, state = jax.jit(run.begin)(*inputs)
    step = jax.jit(run.step)
    for visit in run.plan.visits:
        state = step(*inputs[:2], told, state, Visit(*map(np.int32, visit)))
    return samplers.finish(state)
