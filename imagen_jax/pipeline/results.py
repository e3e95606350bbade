"""What sample.py leaves behind: pictures of every stage, a contact sheet, and a manifest.

The manifest says how the pictures are made and which are there: it is written anew with every
batch, so that a run that was stopped can go on from it.
"""

import dataclasses
import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from imagen_jax.checkpoints.directory import package_versions
from imagen_jax.config import SamplingConfig
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.file_stem import file_stem
from imagen_jax.pipeline.inscription import KEY, inscription, inscription_of_sheet
from imagen_jax.pipeline.painting import Keeper, SampledStage
from imagen_jax.pipeline.sheets import grid, legible, save_gif, save_png
from imagen_jax.pipeline.subjects import StageInputs
from imagen_jax.storage.files import AnyPath, absolute, check_writable, write_text
from imagen_jax.storage.json_text import read_object, shown

MANIFEST = "manifest.json"
_OWN = ("pictures", "stages", "arguments")
"""What is compared in parts, and the arguments, since all that follows from them is there too."""
_OF_THE_MACHINE = ("versions", "devices", "batch_size", "split_height")
"""What may differ where pictures are made again: nothing but rounding follows from it."""
_ADDED = ("guidance_parallel", "guidance_max_norm", "guidance_momentum", "renoising")
"""Settings that the first versions do not have."""
_COLUMNS = 6
"""Of the contact sheet, where each prompt has one picture."""


