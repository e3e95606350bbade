"""Pictures by tiles: those of whole ones where a network is local, and no seam where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import imagen_jax
from imagen_jax.conditions import Conditions
from imagen_jax.config import MeshConfig
from imagen_jax.diffusion.process import Predicted
from imagen_jax.errors import UsageError
from imagen_jax.models.attention import TextState
from imagen_jax.models.conditional import Encoded
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.tiles import Tiling, tiled, tiling_of
from imagen_jax.stored.stages import open_stage
from imagen_jax.weights.stage_file import save_stage_file

CONFIG = tiny.super_resolution(
    name="tiny_16", sampling={"num_steps": 2, "guidance_scale": 2.0}
)  # fmt: skip
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (20, 12, 3)).astype(np.uint8)
ASKED = {"seed": 3, "progress": False}


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    path = tmp_path_factory.mktemp("stages") / "sr.safetensors"
    save_stage_file(path, CONFIG, tiny.random_params(CONFIG, 0), "float32")
    return path


@pytest.mark.parametrize(("side", "tile"), [(40, 16), (17 * 2, 16), (16, 16), (18, 16), (96, 32)])
def test_tiles_cover_all_and_overlap_by_a_quarter(side, tile):
    tiling = tiling_of(CONFIG, (side, tile), tile)
    if side == tile:
        assert tiling is None
        return
    rows = [row for row, _ in tiling.corners]
    assert rows[0] == 0 and rows[-1] == side - tile and all(row % 2 == 0 for row in rows)
    assert max(np.diff(rows)) <= tile - tile // 4 + 2 and tiling.size == (tile, tile)


def test_what_looks_at_single_pixels_predicts_the_same():
    """With a low-resolution picture, of which each tile must see its own part."""
    low_res = jnp.asarray(RNG.normal(size=(2, 20, 12, 3)), jnp.float32)
    others = Conditions(pictures={"low_res": low_res})
    encoded = Encoded(TextState(pooled=None, keys_values=(), mask=None), others)

    def predict(z, log_snr, told):
        shown = told.others.pictures["low_res"].repeat(2, 1).repeat(2, 2)
        return Predicted(z * shown + log_snr[:, None, None, None], jnp.abs(shown))

    z = jnp.asarray(RNG.normal(size=(2, 40, 24, 3)), jnp.float32)
    log_snr = jnp.array([1.0, -2.0])
    tiling = tiling_of(CONFIG, (40, 24), 16)
    found = jax.jit(tiled(predict, encoded, tiling, len(z)))(z, log_snr)
    wanted = predict(z, log_snr, encoded)
    np.testing.assert_allclose(found.value, wanted.value, atol=1e-5)
    np.testing.assert_allclose(found.fraction, wanted.fraction, atol=1e-5)
    assert found.away is None


def test_tiles_that_disagree_meet_without_a_step():
    """Each tile predicts the number of its corner; between them it goes up by small steps."""
    others = Conditions(
        pictures={"low_res": jnp.arange(32.0)[None, :, None, None] + jnp.zeros((1, 32, 8, 1))}
    )
    encoded = Encoded(TextState(pooled=None, keys_values=(), mask=None), others)

    def predict(z, log_snr, told):
        return Predicted(jnp.zeros_like(z) + told.others.pictures["low_res"][:, :1, :1])

    tiling = Tiling((16, 16), tuple((row, 0) for row in (0, 12, 24, 36, 48)), 2)
    found = tiled(predict, encoded, tiling, 1)(jnp.zeros((1, 64, 16, 3)), jnp.zeros(1)).value
    steps = np.diff(np.asarray(found)[0, :, 8, 0])
    assert found[0, 0, 0, 0] == 0 and found[0, -1, 0, 0] == 24 and (steps >= -1e-5).all()
    assert steps.max() <= 6 / 4 + 0.01, "6 from tile to tile, over an overlap of 4 rows"


def test_nothing_of_the_whole_picture_is_kept_but_the_sums():
    """Of two parts, as guidance has them: neither z twice, nor what tiles predict before they are
    added, nor the weights of all pixels, which would also make programs as large as pictures."""
    side, tile = 512, 32
    encoded = Encoded(TextState(pooled=None, keys_values=(), mask=None), Conditions())
    tiling = tiling_of(CONFIG, (side, side), tile)

    def whole(z, log_snr):
        predict = tiled(lambda z, log_snr, told: Predicted(jnp.sin(z)), encoded, tiling, 1)
        of_parts = predict(jnp.concatenate([z] * 2), jnp.concatenate([log_snr] * 2)).value
        return 3.0 * of_parts[:1] - 2.0 * of_parts[1:]

    z, log_snr = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32), jnp.zeros(1)
    program = jax.jit(whole).lower(z, log_snr).compile()
    a_picture = 3 * 4 * side**2
    assert program.memory_analysis().temp_size_in_bytes < 2.2 * a_picture
    assert f"{side},{side}]" not in program.as_text(), "an array of one number a pixel"
    predicted = jax.jit(whole)(jnp.ones(z.shape), log_snr)
    np.testing.assert_allclose(predicted, np.sin(1.0), atol=1e-5)


@pytest.mark.slow
def test_a_stage_paints_a_picture_of_any_size_by_tiles(stage):
    alone = imagen_jax.load_cascade(sr256=stage)
    found = alone("a red apple", image=PICTURE, tile=16, **ASKED)
    assert found.stages[0].shape == (1, 40, 24, 3)
    whole = alone("a red apple", image=PICTURE, size=(20, 12), **ASKED).stages[0]
    other = alone("a red apple", image=255 - PICTURE, tile=16, **ASKED).stages[0]
    distance = lambda a, b: np.abs(a.astype(int) - b).mean()  # noqa: E731
    assert distance(found.stages[0], whole) < 0.5 * distance(other, whole)
    assert found.account[0]["tile"] == 16
    small = alone("a red apple", image=PICTURE[:8, :8], **ASKED).stages[0]
    same = alone("a red apple", image=PICTURE[:8, :8], tile=16, **ASKED)
    np.testing.assert_array_equal(same.stages[0], small)
    assert "tile" not in same.account[0]


def test_tiles_that_there_cannot_be_are_refused(stage):
    alone = imagen_jax.load_cascade(sr256=stage)
    for tile in (7, 2, -16):
        with pytest.raises(UsageError, match=f"tile is {tile}; it must be a multiple of 2 pixels"):
            alone("a red apple", image=PICTURE, tile=tile, **ASKED)
    split = Cascade([open_stage(stage)], mesh=make_mesh(MeshConfig(spatial=2), jax.devices()[:2]))
    with pytest.raises(UsageError, match="devices share the height of a picture"):
        split("a red apple", image=PICTURE, tile=16, **ASKED)


def test_a_tile_of_a_guided_batch_sees_its_own_part_of_a_picture_as_large_as_z():
    """As DeepFloyd IF's low-resolution pictures and sketches are; guidance shows each twice."""
    shown = jnp.asarray(RNG.normal(size=(4, 40, 24, 3)), jnp.float32)
    encoded = Encoded(
        TextState(pooled=None, keys_values=(), mask=None), Conditions(pictures={"sketch": shown})
    )

    def predict(z, log_snr, told):
        return Predicted(z + told.others.pictures["sketch"])

    z = jnp.asarray(RNG.normal(size=(2, 40, 24, 3)), jnp.float32)
    both, log_snr = jnp.concatenate([z, z]), jnp.zeros(4)
    found = tiled(predict, encoded, tiling_of(CONFIG, (40, 24), 16), 2)(both, log_snr)
    np.testing.assert_allclose(found.value, both + shown, atol=1e-5)
