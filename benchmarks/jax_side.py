"""Our side of diffusers_speed.py, which starts it.

python benchmarks/jax_side.py DIRECTORY forward|train|sample none|selective|full DTYPE
"""

import dataclasses
import functools
import itertools
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import turns

from imagen_jax import ops
from imagen_jax.conditions import Conditions
from imagen_jax.config import (
    DiffusionConfig,
    SamplingConfig,
    StageConfig,
    T5Config,
    TextEncoderConfig,
)
from imagen_jax.diffusion import chain, samplers
from imagen_jax.diffusion.edits import Visit
from imagen_jax.diffusion.process import Predicted
from imagen_jax.networks import Networks, Params, build_networks
from imagen_jax.parallel.host_memory import compile_in_blocks, run_where_called
from imagen_jax.pipeline.plan import plan_sampling
from imagen_jax.pipeline.sampling import Run
from imagen_jax.weights.deepfloyd_if import open_unet

Arrays = dict[str, jax.Array]


def load(directory: Path, remat: str, dtype: str) -> tuple[StageConfig, Params]:
    """The network that diffusers wrote, read as `convert deepfloyd-if` reads it."""
    stored, params = open_unet(directory / "unet")
    levels = len(stored.config.channel_mult)
    config = StageConfig(
        name="benchmark",
        resolution=stored.resolution,
        unet=dataclasses.replace(stored.config, remat=(remat,) * levels, dtype=dtype),
        text_encoder=TextEncoderConfig(t5=T5Config(d_model=stored.text_width)),
        diffusion=DiffusionConfig(schedule="cosine_chain"),
    )
    params = jax.tree.map(lambda parameter: jnp.asarray(parameter.whole("float32")), params)
    return config, {"unet": params}


def predict(networks: Networks, params: Params, given: Arrays) -> Predicted:
    mask = jnp.ones(given["text"].shape[:2], bool)
    encoded = networks.encode(params, Conditions(text=given["text"], mask=mask))
    log_snr = jnp.asarray(chain.LOG_SNRS)[given["step"].astype(int)]
    return networks.predict(params, given["z"], log_snr, encoded)


def forward(config: StageConfig, params: Params, given: Arrays) -> Callable[[], jax.Array]:
    networks = build_networks(config)

    def run(params: Params, given: Arrays) -> jax.Array:
        value, fraction, *_ = predict(networks, params, given)
        return jnp.concatenate([value, 2 * fraction - 1], axis=-1)  # As diffusers gives them.

    return functools.partial(jax.jit(run).lower(params, given).compile(), params, given)


def train(config: StageConfig, params: Params, given: Arrays) -> Callable[[], jax.Array]:
    networks = build_networks(config)
    optimizer = optax.adamw(turns.LEARNING_RATE, weight_decay=turns.WEIGHT_DECAY)

    def loss(params: Params, given: Arrays) -> jax.Array:
        prediction = predict(networks, params, given).value
        return jnp.mean(jnp.square(prediction - given["eps"]))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: tuple, given: Arrays) -> tuple[tuple, jax.Array]:
        params, moments = state
        value, gradient = jax.value_and_grad(loss)(params, given)
        update, moments = optimizer.update(gradient, moments, params)
        return (optax.apply_updates(params, update), moments), value

    abstract = jax.eval_shape(lambda params: (params, optimizer.init(params)), params)
    options = ops.compiler_options(config.unet.dtype)
    compiled, state = compile_in_blocks(step.lower(abstract, given), options), None

    def run() -> jax.Array:
        nonlocal state
        # The moments count as memory of the step, as PyTorch makes them in its first one.
        state, value = compiled(state or (params, optimizer.init(params)), given)
        return jax.block_until_ready((state, value))[1]

    return run


def sample(config: StageConfig, params: Params, given: Arrays) -> Callable[[], jax.Array]:
    """Guided DDIM from a given z."""
    settings = SamplingConfig(
        sampler="ddim", num_steps=turns.STEPS, spacing="leading",
        guidance_scale=turns.GUIDANCE_SCALE, thresholding="dynamic",
        percentile=turns.PERCENTILE, max_threshold=turns.CAP,
    )  # fmt: skip
    size = given["z"].shape[1:3]
    plan, numbers = plan_sampling(config, settings, size)
    run = Run(config, plan, build_networks(config), size)
    whole = jnp.ones(given["text"].shape[:2], bool)
    keys = jax.random.split(jax.random.key(0), len(given["z"]))  # Of noise times eta, 0.
    conditions = Conditions(text=given["text"], mask=whole)
    inputs = (keys, conditions, (given["null"], whole), given["z"])
    begin, step = jax.jit(run.begin), jax.jit(run.step, donate_argnums=3)

    def paint() -> jax.Array:
        told, state = begin(params, numbers, *inputs)
        for visit in plan.visits:
            state = step(params, numbers, told, state, Visit(*map(np.int32, visit)))
        return jax.block_until_ready(samplers.finish(state))

    return paint


def shares(run: Callable[[], jax.Array]) -> dict[str, float]:
    """Of the time of one more run, by the kind of operation.

    Of a convolution the profiler shows when it begins, not how long it takes: what is left by
    all others counts as theirs.
    """
    spent = dict.fromkeys(["matrix products", "copies", "all else"], 0.0)
    # Python 3.12 about a type of JAX's.
    warnings.filterwarnings("ignore", "builtin type event_stats", DeprecationWarning)
    with tempfile.TemporaryDirectory() as place:
        with jax.profiler.trace(place):
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds = time.perf_counter() - start
        (path,) = Path(place).rglob("*.xplane.pb")
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for event in itertools.chain.from_iterable(line.events for line in plane.lines):
                if "hlo_op" in dict(event.stats) and (of := kind(event.name)):
                    spent[of] += event.duration_ns / 1e9 / seconds
    spent = {"convolutions": 1 - sum(spent.values()), **spent}
    return {name: round(x, 3) for name, x in spent.items()}


def kind(name: str) -> str | None:
    """Of an operation as XLA's CPU compiler names it.

    The library YNNPACK has matrix products; the sums that it computes too count with them.
    """
    if re.match("while|call|cond|conv(?!ert)|custom-call", name):
        return None
    if name.startswith(("dot", "ynn")):
        return "matrix products"
    return "copies" if re.search("copy|transpose|concatenate|pad", name) else "all else"


def main() -> None:
    directory, task, *how = sys.argv[1:]
    if task == "train":  # As train.py does.
        run_where_called()
    config, params = load(Path(directory), *how)
    given = {name: jnp.asarray(x) for name, x in np.load(f"{directory}/inputs.npz").items()}
    run = {"forward": forward, "train": train, "sample": sample}[task](config, params, given)
    turns.serve(lambda: np.asarray(run()), task)
    print(json.dumps(shares(run)))


if __name__ == "__main__":
    main()
