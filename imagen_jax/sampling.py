"""Pictures of one stage: text and keys in, pictures out, one jitted scan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from imagen_jax.arrays import Images, Keys, LowResPixels, Pixels, TextEmbeddings, TextMask
from imagen_jax.config import SamplingConfig, StageConfig
from imagen_jax.diffusion import process, samplers
from imagen_jax.diffusion.guidance import make_denoise
from imagen_jax.stage import Networks, Params, drop_text

# Folded into a picture's key for the noise of its low-resolution input.
_AUGMENTATION = 2**31 - 2


def to_unit(pixels: Pixels) -> Images:
    """0..255 -> [-1, 1], float32."""
    return pixels.astype(jnp.float32) / 127.5 - 1.0


def to_pixels(images: Images) -> Pixels:
    """[-1, 1] -> 0..255, rounded and clipped."""
    return jnp.clip(jnp.round((images + 1.0) * 127.5), 0, 255).astype(jnp.uint8)


def picture_keys(seed: int, stream: int, count: int) -> Keys:
    """Keys of pictures 0 .. count - 1 of a seed; the stages of a cascade are its streams.

    One key per picture, so that picture i depends neither on the batch nor on the devices.
    """
    key = jax.random.fold_in(jax.random.key(seed), stream)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))


def make_sampler(
    config: StageConfig,
    settings: SamplingConfig,
    networks: Networks,
    *,
    size: tuple[int, int],
    sharding: jax.sharding.Sharding | None = None,
    on_step: Callable | None = None,
) -> Callable[..., Pixels]:
    """A jitted function that paints `size` (height, width) pictures of a stage.

    Its arguments are (params, text, mask, keys, low_res): embeddings of the prompts, one key
    per picture and, for a super-resolution stage, the low-resolution pixels (else None).

    `sharding` is how pictures lie on the devices; None leaves it to the arguments. Split
    heights follow from it through all of the network: convolutions fetch the rows that they
    need of their neighbours.
    """

    def split(images: Images) -> Images:
        return images if sharding is None else jax.lax.with_sharding_constraint(images, sharding)

    def sample(
        params: Params,
        text: TextEmbeddings,
        mask: TextMask,
        keys: Keys,
        low_res: LowResPixels | None,
    ) -> Pixels:
        guided = settings.guidance_scale != 1
        inputs = {}
        if low_res is not None:
            level = jnp.full(keys.shape, settings.aug_level)
            noise_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _AUGMENTATION)
            noised = process.augment_low_res(
                to_unit(low_res), level, noise_keys, config.diffusion.schedule
            )
            inputs = {"low_res": noised, "aug_level": level}
        if guided:
            null, null_mask = drop_text(text, mask, jnp.ones(keys.shape, bool))
            text, mask = jnp.concatenate([text, null]), jnp.concatenate([mask, null_mask])
            inputs = {name: jnp.concatenate([x, x]) for name, x in inputs.items()}
        state = networks.encode_text(params, text, mask)

        def predict(z: Images, log_snr: jax.Array) -> Images:
            return split(networks.predict(params, split(z), log_snr, state, **inputs))

        denoise = make_denoise(
            predict, config.diffusion.prediction, settings.guidance_scale,
            settings.thresholding, settings.percentile,
        )  # fmt: skip
        images = samplers.sample(
            settings.sampler, denoise, (*size, 3),
            samplers.time_grid(config.diffusion.schedule, settings.num_steps), keys,
            gamma=settings.gamma, eta=settings.eta, on_step=on_step,
        )  # fmt: skip
        return to_pixels(images)

    return jax.jit(sample)
