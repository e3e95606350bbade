"""`evaluate`: from pictures and a reference to figures, a table and a sheet."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from imagen_jax.checkpoints.directory import package_versions
from imagen_jax.config import MeshConfig
from imagen_jax.config.choices import FeatureName
from imagen_jax.errors import UsageError
from imagen_jax.evaluation import measures
from imagen_jax.evaluation.clip_texts import embed_texts, open_text_side
from imagen_jax.evaluation.feature_files import FeatureFiles, make_features
from imagen_jax.evaluation.features import FeatureNetwork, open_network
from imagen_jax.evaluation.pictures import PictureSet, read_picture
from imagen_jax.evaluation.reading import RECIPES, Reading
from imagen_jax.evaluation.tables import RESULTS, TABLE, table
from imagen_jax.parallel import distributed
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.sheets import grid, legible, save_png
from imagen_jax.storage.digests import digest
from imagen_jax.storage.files import absolute, write_text

SHEET = "sheet.png"
_SHOWN, _COLUMNS, _CELL = 40, 8, 128
"""Of the sheet: how many of the pictures, beside each other, and how high in pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What is measured, and by what.

    Attributes:
        reference: says which network measures, and how it reads; None for the CLIP score alone.
        weights: of that network.
        names: of the measures; () for all that the network has.
        clip_score: whether pictures are held against their own prompts.
    """

    pictures: PictureSet
    reference: measures.Reference | None
    weights: Path
    names: tuple[str, ...] = ()
    clip_score: bool = False

    def __post_init__(self) -> None:
        if self.reference is None and not self.clip_score:
            raise UsageError("There is nothing to measure; give --reference or --clip-score.")
        if self.reference is None and self.names:
            raise UsageError(
                f"The measures {', '.join(self.names)} take a --reference, which is missing."
            )
        if self.clip_score and not self.pictures.prompts:
            raise UsageError(
                f"{self.pictures.directory} holds no manifest.json of sample.py that says the "
                "prompts which the CLIP score is of; give them with --prompts."
            )
        if self.clip_score and self.reference and self.reference.network != "clip":
            raise UsageError(
                f"The reference is of {self.reference.network}, and the CLIP score is of clip; "
                "measure them one after the other, each with an --out of its own."
            )
        if self.reference:
            measures.check(self.reference, self.names, len(self.pictures))


def open_here(name: FeatureName, weights: Path, reading: Reading) -> FeatureNetwork:
    """A feature network on the devices of this process."""
    mesh = make_mesh(MeshConfig(), jax.local_devices())
    return open_network(name, weights, mesh, reading)


def open_for(reference: measures.Reference | None, weights: Path) -> FeatureNetwork:
    """The network that made a reference, reading as that was read; without one CLIP, for its score.

    Raises:
        UsageError: weights cannot be read, or are others than the reference's.
    """
    if reference is None:
        name, reading = RECIPES["cmmd"]
        return open_here(name, weights, reading)
    network = open_here(reference.network, weights, Reading(**reference.about["reading"]))
    measures.check_recipe(network.recipe, reference)
    return network


def check_networks(work: Work) -> None:
    """Opens what `evaluate` will, before there are any pictures.

    Raises:
        UsageError: weights or a tokenizer cannot be read, or weights are others than the
            reference's.
    """
    open_for(work.reference, work.weights)
    if work.clip_score:
        open_text_side(work.weights)


def evaluate(work: Work, out: Path, *, batch_size: int) -> measures.Figures:
    """Makes the features of the pictures and measures them.

    It writes results.json, table.md and sheet.png to `out`. Of several processes all must call it,
    and the first one measures; the others get no figures.

    Raises:
        UsageError: pictures or weights cannot be read, the reference is of another recipe, or the
            sheet would be one of the pictures.
    """
    _check_apart(work.pictures, out)
    network = open_for(work.reference, work.weights)
    texts = distributed.leader_does(lambda: _texts(work, network, batch_size))
    made = make_features(work.pictures, network, out / network.name, batch_size=batch_size)
    if not distributed.leads():
        return {}
    figures: measures.Figures = {}
    if work.reference:
        figures |= measures.measure(made, work.reference, work.names)
    if texts is not None:
        figures |= measures.clip_score(made, texts)
    results = _results(figures, made, work)
    save_png(_sheet(work.pictures), out / SHEET)
    write_text(out / TABLE, markdown(figures) + "\n")
    write_text(out / RESULTS, json.dumps(results, indent=2))
    return figures


def _check_apart(pictures: PictureSet, out: Path) -> None:
    """Raises a UsageError where the next call would measure the sheet that this one writes."""
    inside = Path(absolute(out)).is_relative_to(absolute(pictures.directory))
    if inside and not pictures.account:
        raise UsageError(
            f"--out is {out}, which lies in {pictures.directory}, all of whose pictures are "
            "measured; name another directory."
        )


def markdown(figures: measures.Figures) -> str:
    """A table of figures by their names."""
    return table([["figure", "value"], *([name, f"{x:.4f}"] for name, x in figures.items())])


def _sheet(pictures: PictureSet) -> Image.Image:
    """The first of the pictures, their centres, above their prompts where these are known."""
    cut = Reading("centre", "lanczos", side=_CELL)
    names = pictures.names[:_SHOWN]
    shown = [cut(read_picture(pictures.directory / name)[0]).astype(np.uint8) for name in names]
    captions = [text if legible(text) else "" for text in (pictures.prompts or names)[:_SHOWN]]
    rows = [slice(first, first + _COLUMNS) for first in range(0, len(shown), _COLUMNS)]
    return grid([shown[row] for row in rows], [captions[row] for row in rows], _CELL)


def _texts(work: Work, network: FeatureNetwork, batch_size: int) -> np.ndarray | None:
    """The prompts' embeddings, float32 [pictures, embedding], where the CLIP score takes them."""
    if not work.clip_score:
        return None
    return embed_texts(network, work.weights, work.pictures.prompts, batch_size=batch_size)


def _results(figures: measures.Figures, made: FeatureFiles, work: Work) -> dict[str, Any]:
    """All that another needs to come to the same figures."""
    sets = {"pictures": made} | ({"reference": work.reference} if work.reference else {})
    described = {name: files.account() for name, files in sets.items()}
    prompts = list(work.pictures.prompts)
    return {
        "figures": figures,
        **described,
        "painted": work.pictures.account,
        "prompts_sha256": digest({"prompts": prompts}),
        "seed": measures.SEED,
        "versions": package_versions(),
    }
