"""`stats` and `evaluate` as from a shell, on tiny networks: the figures, and what is refused."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from feature_networks import write_clip_vocabulary
from PIL import Image
from scripts import call, refused, tree, verbs

from imagen_jax.config import MeshConfig
from imagen_jax.evaluation import distances, features
from imagen_jax.evaluation.clip_texts import embed_texts
from imagen_jax.evaluation.feature_files import open_features
from imagen_jax.evaluation.neighbours import precision_and_recall
from imagen_jax.evaluation.reading import Reading
from imagen_jax.parallel.mesh import make_mesh

GOLDEN = Path(__file__).parents[1] / "golden"
COUNT = 40
"""More than the 32 features of the tiny DINOv2."""


@pytest.fixture(autouse=True)
def pictures_of_28_pixels(monkeypatch):
    monkeypatch.setattr(features, "_DINOV2_SIDE", 28)


def save_pictures(directory, seed, count=COUNT):
    rng = np.random.default_rng(seed)
    directory.mkdir()
    for number in range(count):
        low = rng.integers(0, 256, (3, 3, 3)).astype(np.uint8)
        Image.fromarray(low).resize((20, 20)).save(directory / f"{number:03}.png")
    return directory


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two directories of pictures, and the features of the first by each network."""
    root = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "_DINOV2_SIDE", 28)
        save_pictures(root / "true", 0)
        save_pictures(root / "painted", 1)
        for network, recipe in (("clip", "cmmd"), ("dinov2", "fd-dinov2")):
            result = call(
                verbs, "stats", root / "true", root / network, "--recipe", recipe,
                "--weights", GOLDEN / network, "--crop", "centre",
            )  # fmt: skip
            assert (result.code, result.err.count("error")) == (0, 0)
            assert f"{COUNT} pictures, {network} " in result.out
    return root


def evaluate(pictures, out, network, *flags, reference=None, weights=None):
    return call(
        verbs, "evaluate", pictures, "--out", out, "--weights", weights or GOLDEN / network,
        *(("--reference", reference) if reference else ()), *flags,
    )  # fmt: skip


def evaluate_by(pictures, out, sets, *networks_then_flags, weights=None):
    """By several references, with the goldens' weights."""
    networks = [x for x in networks_then_flags if x in ("clip", "dinov2")]
    flags = networks_then_flags[len(networks) :]
    paths = [path if isinstance(path, Path) else GOLDEN / path for path in weights or networks]
    return call(
        verbs, "evaluate", pictures, "--out", out, "--weights", *paths,
        "--reference", *(sets / name for name in networks), *flags,
    )  # fmt: skip


def figures_in(out):
    return json.loads((out / "results.json").read_text())["figures"]


@pytest.mark.slow
def test_figures_are_those_of_the_features(sets, tmp_path):
    result = evaluate(sets / "painted", tmp_path, "dinov2", reference=sets / "dinov2")
    assert result.code == 0
    ours, true = (open_features(path) for path in (tmp_path / "dinov2", sets / "dinov2"))
    precision, recall = precision_and_recall(ours.features(), true.features())
    recipe = f"(dinov2 {true.about['weights'][:8]}, centre, bicubic, 28 pixels)"
    expected = {
        f"FD-DINOv2 {recipe}": distances.frechet_distance(ours.moments(), true.moments()),
        f"precision, 3 neighbours {recipe}": precision,
        f"recall, 3 neighbours {recipe}": recall,
    }
    assert figures_in(tmp_path) == pytest.approx(expected)
    assert all(name in result.out for name in expected)


def test_results_say_what_they_are_of(sets, tmp_path):
    evaluate(sets / "painted", tmp_path, "clip", "--measures", "cmmd", reference=sets / "clip")
    results = json.loads((tmp_path / "results.json").read_text())
    (features,) = results["features"]
    for name, directory in (("pictures", "painted"), ("reference", "true")):
        about = features[name]
        assert (about["name"], about["count"]) == (directory, COUNT)
        assert about["reading"] == {
            "crop": "centre", "resizer": "bicubic", "side": 20, "first_side": 0,
            "first_resizer": "lanczos", "over_128": False,
        }  # fmt: skip
        assert len(about["pictures_sha256"]) == len(about["weights"]) == 64
    ours, true = features["pictures"], features["reference"]
    assert ours["weights"] == true["weights"]
    assert ours["pictures_sha256"] != true["pictures_sha256"]
    assert "jax" in results["versions"]


