"""Sampling: a picture is its own key's, and guidance is what its scale says."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sampler_loop
import tiny

from imagen_jax.conditions import Conditions, drop_text
from imagen_jax.config import MeshConfig
from imagen_jax.diffusion import edits, process, samplers
from imagen_jax.diffusion.guidance import Percentile, make_denoise, threshold
from imagen_jax.diffusion.pixels import to_pixels, to_unit
from imagen_jax.networks import build_networks
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline.plan import plan_sampling
from imagen_jax.pipeline.sampling import Run, StepwiseSampler, picture_keys

SR = tiny.super_resolution()
SIDE = SR.resolution


def conditions(count, seed=0):
    """Text, mask and low-resolution pixels."""
    batch = tiny.batch(SR, count, seed)
    text = np.random.default_rng(seed).normal(size=(count, tiny.LENGTH, tiny.T5.d_model))
    return tuple(jnp.asarray(x) for x in (text.astype(np.float32), batch["mask"], batch["low_res"]))


def inputs(text, mask, low_res, **levels):
    return Conditions(text=text, mask=mask, pictures={"low_res": low_res}, numbers=levels)


def painter(config, sharding=None, **settings):
    size = (SIDE, SIDE)
    plan, numbers = plan_sampling(config, tiny.replace(config.sampling, **settings), size)
    sampler = StepwiseSampler(Run(config, plan, build_networks(config), size, sharding))
    params = {"unet": tiny.random_params(config)["unet"]}
    return lambda text, mask, low_res, keys, which=0: np.asarray(
        sampler(params, numbers, keys, inputs(text, mask, low_res))[which]
    )


@pytest.fixture(scope="module")
def guided():
    return painter(SR, guidance_scale=3.0)


@pytest.fixture(scope="module")
def unguided():
    return painter(SR, guidance_scale=1.0)


@pytest.mark.slow
def test_a_picture_depends_on_its_key_and_conditions_but_not_on_the_batch(guided):
    """Picture 2 of four, alone and in another place of a smaller batch."""
    inputs, keys = conditions(4), picture_keys(seed=5, stream=SIDE, count=4)
    together = guided(*inputs, keys)
    order = np.array([2, 0])
    apart = guided(*(x[order] for x in inputs), keys[order])
    difference = np.abs(apart.astype(int) - together[order].astype(int))
    assert together.dtype == np.uint8 and together.shape == (4, SIDE, SIDE, 3)
    assert difference.max() <= 1
    assert np.abs(together[0].astype(int) - together[2].astype(int)).max() > 5


def test_steps_are_told_of_and_the_last_estimate_is_the_picture():
    settings = tiny.replace(SR.sampling, guidance_scale=3.0, num_steps=3)
    plan, numbers = plan_sampling(SR, settings, (SIDE, SIDE))
    params, networks = {"unet": tiny.random_params(SR)["unet"]}, build_networks(SR)
    arguments = (params, numbers, picture_keys(5, SIDE, 2), inputs(*conditions(2)))
    stepwise, heard, seen = StepwiseSampler(Run(SR, plan, networks, (SIDE, SIDE))), [], []
    painted, finite = stepwise(
        *arguments, on_step=heard.append, on_estimate=lambda number, x0: seen.append((number, x0))
    )
    assert finite.all()
    assert heard == [number for number, _ in seen] == [0, 1, 2]
    np.testing.assert_array_equal(seen[-1][1], painted)
    assert (seen[0][1] != painted).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"guidance_parallel": 0.0, "guidance_max_norm": 2.0},
        {"guidance_momentum": -0.5},
    ],
)
def test_guidance_of_other_forms_paints_something_else(settings):
    """Without guidance there is nothing that they could change."""
    (text, mask, low_res), keys = conditions(2), picture_keys(seed=5, stream=SIDE, count=2)
    paint = lambda **own: painter(SR, sampler="ddim", **own)(text, mask, low_res, keys)  # noqa: E731
    assert np.any(paint(guidance_scale=3.0, **settings) != paint(guidance_scale=3.0))
    changed = tiny.replace(SR.sampling, sampler="ddim", guidance_scale=1.0, **settings)
    plain = tiny.replace(SR.sampling, sampler="ddim", guidance_scale=1.0)
    plans = [plan_sampling(SR, x, (SIDE, SIDE))[0] for x in (changed, plain)]
    assert plans[0] == plans[1]


@pytest.mark.slow
def test_noise_without_text_is_put_back_at_guided_steps_alone():
    """CFG++ guides with weight 1 too, by that noise. Of three steps, at 1, 2/3 and 1/3, the last
    one puts none back: guided alone at weight 1 it changes nothing."""
    (text, mask, low_res), keys = conditions(2), picture_keys(seed=5, stream=SIDE, count=2)

    def paint(**own):
        settings = {"sampler": "ddim", "num_steps": 3, "guidance_scale": 1.0, **own}
        return painter(SR, **settings)(text, mask, low_res, keys).astype(int)

    plain = paint()
    assert np.abs(paint(renoising="unguided") - plain).max() > 1
    last = paint(renoising="unguided", guidance_interval=(0.0, 0.5))
    assert np.abs(last - plain).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ancestral", "heun"])
def test_momentum_is_a_pictures_own_and_is_carried_by_split_heights(sampler):
    """Picture 1 of two, alone, and as two devices paint it that halve its height."""
    settings = {"sampler": sampler, "guidance_scale": 3.0, "guidance_momentum": -0.5}
    inputs_of, keys = conditions(2), picture_keys(seed=5, stream=SIDE, count=2)
    both = painter(SR, **settings)(*inputs_of, keys)
    alone = painter(SR, **settings)(*(x[1:] for x in inputs_of), keys[1:])
    assert np.abs(alone[0].astype(int) - both[1].astype(int)).max() <= 1
    mesh = meshes.make_mesh(MeshConfig(spatial=2), jax.devices()[:2])
    split = painter(SR, meshes.picture_sharding(mesh), **settings)(*inputs_of, keys)
    assert np.abs(split.astype(int) - both.astype(int)).max() <= 1


def test_it_is_said_which_pictures_are_not_finite(guided):
    (text, mask, low_res), keys = conditions(4), picture_keys(seed=5, stream=SIDE, count=4)
    text = np.array(text)
    text[1, 0, 0], text[3, 0, 0] = np.nan, np.inf
    assert guided(text, mask, low_res, keys, which=1).tolist() == [True, False, True, False]


def test_keys_of_a_seed_do_not_depend_on_their_number_and_differ_by_stream():
    data = jax.random.key_data
    few, many = picture_keys(3, 64, 2), picture_keys(3, 64, 9)
    np.testing.assert_array_equal(data(few), data(many)[:2])
    everything = [picture_keys(seed, stream, 4) for seed in (0, 1) for stream in (64, 256)]
    assert len({tuple(np.asarray(row)) for keys in everything for row in data(keys)}) == 16


def test_guidance_one_is_the_conditional_model(unguided):
    """Against the sampler run by hand on the conditional prediction alone."""
    (text, mask, low_res), keys = conditions(2), picture_keys(0, SIDE, 2)
    params = {"unet": jax.tree.map(jnp.asarray, tiny.random_params(SR)["unet"])}
    networks = build_networks(SR)
    settings = SR.sampling
    level = jnp.full(2, settings.aug_level)
    noise_keys = jax.vmap(lambda key: jax.random.fold_in(key, 2**31 - 2))(keys)
    noised = process.augment_low_res(to_unit(jnp.asarray(low_res)), level, noise_keys, "cosine")

    def by_hand(text, mask):
        encoded = networks.encode(params, inputs(text, mask, noised, aug_level=level))
        predict = lambda z, log_snr: networks.predict(params, z, log_snr, encoded)  # noqa: E731
        percentile = Percentile.of(settings.percentile, 3 * SIDE**2)
        denoise = make_denoise(
            predict, "eps", None, lambda x0: threshold(x0, settings.thresholding, percentile)
        )
        grid, sampler = samplers.time_grid("cosine", settings.num_steps), settings.sampler
        z = samplers.initial_noise(keys, (SIDE, SIDE, 3))
        return sampler_loop.sample(samplers.make(sampler, settings), denoise, z, grid, keys)

    expected = np.asarray(to_pixels(jax.jit(by_hand)(text, mask)))
    result = unguided(text, mask, low_res, keys)
    assert np.abs(result.astype(int) - expected.astype(int)).max() <= 1


def test_guidance_zero_is_the_model_without_text(unguided):
    """The half of the batch that guidance adds is the null text's, and has the weight 1 - w."""
    (text, mask, low_res), keys = conditions(2), picture_keys(0, SIDE, 2)
    picture = painter(SR, guidance_scale=0.0)(text, mask, low_res, keys)
    expected = unguided(*drop_text(text, mask, jnp.ones(2, bool)), low_res, keys)
    assert np.abs(picture.astype(int) - expected.astype(int)).max() <= 1


