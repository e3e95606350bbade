"""Pictures of one stage: text and keys in, pictures out, one jitted scan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from imagen_jax.arrays import (
    AugLevel,
    Features,
    Images,
    Keys,
    LogSNR,
    LowResPixels,
    NoiseLevel,
    NullText,
    Pixels,
    TextEmbeddings,
    TextMask,
)
from imagen_jax.config import SamplingConfig, StageConfig
from imagen_jax.diffusion import chain, process, samplers
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


def noise_level(config: StageConfig, log_snr: LogSNR) -> NoiseLevel:
    """What the stage's U-Net reads of the noise."""
    return chain.step_of(log_snr) if config.unet.time_input == "step" else log_snr


def low_res_inputs(
    config: StageConfig, low_res: LowResPixels, level: AugLevel, keys: Keys, size: tuple[int, int]
) -> dict[str, jax.Array]:
    """What a super-resolution U-Net reads beside z: the picture noised to `level`, and the level.

    Args:
        size: (height, width) of z.
    """
    images = to_unit(low_res)
    if config.diffusion.augmented == "enlarged":
        images = process.enlarge(images, size)
    noised = process.augment_low_res(images, level, keys, config.diffusion.schedule)
    reads_steps = config.unet.time_input == "step"
    return {"low_res": noised, "aug_level": chain.step_at(level) if reads_steps else level}


def with_null_text(
    text: TextEmbeddings, mask: TextMask, null: NullText | None
) -> tuple[Float[Array, "both length text_width"], Bool[Array, "both length"]]:
    """Twice the rows: the texts, then `null` for each, or where that is None zeros."""
    dropped = drop_text(text, mask, jnp.ones(len(text), bool), null)
    return tuple(jnp.concatenate(pair) for pair in zip((text, mask), dropped, strict=True))


def make_sampler(
    config: StageConfig,
    settings: SamplingConfig,
    networks: Networks,
    *,
    size: tuple[int, int],
    sharding: jax.sharding.Sharding | None = None,
    on_step: Callable | None = None,
) -> Callable[..., Pixels]:
    """`make_image_sampler`, jitted, with pixels as its result."""
    sample = make_image_sampler(
        config, settings, networks, size=size, sharding=sharding, on_step=on_step
    )

    def sample_pixels(*inputs) -> Pixels:
        return to_pixels(sample(*inputs))

    return jax.jit(sample_pixels)


def make_image_sampler(
    config: StageConfig,
    settings: SamplingConfig,
    networks: Networks,
    *,
    size: tuple[int, int],
    sharding: jax.sharding.Sharding | None = None,
    on_step: Callable | None = None,
) -> Callable[..., Images]:
    """A function that paints `size` (height, width) pictures of a stage, in [-1, 1].

    Its arguments are (params, text, mask, keys, low_res, null): embeddings of the prompts, one key
    per picture, for a super-resolution stage the low-resolution pixels (else None) and, where
    the config has the null text `empty`, the embedded empty caption (else None).

    `sharding` is how pictures lie on the devices; None leaves it to the arguments. Split
    heights follow from it through all of the network: convolutions fetch the rows that they
    need of their neighbours.
    """

    def split(images: Features) -> Features:
        return images if sharding is None else jax.lax.with_sharding_constraint(images, sharding)

    def sample(
        params: Params,
        text: TextEmbeddings,
        mask: TextMask,
        keys: Keys,
        low_res: LowResPixels | None,
        null: NullText | None = None,
    ) -> Images:
        guided = settings.guidance_scale != 1
        inputs = {}
        if low_res is not None:
            level = jnp.full(keys.shape, settings.aug_level)
            noise_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, _AUGMENTATION)
            inputs = low_res_inputs(config, low_res, level, noise_keys, size)
        if guided:
            text, mask = with_null_text(text, mask, null)
            inputs = {name: jnp.concatenate([x, x]) for name, x in inputs.items()}
        state = networks.encode_text(params, text, mask)

        def predict(z: Images, log_snr: jax.Array) -> Features:
            level = noise_level(config, log_snr)
            return split(networks.predict(params, split(z), level, state, **inputs))

        denoise = make_denoise(
            predict, config.diffusion.prediction, settings.guidance_scale,
            settings.thresholding, settings.percentile, settings.max_threshold,
        )  # fmt: skip
        grid = samplers.time_grid(
            config.diffusion.schedule, settings.num_steps, settings.spacing, settings.timesteps
        )
        return samplers.sample(
            settings.sampler, denoise, (*size, 3), grid, keys,
            gamma=settings.gamma, eta=settings.eta, on_step=on_step,
        )  # fmt: skip

    return sample