def test_a_table_and_a_sheet_lie_beside_them(sets, tmp_path):
    """In batches that no memory would hold, if they were filled up."""
    size = ("--batch-size", 10**12)
    result = evaluate(sets / "painted", tmp_path, "clip", *size, reference=sets / "clip")
    table = (tmp_path / "table.md").read_text()
    assert table == result.out and table.startswith("| figure | value |\n| --- | --- |\n| CMMD (")
    assert Image.open(tmp_path / "sheet.png").size[0] > 8 * 128


@pytest.mark.slow
def test_a_set_is_no_distance_from_itself(sets, tmp_path):
    for network in ("clip", "dinov2"):
        out = tmp_path / network
        evaluate(sets / "true", out, network, reference=sets / network)
        for name, value in figures_in(out).items():
            assert value == pytest.approx(1 if "neighbours" in name else 0, abs=1e-6), name


@pytest.fixture
def clip_directory(tmp_path):
    """The golden with a vocabulary of its sizes."""
    directory = tmp_path / "clip"
    shutil.copytree(GOLDEN / "clip", directory)
    write_clip_vocabulary(directory)
    return directory


def painted(directory, prompts):
    """As sample.py leaves them behind."""
    save_pictures(directory, 2, len(prompts))
    rows = [{"prompt": text, "files": [f"{n:03}.png"]} for n, text in enumerate(prompts)]
    manifest = {"seed": 5, "pictures": rows, "stages": [{}]}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


@pytest.mark.slow
def test_the_clip_score_is_of_each_picture_with_its_own_prompt(clip_directory, tmp_path):
    prompts = ["a red apple", "bananas", "a red apple", "zoo", "x", "y z", "tree", "red"]
    directory, out = painted(tmp_path / "painted", prompts), tmp_path / "out"
    flags = ("--clip-score", "--batch-size", "3")
    assert evaluate(directory, out, "clip", *flags, weights=clip_directory).code == 0
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    clip = features.open_network("clip", clip_directory, mesh, Reading("centre", "bicubic"))
    texts = embed_texts(clip, clip_directory, prompts[::-1], batch_size=8)[::-1]
    pixels = [np.asarray(Image.open(directory / f"{n:03}.png")) for n in range(len(prompts))]
    (seen,) = clip(map(clip.reading, pixels), 8)
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(seen, texts, strict=True)]
    ((name, value),) = figures_in(out).items()
    assert name.startswith("CLIP score (clip ") and name.endswith("centre, bicubic, 20 pixels)")
    assert value == pytest.approx(np.mean([max(100 * x, 0) for x in cosines]), rel=1e-4)
    assert 1 < sum(x > 0.01 for x in cosines) < len(prompts)


def test_several_networks_measure_in_one_call_what_each_does_alone(sets, clip_directory, tmp_path):
    """CLIP's features serve its distance and the score; the score takes CLIP beside others."""
    ours = painted(tmp_path / "painted", [f"apple {n}" for n in range(COUNT)])
    alone = {}
    for name, weights in (("dinov2", GOLDEN / "dinov2"), ("clip", clip_directory)):
        out, score = tmp_path / name, ["--clip-score"] if name == "clip" else []
        given = {"reference": sets / name, "weights": weights}
        assert evaluate(ours, out, name, *score, **given).code == 0
        alone |= figures_in(out)
    assert len(alone) == 5

    both, paths = tmp_path / "both", [GOLDEN / "dinov2", clip_directory]
    given = {"weights": paths}
    assert evaluate_by(ours, both, sets, "dinov2", "clip", "--clip-score", **given).code == 0
    assert figures_in(both) == alone
    results = json.loads((both / "results.json").read_text())
    assert [one["pictures"]["network"] for one in results["features"]] == ["dinov2", "clip"]

    few = ("--clip-score", "--measures", "fd-dinov2")
    assert evaluate_by(ours, tmp_path / "few", sets, "dinov2", *few, **given).code == 0
    names = [name.split(" (")[0] for name in figures_in(tmp_path / "few")]
    assert names == ["FD-DINOv2", "CLIP score"]
    assert figures_in(tmp_path / "few").items() <= alone.items()

    # Of one way the second's figures would have the first's names.
    again = ("--reference", sets / "dinov2", sets / "dinov2", "--weights", paths[0], paths[0])
    same = call(verbs, "evaluate", ours, "--out", tmp_path / "same", *again)
    refused(same, "Two references are measured by one network and one way")
    assert not (tmp_path / "same").exists()

    # Two ways to read have two places, and their figures two names.
    stats = ("--recipe", "fd-dinov2", "--weights", paths[0], "--resizer", "bilinear")
    other = tmp_path / "bilinear"
    assert call(verbs, "stats", sets / "true", other, *stats).code == 0
    twice = ("--reference", sets / "dinov2", other, "--measures", "fd-dinov2")
    out = tmp_path / "twice"
    weights = ("--weights", paths[0], paths[0])
    assert call(verbs, "evaluate", ours, "--out", out, *twice, *weights).code == 0
    assert len(figures_in(out)) == 2
    assert {path.name for path in out.iterdir() if path.is_dir()} == {"dinov2", "dinov2-2"}