def test_captions_and_the_low_resolution_picture_change_the_result(guided, unguided):
    text, mask, low_res = conditions(2)
    keys = picture_keys(0, SIDE, 2)
    for paint in (guided, unguided):
        picture = paint(text, mask, low_res, keys)
        assert np.any(paint(text[::-1], mask[::-1], low_res, keys) != picture)
        assert np.any(paint(text, mask, low_res[::-1], keys) != picture)


def test_null_text_makes_captions_irrelevant(unguided):
    """With every caption dropped, two sets of captions give the same pictures."""
    keys, dropped = picture_keys(0, SIDE, 2), jnp.ones(2, bool)
    low_res = conditions(2)[2]
    pictures = []
    for seed in (0, 1):
        text, mask, _ = conditions(2, seed)
        pictures.append(unguided(*drop_text(text, mask, dropped), low_res, keys))
    np.testing.assert_array_equal(*pictures)


def test_drop_text_touches_only_the_dropped():
    text, mask, _ = conditions(3)
    dropped, dropped_mask = drop_text(text, mask, jnp.array([False, True, False]))
    np.testing.assert_array_equal(dropped[::2], text[::2])
    np.testing.assert_array_equal(dropped_mask[::2], mask[::2])
    assert not np.any(dropped[1])
    np.testing.assert_array_equal(dropped_mask[1], [True] + [False] * (tiny.LENGTH - 1))