class Results(Keeper):
    """The files of one run, written as its pictures come."""

    def __init__(
        self,
        out: Path,
        prompts: Sequence[str],
        settings: dict[str, Any],
        steps: Sequence[SampledStage],
        inputs: Sequence[StageInputs],
        *,
        resume: bool = False,
        like: AnyPath | None = None,
    ) -> None:
        """Writes nothing yet.

        Args:
            out: directory for the files; it is made.
            prompts: in the order of the pictures.
            settings: all that decides what is painted and that no stage says: "seed",
                "num_images", which stand together, and the like.
            steps, inputs: the stages and what they are told.
            resume: finds the pictures that a run with the same manifest has left in `out`.
            like: manifest of a run whose pictures these must be.

        Raises:
            UsageError: `out` cannot be written to, or a manifest is of another run or cannot be
                read.
        """
        check_writable(out, f"The directory is {out}")
        self._out, self._prompts, self._settings = out, prompts, settings
        self._num_images = settings["num_images"]
        self._stages = [described(*pair) for pair in zip(steps, inputs, strict=True)]
        self._stage = -1
        self._names = picture_names(prompts, self._num_images, steps)
        self._sums: list[list[str]] = [[""] * len(names) for names in self._names]
        self._like = like
        if like is not None:
            self._earlier = read_object(like)
            self._compare(self._earlier, like, ignored=_OF_THE_MACHINE)
        if resume and (out / MANIFEST).is_file():
            self._take_over(read_object(out / MANIFEST))

    def _compare(self, before: dict[str, Any], path: AnyPath, ignored: Sequence[str] = ()) -> None:
        """Takes the weights of a manifest for those that are wanted, if it is one of this run."""
        for name, was, wanted in _differences(before, json.loads(self._manifest())):
            if name not in ignored:
                raise UsageError(
                    f"{path} is of another run: its {name} is {shown(was)} and that of this run "
                    f"{shown(wanted)}; only the same command makes the same pictures."
                )
        for stage, described in zip(self._stages, before["stages"], strict=True):
            stage["unet_sha256"] = described.get("unet_sha256")

    def _take_over(self, before: dict[str, Any]) -> None:
        """Goes on with what a manifest says, if it is one of this run."""
        self._compare(before, self._out / MANIFEST)
        for row, picture in enumerate(before["pictures"]):
            there = _texts(picture.get("files")), _texts(picture.get("sha256"))
            sums = dict(zip(*there, strict=False))
            for stage, names in enumerate(self._names):
                self._sums[stage][row] = sums.get(names[row], "")

    def begin(self, unet_sha256: str) -> None:
        """The next stage begins.

        Raises:
            UsageError: its pictures so far were painted by other weights.
        """
        self._stage += 1
        stage = self._stages[self._stage]
        if stage["unet_sha256"] not in (None, unet_sha256):
            raise UsageError(
                f"{self._like or self._out / MANIFEST} is of another run: the weights of "
                f"{stage['origin']} were others; only the same weights make the same pictures."
            )
        stage["unet_sha256"] = unet_sha256

    def find(self, rows: Sequence[int]) -> np.ndarray | None:
        """These pictures of the stage, if all are there as they were written."""
        names, sums = self._names[self._stage], self._sums[self._stage]
        found = [_picture(self._out / names[row], sums[row]) for row in rows if sums[row]]
        there = [picture for picture in found if picture is not None]
        return np.stack(there) if len(there) == len(rows) else None

    def keep(self, rows: Sequence[int], pictures: np.ndarray) -> None:
        """Writes pictures of the stage, and that they are there."""
        for row, picture in zip(rows, pictures, strict=True):
            path = self._out / self._names[self._stage][row]
            save_png(picture, path, {KEY: self._inscription(row)})
            self._sums[self._stage][row] = hashlib.sha256(path.read_bytes()).hexdigest()
        write_text(self._out / MANIFEST, self._manifest())

    def finish(self, last: np.ndarray) -> list[Path]:
        """Writes the contact sheet of the last stage's pictures, and of an interpolation a strip;
        gives their files."""
        sheet = contact_sheet(last, self._prompts, self._num_images)
        texts = {KEY: inscription_of_sheet(self._settings, self._prompts, self._stages)}
        save_png(sheet, self._out / "contact_sheet.png", texts)
        if "interpolate" in self._settings:
            save_png(grid([list(last)]), self._out / "strip.png", texts)
            save_gif(list(last), self._out / "strip.gif")
        if self._like is not None:
            self._tell_of_differences()
        return [self._out / name for name in self._names[-1]]

    def _tell_of_differences(self) -> None:
        """Warns of pictures that are not, to the byte, those of the manifest that is made again."""
        were = [_texts(picture.get("sha256")) for picture in self._earlier["pictures"]]
        now = [[sums[row] for sums in self._sums] for row in range(len(were))]
        others = sum(then != found for then, found in zip(were, now, strict=True))
        if others:
            warnings.warn(
                f"{others} of {len(now)} pictures are not those of {self._like} to the byte; "
                "another machine, number of devices or version rounds in another way.",
                stacklevel=2,
            )

    def _manifest(self) -> str:
        pictures = [
            {
                "prompt": self._prompts[row // self._num_images],
                "picture": row % self._num_images,
                "files": [names[row] for names, sums in self._there(row)],
                "sha256": [sums[row] for names, sums in self._there(row)],
            }
            for row in range(len(self._names[0]))
        ]
        manifest = {
            **self._settings,
            "pictures": pictures,
            "stages": self._stages,
            "versions": package_versions(),
        }
        return json.dumps(manifest, indent=2)

    def _inscription(self, row: int) -> str:
        """What the file of one of the present stage's pictures says of it."""
        prompt, stages = self._prompts[row // self._num_images], self._stages[: self._stage + 1]
        return inscription(self._settings, prompt, row, stages, len(self._prompts))

    def _there(self, row: int) -> Iterator[tuple[list[str], list[str]]]:
        """Names and sums of the stages that have painted a picture."""
        return (pair for pair in zip(self._names, self._sums, strict=True) if pair[1][row])


def picture_names(
    prompts: Sequence[str], num_images: int, steps: Sequence[SampledStage]
) -> list[list[str]]:
    """The names of every stage's pictures."""
    stems = [
        file_stem(index, prompt, picture)
        for index, prompt in enumerate(prompts)
        for picture in range(num_images)
    ]
    suffixes = _suffixes([step.side for step in steps])
    return [[f"{stem}-{suffix}.png" for stem in stems] for suffix in suffixes]


def contact_sheet(pictures: np.ndarray, prompts: Sequence[str], num_images: int) -> Image.Image:
    """Pictures above their prompts: one row per prompt, or rows of six where each has one picture.

    Args:
        pictures: uint8 (prompts * num_images, height, width, 3); those of one prompt together.
    """
    captions = [
        prompt if legible(prompt) else f"prompt {index:02d}"
        for index, prompt in enumerate(prompts)
        for _ in range(num_images)
    ]
    columns = num_images if num_images > 1 else _COLUMNS
    starts = range(0, len(captions), columns)
    return grid(
        [list(pictures[i : i + columns]) for i in starts],
        captions=[captions[i : i + columns] for i in starts],
        cell=max(128, min(256, pictures.shape[1])),
    )


def described(step: SampledStage, inputs: StageInputs) -> dict[str, Any]:
    """What the manifest says of a stage, as far as it is known before weights are loaded."""
    said = {
        "name": step.stage.config.name,
        "origin": _name(step.stage.origin),
        "weights": step.stage.unet.weights,
        "unet_sha256": None,  # Not known before they are loaded.
        "text_encoder_sha256": inputs.encoder_sha256,
        "size": list(step.size),
        "sampling": _said(step.settings),
    }
    if step.settings.picture_guidance_scale == 1:  # As manifests were before there was any.
        del said["sampling"]["picture_guidance_scale"]
    if step.stage.adapters:
        said["adapters"] = [[_name(x), weight] for x, weight in step.stage.adapters]
    if step.edit is not None:
        said["edit"] = dataclasses.asdict(step.edit.settings)
    if step.tile is not None:
        said["tile"] = step.tile
    return said


def _said(settings: SamplingConfig) -> dict[str, Any]:
    """The settings, without those that are off and that older versions do not have: what a manifest
    of theirs says can be made again."""
    values, off = dataclasses.asdict(settings), SamplingConfig()
    return {x: y for x, y in values.items() if x not in _ADDED or y != getattr(off, x)}


def _name(path: AnyPath) -> str:
    """A stage's or an adapter's; that of a file is its own, since the hub's cache links to sums."""
    return path.name if path.is_file() else absolute(path).name


def _picture(path: Path, sha256: str) -> np.ndarray | None:
    """The picture in a file, None if that is not there or is another one."""
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != sha256:
        return None
    return np.asarray(Image.open(io.BytesIO(data)))


def _texts(value: Any) -> list[str]:
    return [x for x in value if isinstance(x, str)] if isinstance(value, list) else []


def _suffixes(sides: Sequence[int]) -> list[str]:
    """What tells the stages' files apart: their sides, numbered where a side comes again."""
    counts = [sides[: number + 1].count(side) for number, side in enumerate(sides)]
    return [f"{side}-{n}" if n > 1 else f"{side}" for side, n in zip(sides, counts, strict=True)]


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What two manifests say otherwise, but for the pictures that are there and their painters."""
    then, wanted = _comparable(before), _comparable(now)
    for name in wanted | then:
        if then.get(name) != wanted.get(name):
            yield name, then.get(name), wanted.get(name)


def _comparable(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest as name -> value, the names of what is inside of it with dots."""
    flat = {name: x for name, x in manifest.items() if name not in _OWN}
    for kind, own in (("picture", ("files", "sha256")), ("stage", ("unet_sha256",))):
        entries = manifest.get(f"{kind}s")
        if not isinstance(entries, list) or not all(isinstance(x, dict) for x in entries):
            flat[f"{kind}s"] = entries
            continue
        flat[f"number of {kind}s"] = len(entries)
        for number, entry in enumerate(entries):
            flat |= {f"{kind} {number}.{k}": x for k, x in entry.items() if k not in own}
    return flat