@pytest.mark.slow
def test_prompts_may_come_from_a_file(clip_directory, tmp_path):
    """Two pictures of each prompt, painted by whom it may be."""
    prompts = ["a red apple", "bananas", "zoo"]
    save_pictures(tmp_path / "pictures", 2, 6)
    (tmp_path / "p.csv").write_text("\n".join(["Prompts,Category", *(f"{x},x" for x in prompts)]))
    ours = painted(tmp_path / "painted", [x for x in prompts for _ in range(2)])
    flags = ("--clip-score", "--prompts", f"table:{tmp_path / 'p.csv'}", "--num-images", "2")
    batches = ("--batch-size", 10**12)
    for directory, *own in ((tmp_path / "pictures", *flags), (ours, "--clip-score", *batches)):
        out = tmp_path / f"out-{directory.name}"
        assert evaluate(directory, out, "clip", *own, weights=clip_directory).code == 0
    one, other = (
        json.loads((tmp_path / f"out-{name}" / "results.json").read_text())
        for name in ("pictures", "painted")
    )
    assert one["figures"] == pytest.approx(other["figures"]) and len(one["figures"]) == 1
    assert one["prompts_sha256"] == other["prompts_sha256"]
    assert (one["painted"], other["painted"]) == ({}, {"seed": 5, "stages": [{}]})
    refused(
        evaluate(tmp_path / "pictures", tmp_path / "o", "clip", *flags[:3], weights=clip_directory),
        "holds 6 pictures; 3 prompts with 1 pictures each have 3",
    )  # fmt: skip
    refused(evaluate(ours, tmp_path / "o", "clip", *flags, weights=clip_directory), "manifest.json")


