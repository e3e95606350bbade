"""Features of a set of pictures in a directory, made once and measured as often as one likes.

`about.json` says of which pictures and by what they are; `part-00000.safetensors` and so on hold
them, `PART` pictures each. A killed run goes on with the parts that are missing, and of several
processes each makes parts of its own; all see the same directory.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from imagen_jax.config.choices import FeatureName
from imagen_jax.errors import UsageError, naming
from imagen_jax.evaluation.features import FeatureNetwork
from imagen_jax.evaluation.moments import Moments, moments_of, no_moments
from imagen_jax.evaluation.pictures import PictureSet, check_heads, read_picture
from imagen_jax.evaluation.reading import Reading, Resized
from imagen_jax.parallel import distributed
from imagen_jax.storage.digests import read_sealed, sealed
from imagen_jax.storage.files import beside_logs, write_text
from imagen_jax.storage.json_text import shown
from imagen_jax.weights.stored import check_fit, open_file
from imagen_jax.weights.tensors import write_tensors

Features = Float[np.ndarray, "pictures features"]

PART = 1024
ABOUT = "about.json"
_FORMAT = "imagen-jax features 2"
_TEXTS, _NUMBERS = ("network", "weights", "name", "listing"), {"count": 2**27, "width": 2**14}
"""Fields of `about.json`, and the most that numbers may be."""
_NAME, _PICTURES = "features", "pictures"


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
    """A finished directory of features.

    Attributes:
        about: what `about.json` says.
    """

    directory: Path
    about: dict[str, Any]

    @property
    def count(self) -> int:
        return self.about["count"]

    @property
    def network(self) -> str:
        return self.about["network"]

    def parts(self) -> Iterator[Features]:
        """All features in order, one part at a time.

        Raises:
            UsageError: a file is damaged.
        """
        for number in range(_part_count(self.count)):
            path = _part(self.directory, number)
            tensors = open_file(path)[1]
            shape = len(_rows(self.count, number)), self.about["width"]
            check_fit(tensors, {_NAME: shape}, path)
            yield tensors[_NAME].whole("float32")

    def features(self) -> Features:
        """All features in order, float32."""
        return np.concatenate(list(self.parts()))

    def moments(self) -> Moments:
        """The moments of all features; no more than one part is in memory."""
        total = no_moments(self.about["width"])
        for part in self.parts():
            total = total.merged(moments_of(part))
        return total

    def account(self) -> dict[str, Any]:
        """What results say of them."""
        return {**self.about, "pictures_sha256": self.pictures_sha256()}

    def pictures_sha256(self) -> str:
        """SHA-256 over that of each part's picture files."""
        sha = hashlib.sha256()
        for number in range(_part_count(self.count)):
            sha.update(_sum_in(_part(self.directory, number)).encode())
        return sha.hexdigest()


def open_features(directory: Path) -> FeatureFiles:
    """Features that `make_features` has finished.

    Raises:
        UsageError: there are none, or some parts are missing.
    """
    path = directory / ABOUT
    if not path.is_file():
        raise UsageError(f"{directory} holds no features: there is no {ABOUT} in it.")
    about = read_sealed(path)
    _check_about(about, path)
    count = _part_count(about["count"])
    missing = [n for n in range(count) if not _part(directory, n).is_file()]
    if missing:
        raise UsageError(
            f"{directory} is unfinished: {len(missing)} of its {count} parts are missing; the "
            "command that began it goes on."
        )
    return FeatureFiles(directory, about)


def _check_about(about: dict[str, Any], path: Path) -> None:
    """Raises a UsageError unless the values are those that `_about` gives; they may be anyone's."""
    fits = about.get("format") == _FORMAT and about.get("network") in get_args(FeatureName)
    fits = fits and all(isinstance(about.get(name), str) for name in _TEXTS)
    for name, most in _NUMBERS.items():
        value = about.get(name)
        fits = fits and type(value) is int and 0 < value <= most
    reading, fields = about.get("reading"), {x.name for x in dataclasses.fields(Reading)}
    if not (fits and isinstance(reading, dict) and reading.keys() == fields):
        raise UsageError(f"{path} does not say what features of {_FORMAT!r} are of.")
    with naming(path):
        Reading(**reading)


