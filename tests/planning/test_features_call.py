"""`evaluate --compile-only`: the program is the one that measures, and what is refused."""

import jax
import pytest
from pods import needs_libtpu, tpu_devices, uncached
from scripts import call, refused, verbs

from imagen_jax.config import MeshConfig
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.planning import calls

POD = ("--compile-only", "--topology", "v5e:2x2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "parameters"),
    [("inception", 299, 21.8e6), ("clip", 336, 428e6), ("dinov2", 224, 304e6)],
)
def test_the_published_networks_are_compiled(name, side, parameters):
    made = calls.features(name, 6, make_mesh(MeshConfig(), jax.devices()[:4]))
    assert (made.batch_size, made.chips) == (8, 4)
    params, pictures = made.arguments
    assert pictures.shape == (8, side, side, 3)
    assert sum(x.size for x in jax.tree.leaves(params)) == pytest.approx(parameters, rel=0.01)


@pytest.mark.slow
@needs_libtpu
def test_features_are_compiled_for_a_pod():
    with uncached():
        made = calls.features("inception", 4, make_mesh(MeshConfig(), tpu_devices()))
        assert made.function.lower(*made.arguments).compile() is not None


def test_mistakes_are_refused(tmp_path):
    refused(call(verbs, "evaluate", "--topology", "v5e:2x2"), "--compile-only, which is missing")
    refused(call(verbs, "evaluate", "--compile-only", "--topology", "v5"), "v5")