def test_nothing_is_written_where_something_is_wrong(sets, clip_directory, tmp_path):
    out = tmp_path / "out"
    clip, true = sets / "clip", sets / "true"
    blank = painted(tmp_path / "blank", ["a", " "])
    before = tree(tmp_path), tree(sets)
    for result, *says in (
        (evaluate(true, out, "clip"), "nothing to measure", "--reference or --clip-score"),
        (evaluate(true, out, "clip", "--clip-score"), str(true), "no manifest.json", "--prompts"),
        (evaluate(true, out, "clip", "--measures", "fid", reference=clip), "'fid'", "cmmd"),
        (evaluate(blank, out, "clip", "--clip-score", "--measures", "cmmd"), "take a --reference"),
        (evaluate(blank, out, "clip", "--clip-score", weights=clip_directory), "' '"),
        (evaluate(blank, out, "clip", "--clip-score", "--count", 2), "--count is 2", "--prompts"),
        (evaluate(true, out, "clip", reference=true), "holds no features"),
        (evaluate(true, true, "clip", reference=clip), "lies in", "all of whose pictures"),
        (evaluate(true, true / "x" / "y", "clip", reference=clip), "lies in"),
        (evaluate(true, out, "dinov2", reference=clip), "model_type 'dinov2'", "'clip'"),
        (evaluate(tmp_path / "no", out, "clip", reference=clip), "no directory of pictures"),
        (evaluate(true, out, "clip", "--batch-size", "0", reference=clip), "--batch-size is 0; it"),
        (evaluate(true, out, "clip", "--num-images", "0", reference=clip), "--num-images is 0; it"),
        (evaluate(true, out, "clip", reference=true / "s.npz"), "s.npz", "--recipe"),
        (evaluate(true, out, "clip", "--recipe", "cmmd", reference=clip), "--recipe is cmmd"),
        (
            evaluate(true, out, "clip", "--recipe", "cmmd", reference=true / "s.npz"),
            "'cmmd', of clip",
        ),
        (
            call(verbs, "stats", true, out, "--weights", "w", "--npz", tmp_path / "s.npz"),
            "more than 2048 pictures",
        ),
        (
            call(
                verbs, "stats", true, out, "--weights", "w", "--npz", tmp_path / "s.npz",
                "--recipe", "cmmd",
            ),
            "--npz is", "cmmd is not",
        ),
        (
            evaluate(blank, out, "clip", "--clip-score", reference=sets / "dinov2"),
            "--weights has 1 paths", "takes 2, those of dinov2, then of clip",
        ),
        (
            evaluate_by(true, out, sets, "clip", "clip", weights=["clip"]),
            "--weights has 1 paths", "takes 2, those of clip, then of clip",
        ),
        (evaluate_by(true, out, sets, "clip", "--measures", "x"), "'x'; of clip it must", "cmmd"),
        (
            evaluate_by(true, out, sets, "clip", "dinov2", "--measures", "fid"),
            "'fid'; of clip and dinov2 it must be one of cmmd, fd-dinov2, precision-recall",
        ),
        (
            evaluate_by(true, out, sets, "dinov2", "clip", "--measures", "cmmd"),
            "None of the measures cmmd is of dinov2",
        ),
        (
            evaluate_by(true, out, sets, "clip", "dinov2", weights=["dinov2", "clip"]),
            "model_type 'dinov2'", "'clip'",
        ),
    ):  # fmt: skip
        refused(result, *says)
    assert (tree(tmp_path), tree(sets)) == before


def test_a_picture_that_cannot_be_measured_is_named_before_anything_is_written(sets, tmp_path):
    bad = save_pictures(tmp_path / "bad", 3, 3)
    for mode, says in (("RGBA", "picture of mode 'RGBA'"), (None, "none of BMP, JPEG, PNG, WEBP")):
        Image.new(mode or "RGB", (9, 9)).save(bad / "x.png", "PNG" if mode else "GIF")
        result = evaluate(bad, tmp_path / "out", "clip", reference=sets / "clip")
        refused(result, "x.png", says)
        assert not (tmp_path / "out").exists()


def test_a_picture_that_was_cut_may_be_mended(sets, tmp_path):
    bad = save_pictures(tmp_path / "bad", 3, 3)
    whole = (bad / "001.png").read_bytes()
    (bad / "001.png").write_bytes(whole[: len(whole) // 2])
    run = lambda: evaluate(bad, tmp_path / "out", "clip", reference=sets / "clip")  # noqa: E731
    result = run()
    assert result.code == 2 and "001.png cannot be read as a picture" in result.err
    (bad / "001.png").write_bytes(whole)
    assert run().code == 0 and len(figures_in(tmp_path / "out")) == 1


def test_other_weights_than_the_references_are_refused(sets, clip_directory, tmp_path):
    import safetensors.numpy

    path = clip_directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["logit_scale"] += 1
    safetensors.numpy.save_file(tensors, path)
    out = tmp_path / "out"
    result = evaluate(
        sets / "painted", out, "clip", reference=sets / "clip", weights=clip_directory
    )  # fmt: skip
    refused(result, "is of another recipe", "weights")
    assert not out.exists()


def test_too_few_pictures_leave_no_results(sets, tmp_path):
    few = save_pictures(tmp_path / "few", 3, 32)
    result = evaluate(few, tmp_path / "out", "dinov2", reference=sets / "dinov2")
    refused(result, "more than 32 pictures", "there are 32", "KID, CMMD")
    assert not (tmp_path / "out").exists()
    result = evaluate(
        few, tmp_path / "out", "dinov2", "--measures", "precision-recall",
        reference=sets / "dinov2",
    )  # fmt: skip
    assert result.code == 0 and len(figures_in(tmp_path / "out")) == 2
