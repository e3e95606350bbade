"""`evaluate`: from pictures and a reference to figures, a table and a sheet."""

import dataclasses
import json
from collections.abc import Sequence
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
from imagen_jax.evaluation.feature_files import make_features
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
class Yardstick:
    """What pictures are measured by: one network, and what it is asked.

    Attributes:
        reference: says which network measures, and how it reads; None for the CLIP score alone.
        weights: of that network.
        names: of the measures; () for all that the network has.
        clip_score: whether pictures are held against their own prompts.
    """

    reference: measures.Reference | None
    weights: Path
    names: tuple[str, ...] = ()
    clip_score: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """Pictures, and all that they are measured by."""

    pictures: PictureSet
    yardsticks: tuple[Yardstick, ...]

    def __post_init__(self) -> None:
        if any(one.clip_score for one in self.yardsticks) and not self.pictures.prompts:
            raise UsageError(
                f"{self.pictures.directory} holds no manifest.json of sample.py that says the "
                "prompts which the CLIP score is of; give them with --prompts."
            )
        for one in self.yardsticks:
            if one.reference:
                measures.check(one.reference, one.names, len(self.pictures))


def yardsticks(
    references: Sequence[measures.Reference],
    weights: Sequence[Path],
    names: Sequence[str] = (),
    *,
    clip_score: bool = False,
) -> tuple[Yardstick, ...]:
    """One for each reference, and one for the CLIP score where none of them is of clip.

    Args:
        references: what pictures are measured against.
        weights: of the network of each, in the same order.
        names: of the measures, each for those references that have it; () for all.
        clip_score: whether pictures are held against their own prompts.

    Raises:
        UsageError: there is nothing to measure, or other weights than these networks take, or
            a measure that belongs to no reference, or a reference without a measure.
    """
    if not references and names:
        raise UsageError(f"The measures {', '.join(names)} take a --reference, which is missing.")
    if not references and not clip_score:
        raise UsageError("There is nothing to measure; give --reference or --clip-score.")
    networks: list[str] = [reference.network for reference in references]
    adds_clip = clip_score and "clip" not in networks
    order = [*networks, "clip"] if adds_clip else networks
    if len(weights) != len(order):
        raise UsageError(
            f"--weights has {len(weights)} paths; it takes {len(order)}, those of "
            f"{', then of '.join(order)}."
        )
    measures.check_names(names, references)
    made: list[Yardstick] = []
    for reference, path in zip(references, weights, strict=False):
        own = tuple(name for name in names if name in measures.known(reference))
        if names and not own:
            raise UsageError(
                f"None of the measures {', '.join(names)} is of {reference.network}; leave its "
                "reference out."
            )
        first = clip_score and reference.network == "clip" and not any(x.clip_score for x in made)
        made.append(Yardstick(reference=reference, weights=path, names=own, clip_score=first))
    if adds_clip:
        made.append(Yardstick(reference=None, weights=weights[-1], clip_score=True))
    return tuple(made)


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


def open_networks(by: Sequence[Yardstick]) -> list[FeatureNetwork]:
    """The network of each yardstick.

    Raises:
        UsageError: weights or a tokenizer cannot be read, or weights are others than the
            reference's.
    """
    for one in by:
        if one.clip_score:
            open_text_side(one.weights)
    return [open_for(one.reference, one.weights) for one in by]


def evaluate(work: Work, out: Path, *, batch_size: int) -> measures.Figures:
    """Makes the features of the pictures and measures them.

    It writes results.json, table.md and sheet.png to `out`. Of several processes all must call it,
    and the first one measures; the others get no figures.

    Raises:
        UsageError: pictures or weights cannot be read, the reference is of another recipe, or the
            sheet would be one of the pictures.
    """
    _check_apart(work.pictures, out)
    networks = open_networks(work.yardsticks)
    _check_names(work.yardsticks, networks)
    # What is wrong with a prompt shows before the features, which may take hours.
    texts = [
        _texts(work.pictures, one, network, batch_size)
        for one, network in zip(work.yardsticks, networks, strict=True)
    ]
    figures: measures.Figures = {}
    accounts = []
    for one, network, own, place in zip(
        work.yardsticks, networks, texts, _directories(networks, out), strict=True
    ):
        made = make_features(work.pictures, network, place, batch_size=batch_size)
        if not distributed.leads():
            continue
        if one.reference:
            figures |= measures.measure(made, one.reference, one.names)
        if own is not None:
            figures |= measures.clip_score(made, own)
        sets = {"pictures": made} | ({"reference": one.reference} if one.reference else {})
        accounts.append({name: files.account() for name, files in sets.items()})
    if not distributed.leads():
        return {}
    results = _results(figures, accounts, work.pictures)
    save_png(_sheet(work.pictures), out / SHEET)
    write_text(out / TABLE, markdown(figures) + "\n")
    write_text(out / RESULTS, json.dumps(results, indent=2))
    return figures


def _check_names(yardsticks: Sequence[Yardstick], networks: Sequence[FeatureNetwork]) -> None:
    """Raises a UsageError for two references whose figures would have the same names."""
    measured = [
        digest(network.recipe)
        for one, network in zip(yardsticks, networks, strict=True)
        if one.reference
    ]
    if len(set(measured)) < len(measured):
        raise UsageError(
            "Two references are measured by one network and one way to read pictures, so their "
            "figures have the same names; give one of them at a time."
        )


def _directories(networks: Sequence[FeatureNetwork], out: Path) -> list[Path]:
    """Where the features of each lie: those of one network and one way to read in one place."""
    places: dict[str, Path] = {}
    for network in networks:
        earlier = sum(path.name.startswith(network.name) for path in places.values())
        name = f"{network.name}-{earlier + 1}" if earlier else network.name
        places.setdefault(digest(network.recipe), out / name)
    return [places[digest(network.recipe)] for network in networks]


def _texts(
    pictures: PictureSet, by: Yardstick, network: FeatureNetwork, batch_size: int
) -> np.ndarray | None:
    """The prompts' embeddings, float32 [pictures, embedding], on the first process, where the CLIP
    score takes them."""
    if not by.clip_score:
        return None
    return distributed.leader_does(
        lambda: embed_texts(network, by.weights, pictures.prompts, batch_size=batch_size)
    )


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


def _results(
    figures: measures.Figures, accounts: list[dict[str, Any]], pictures: PictureSet
) -> dict[str, Any]:
    """All that another needs to come to the same figures."""
    return {
        "figures": figures,
        "features": accounts,
        "painted": pictures.account,
        "prompts_sha256": digest({"prompts": list(pictures.prompts)}),
        "seed": measures.SEED,
        "versions": package_versions(),
    }
