"""Figures of pictures that a run paints: which pictures, when, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from scripts import call, refused, train, tree, verbs

from imagen_jax.errors import UsageError
from imagen_jax.evaluation.feature_files import open_features
from imagen_jax.evaluation.while_training import open_measure
from imagen_jax.training.loop import run
from imagen_jax.training.painted import Measuring

CLIP = Path(__file__).parents[1] / "golden" / "clip"


class Kept:
    """Keeps what it is shown; its figure is the number of pictures."""

    def __init__(self):
        self.times = [[]]

    def features(self, pictures):
        self.times[-1].append(pictures)
        return pictures.reshape(len(pictures), -1).astype(np.float32)

    def figures(self, features):
        self.times.append([])
        return {"pictures shown (kept)": float(len(features))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.folder(tmp_path_factory.mktemp("while") / "pictures")


def logged(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {x["step"]: x["pictures shown (kept)"] for x in lines if "pictures shown (kept)" in x}


@pytest.mark.slow
def test_so_many_pictures_are_painted_at_each_time_and_none_is_kept(folder, tmp_path):
    config, kept = tiny.stage(data=folder, training={"num_steps": 5}), Kept()
    run(config, tmp_path / "w", measuring=Measuring(2, 11, kept))
    assert logged(tmp_path / "w") == {2: 11, 4: 11, 5: 11}
    for shown in kept.times[:3]:
        pictures = np.concatenate(shown)
        assert pictures.shape == (11, 16, 16, 3) and pictures.dtype == np.uint8
        assert len(np.unique(pictures.reshape(11, -1), axis=0)) == 11
    assert not list((tmp_path / "w").glob("**/*.png"))


@pytest.mark.slow
def test_pictures_are_whole_where_crops_are_trained_on(folder, tmp_path):
    """A quarter as many at once: no more pixels than a training step has."""
    changes = {"training": {"num_steps": 1}, "data": {"source": folder.source, "crop": 8}}
    config, kept = tiny.replace(tiny.super_resolution(), **changes), Kept()
    side = config.resolution
    run(config, tmp_path / "w", measuring=Measuring(1, 5, kept))
    assert [pictures.shape[1:] for pictures in kept.times[0]] == [(side, side, 3)] * len(
        kept.times[0]
    )
    assert sum(map(len, kept.times[0])) == 5


@pytest.mark.slow
def test_a_run_that_is_not_trained_shows_the_same_pictures_each_time(folder, tmp_path):
    frozen = {"learning_rate": 1e-30}  # Below what a float32 weight can be changed by.
    config, kept = tiny.stage(data=folder, training={"num_steps": 2}, optimizer=frozen), Kept()
    run(config, tmp_path / "w", measuring=Measuring(1, 9, kept))
    first, second = (np.concatenate(shown) for shown in kept.times[:2])
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:left out")
def test_batches_of_broken_records_are_passed_over_and_nothing_else_ends_it(folder, tmp_path):
    """One record of twelve can be used, and then none: every batch is of eight."""
    held_out = tiny.folder(tmp_path / "broken").source.removeprefix("folder:")
    for path in sorted(Path(held_out).glob("*.png"))[1:]:
        path.write_bytes(b"no picture")
    told = {"eval_source": f"folder:{held_out}", "max_broken_share": 1.0}
    config = tiny.replace(
        tiny.stage(data=folder), data=told, training={"num_steps": 1, "eval_every": 1}
    )
    kept = Kept()
    run(config, tmp_path / "w", measuring=Measuring(1, 5, kept))
    pictures = np.concatenate(kept.times[0])
    assert len(np.unique(pictures.reshape(5, -1), axis=0)) == 5  # Each of its own noise.
    assert all(map(len, kept.times[0]))
    (Path(held_out) / "00.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="nothing to measure: 40 records .* were broken"):
        run(config, tmp_path / "other", measuring=Measuring(1, 5, Kept()))


@pytest.mark.slow
def test_figures_are_those_of_evaluate(tmp_path):
    rng = np.random.default_rng(0)
    sets = {}
    for name in ("true", "painted"):
        sets[name] = rng.integers(0, 256, (6, 20, 20, 3)).astype(np.uint8)
        (tmp_path / name).mkdir()
        for number, picture in enumerate(sets[name]):
            Image.fromarray(picture).save(tmp_path / name / f"{number}.png")
    stats = call(
        verbs, "stats", tmp_path / "true", tmp_path / "r", "--recipe", "cmmd", "--weights", CLIP
    )
    assert stats.code == 0
    measure = open_measure(open_features(tmp_path / "r"), CLIP, (), 6, batch_size=8)
    parts = [measure.features(sets["painted"][rows]) for rows in (slice(0, 4), slice(4, 6))]
    result = call(
        verbs, "evaluate", tmp_path / "painted", "--out", tmp_path / "o", "--weights", CLIP,
        "--reference", tmp_path / "r",
    )  # fmt: skip
    assert result.code == 0
    expected = json.loads((tmp_path / "o" / "results.json").read_text())["figures"]
    assert measure.figures(np.concatenate(parts)) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UsageError, match="The measure is 'fid'"):
        open_measure(open_features(tmp_path / "r"), CLIP, ("fid",), 6)


def test_flags_that_do_not_go_together_are_refused(tmp_path):
    for flags, *says in (
        (("--measuring.pictures", 9), "belong to --measuring.every"),
        (("--measuring.every", -1), "must not be negative"),
        (("--measuring.every", 1, "--measuring.pictures", 0), "positive"),
        (("--measuring.every", 1), "--measuring.reference is missing"),
        (
            ("--measuring.every", 1, "--measuring.reference", "r"),
            "--measuring.weights is missing",
        ),
        (
            ("--measuring.every", 1, "--measuring.reference", tmp_path, "--measuring.weights", "w"),
            "holds no features",
        ),
    ):
        refused(call(train, "tiny_64", "--workdir", tmp_path / "w", *flags), *says)
    assert tree(tmp_path) == {}