@pytest.fixture(scope="module")
def split_over_eight():
    """16 -> 64 pixels with two levels: the picture, the same split in eight, and its program."""
    unet = tiny.replace(
        tiny.EFFICIENT_UNET, channels=(8, 16), num_res_blocks=(1, 1), strides=(2, 2),
        self_attention=(False, False), text_attention=(False, True),
    )  # fmt: skip
    config = tiny.super_resolution(low_resolution=16, resolution=64, unet=unet)
    settings = tiny.replace(config.sampling, guidance_scale=3.0)
    params = {"unet": tiny.random_params(config)["unet"]}
    text = np.random.default_rng(0).normal(size=(1, tiny.LENGTH, tiny.T5.d_model))
    batch = tiny.batch(config, 1)
    conditions = inputs(text.astype(np.float32), batch["mask"], batch["low_res"])
    arguments = (picture_keys(0, 64, 1), conditions)
    plan, numbers = plan_sampling(config, settings, (64, 64))

    def paint(devices):
        mesh = meshes.make_mesh(MeshConfig(spatial=devices), jax.devices()[:devices])
        sharding = meshes.picture_sharding(mesh)
        run = Run(config, plan, build_networks(config), (64, 64), sharding)
        placed = jax.device_put((params, numbers, *arguments), meshes.replicated(mesh))
        pictures, _ = StepwiseSampler(run)(*placed)

        def first_step(params, numbers, *inputs):
            visit = edits.Visit(*jnp.zeros(3, jnp.int32))
            return run.step(params, numbers, *run.begin(params, numbers, *inputs), visit)

        program = jax.jit(first_step).lower(*placed).compile()
        return np.asarray(pictures).astype(int), program.as_text()

    return paint(1)[0], *paint(8)


@pytest.mark.slow
def test_a_picture_whose_height_is_split_is_the_whole_picture(split_over_eight):
    """Within 1 of 255, and hardly ever that: sums of norms over devices have another order."""
    whole, split, _ = split_over_eight
    difference = np.abs(split - whole)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
    assert whole.std() > 10


def test_split_heights_exchange_rows_and_never_gather_features(split_over_eight):
    """Neighbours send single rows. All of a picture is gathered once, for its percentile."""
    _, _, program = split_over_eight
    shapes = lambda operation: [  # noqa: E731
        [int(side) for side in shape.split(",")]
        for shape in re.findall(rf"f32\[([\d,]+)\]\S* {operation}(?:-start)?\(", program)
    ]
    halos = shapes("collective-permute")
    assert len(halos) >= 10
    assert all(len(shape) == 4 and shape[1] == 1 for shape in halos)
    assert all(np.prod(shape) == 64 * 64 * 3 for shape in shapes("all-gather"))
    sums = shapes("all-reduce")
    assert sums and all(np.prod(shape) < 64 * 64 for shape in sums)
    assert not shapes("all-to-all")


def test_pixels_round_trip():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    unit = to_unit(jnp.asarray(pixels))
    assert unit.min() == -1 and unit.max() == 1
    np.testing.assert_array_equal(to_pixels(unit), pixels)
    np.testing.assert_array_equal(np.unique(to_pixels(unit * 3)[unit > 0.5]), [255])
