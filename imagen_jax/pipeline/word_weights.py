"""A stage's attention over the words, for pictures at one noise level."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from imagen_jax import ops
from imagen_jax.arrays import Keys, Pixels, Traced
from imagen_jax.conditions import Conditions
from imagen_jax.config import StageConfig
from imagen_jax.diffusion import process, schedules
from imagen_jax.diffusion.pixels import to_unit
from imagen_jax.models.attention import WordWeights, recorded
from imagen_jax.networks import Params, build_networks, prepare, told_guidance, without_remat
from imagen_jax.parallel import mesh as meshes


def make_word_weights(config: StageConfig, mesh: Mesh, size: tuple[int, int]) -> Callable:
    """A jitted function, as `Stage.word_weights` without the stage, but with its parameters."""
    gather = functools.partial(meshes.gather_parameters, mesh=mesh)
    networks = build_networks(without_remat(config), gather)

    def word_weights(
        params: Params,
        pixels: Pixels,
        keys: Keys,
        conditions: Conditions,
        time: Traced,
        aug_level: Traced,
    ) -> list[WordWeights]:
        of_z, of_low_res = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        level = jnp.full(keys.shape, aug_level, jnp.float32)
        told = prepare(config, conditions, level, of_low_res, size)
        weights = jnp.full(keys.shape, config.sampling.guidance_scale)
        encoded = networks.encode(params, told_guidance(config, told, weights))
        log_snr = schedules.log_snr(config.diffusion.schedule, jnp.full(keys.shape, time))
        z = process.q_sample(to_unit(pixels), process.normal(of_z, (*size, 3)), log_snr)
        with ops.plain(), recorded() as weights:
            networks.predict(params, z, log_snr, encoded)
        return weights

    return jax.jit(word_weights)