def make_features(
    pictures: PictureSet, network: FeatureNetwork, out: Path, *, batch_size: int
) -> FeatureFiles:
    """Makes the features of pictures, or what of them is not there yet.

    All processes must call it.

    Raises:
        UsageError: `out` holds features of other pictures, be it of the same names and sizes, or
            of another recipe, or something else; a picture cannot be read.
    """
    batch_size = min(batch_size, PART, len(pictures))  # What goes beyond is filled up for nothing.
    about = _about(pictures, network)
    _check(out, about)
    # Later it would be said after hours, and beside files that are there already.
    distributed.leader_does(lambda: None if (out / ABOUT).is_file() else check_heads(pictures))
    distributed.wait_for_all("checked the features")
    if distributed.leads():
        write_text(out / ABOUT, json.dumps(sealed(about), indent=2))
    distributed.wait_for_all("began the features")
    count = _part_count(len(pictures))
    mine = range(jax.process_index(), count, jax.process_count())
    missing = [number for number in mine if not _part(out, number).is_file()]
    for number in mine:
        if number not in missing:
            _check_part(number, pictures, out)
    total = sum(len(_rows(len(pictures), number)) for number in missing)
    hidden = not (total and distributed.leads())
    with tqdm(total=total, unit="picture", disable=hidden) as bar:
        for number in missing:
            _make_part(number, pictures, network, out, batch_size, bar)
    distributed.wait_for_all("made the features")
    return open_features(out)


def _about(pictures: PictureSet, network: FeatureNetwork) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        **network.recipe,
        "name": pictures.directory.resolve().name,
        "count": len(pictures),
        "listing": pictures.listing,
    }


def _check(out: Path, about: dict[str, Any]) -> None:
    """Refuses a directory that holds anything but what this run has left there."""
    path = out / ABOUT
    if not path.is_file():
        if beside_logs(out):
            raise UsageError(f"{out} holds something else than features; name a new directory.")
        return
    before = read_sealed(path)
    if not any(_part(out, number).is_file() for number in range(_part_count(about["count"]))):
        return  # A picture could not be read, and may have been mended.
    for name in about.keys() - {"name"}:  # A directory may have been moved.
        if before.get(name) != about[name]:
            raise UsageError(
                f"{out} holds features of others: their {name} is {shown(before.get(name))} and "
                f"that of these {shown(about[name])}; name a new directory."
            )


def _check_part(number: int, pictures: PictureSet, out: Path) -> None:
    """Raises a UsageError where picture files of a part are others than it was made of."""
    sha = hashlib.sha256()
    for row in _rows(len(pictures), number):
        data = (pictures.directory / pictures.names[row]).read_bytes()
        sha.update(hashlib.sha256(data).digest())
    if sha.hexdigest() != _sum_in(_part(out, number)):
        raise UsageError(
            f"{out} holds features of others: {pictures.directory} has other pictures under the "
            "same names; name a new directory."
        )


def _sum_in(part: Path) -> str:
    """SHA-256 over those of a part's picture files, as its header says it."""
    return open_file(part)[0].get(_PICTURES, "")


def _make_part(
    number: int,
    pictures: PictureSet,
    network: FeatureNetwork,
    out: Path,
    batch_size: int,
    bar: tqdm,
) -> None:
    sha, batches = hashlib.sha256(), []

    def read() -> Iterator[Resized]:
        for row in _rows(len(pictures), number):
            picture, data = read_picture(pictures.directory / pictures.names[row])
            sha.update(hashlib.sha256(data).digest())
            yield network.reading(picture)

    for batch in network(read(), batch_size):
        batches.append(batch)
        bar.update(len(batch))
    features = np.concatenate(batches)
    write_tensors(_part(out, number), {_NAME: features}, "float32", {_PICTURES: sha.hexdigest()})


def _rows(count: int, number: int) -> range:
    return range(number * PART, min(count, (number + 1) * PART))


def _part_count(pictures: int) -> int:
    return -(-pictures // PART)


def _part(directory: Path, number: int) -> Path:
    return directory / f"part-{number:05}.safetensors"
