"""The pictures of a directory that are measured: which they are, and in which order."""

import contextlib
import dataclasses
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from imagen_jax.errors import UsageError, reason
from imagen_jax.evaluation.reading import Picture
from imagen_jax.pipeline.results import MANIFEST
from imagen_jax.storage.json_text import read_object, shown

LAST_ALONE = "last_stage_alone"
"""Of a manifest, where no other stage's pictures are kept."""
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_MODES = ("RGB", "L")
_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """Picture files in the order in which they are measured.

    Attributes:
        directory: that they lie in.
        names: of the files, from there on.
        prompts: what each was painted for; none where nothing says so.
        account: how they were painted, as their manifest says it: seed, stages, samplers, versions.
    """

    directory: Path
    names: tuple[str, ...]
    prompts: tuple[str, ...] = ()
    account: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def listing(self) -> str:
        """SHA-256 over names and sizes of the files, by which a set is known again."""
        sha = hashlib.sha256()
        for name in self.names:
            size = (self.directory / name).stat().st_size
            sha.update(os.fsencode(name) + f"\0{size}\0".encode())
        return sha.hexdigest()

    def with_prompts(self, prompts: Sequence[str], num_images: int) -> "PictureSet":
        """The same pictures, `num_images` after one another of each prompt.

        Pictures that are called by numbers stand in their order: 2.png before 10.png.

        Raises:
            UsageError: their prompts are known already, or are of another number.
        """
        if self.prompts:
            raise UsageError(
                f"{self.directory / MANIFEST} says the pictures' prompts; leave --prompts out."
            )
        if len(self) != len(prompts) * num_images:
            raise UsageError(
                f"{self.directory} holds {len(self)} pictures; {len(prompts)} prompts with "
                f"{num_images} pictures each have {len(prompts) * num_images}."
            )
        own = tuple(prompt for prompt in prompts for _ in range(num_images))
        return dataclasses.replace(self, names=_in_order_of_numbers(self.names), prompts=own)


def _in_order_of_numbers(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of one directory that are numbers, in the order of these; others as they are."""
    if not all(_NUMBER.fullmatch(name.partition(".")[0]) for name in names):
        return names
    return tuple(sorted(names, key=lambda name: int(name.partition(".")[0])))


def open_pictures(directory: Path) -> PictureSet:
    """The pictures of a directory that sample.py wrote, those of the last stage; or all that lie
    in any other one and below it, by their names, but hidden ones.

    Raises:
        UsageError: there is no such directory, it holds no picture, or the run is unfinished.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory} is no directory of pictures.")
    if (directory / MANIFEST).is_file():
        return _painted(directory, read_object(directory / MANIFEST))
    files = [path for path in directory.rglob("*") if path.suffix.lower() in SUFFIXES]
    paths = [path.relative_to(directory) for path in files if path.is_file()]
    names = sorted(path.as_posix() for path in paths if not _is_hidden(path))
    if not names:
        raise UsageError(
            f"{directory} holds no picture; their names must end with one of {', '.join(SUFFIXES)}."
        )
    return PictureSet(directory, tuple(names))


def _is_hidden(path: Path) -> bool:
    """Whether a name in it begins with a dot, as that of macOS's `._1.png` beside `1.png`."""
    return any(part.startswith(".") for part in path.parts)


def _painted(directory: Path, manifest: dict[str, Any]) -> PictureSet:
    """The pictures that a manifest lists, which also says their prompts."""
    pictures, stages = manifest.get("pictures"), manifest.get("stages")
    if not (isinstance(pictures, list) and isinstance(stages, list) and pictures and stages):
        raise UsageError(f"{directory / MANIFEST} is not one that sample.py wrote.")
    kept = 1 if manifest.get(LAST_ALONE) is True else len(stages)
    names, prompts = [], []
    for number, picture in enumerate(pictures):
        files = picture.get("files") if isinstance(picture, dict) else None
        if not isinstance(files, list) or len(files) != kept:
            raise UsageError(
                f"{directory} is unfinished: picture {number} has not been painted by all "
                f"{len(stages)} stages; the command that began it, with sample.py's --resume, goes "
                "on."
            )
        names.append(_inside(directory, str(files[-1])))
        if not isinstance(picture.get("prompt"), str):
            raise UsageError(f"{directory / MANIFEST} does not say the prompt of picture {number}.")
        prompts.append(picture["prompt"])
    account = {name: x for name, x in manifest.items() if name not in ("pictures", "sha256")}
    return PictureSet(directory, tuple(names), tuple(prompts), account)


def _inside(directory: Path, name: str) -> str:
    """The name, if it is that of a file in the directory or below it."""
    path = PurePosixPath(name)
    is_name = name.isprintable()  # Neither a NUL nor half a character.
    if path.is_absolute() or ".." in path.parts or not is_name:
        raise UsageError(
            f"{directory / MANIFEST} names the picture {shown(name)}, which is no file below it."
        )
    return name


def check_heads(pictures: PictureSet) -> None:
    """Raises a UsageError as `read_picture` for what the files' first bytes say already."""
    for name in pictures.names:
        path = pictures.directory / name
        with _reading(path), path.open("rb") as file:
            _opened(file, path)


def read_picture(path: Path) -> tuple[Picture, bytes]:
    """A picture as it is stored, not turned, grey ones as RGB; and the bytes of its file.

    Raises:
        UsageError: it cannot be read, or has an alpha, a palette or another mode of which it is
            open what colours it shows.
    """
    with _reading(path):
        data = path.read_bytes()
        image = _opened(io.BytesIO(data), path)
        image.load()
        return np.asarray(image.convert("RGB")), data


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Brings what happens while a picture is read into a UsageError."""
    try:
        yield
    except UsageError:
        raise
    except UnidentifiedImageError as error:
        raise UsageError(
            f"{path} cannot be read as a picture: it is none of {', '.join(_FORMATS)}."
        ) from error
    except Exception as error:  # Pillow's plugins raise what they happen to come upon.
        raise UsageError(f"{path} cannot be read as a picture: {reason(error)}.") from error


def _opened(file: io.BufferedIOBase, path: Path) -> Image.Image:
    image = Image.open(file, formats=_FORMATS)
    if image.mode not in _MODES:
        raise UsageError(
            f"{path} is a picture of mode {shown(image.mode)}; those that are measured must be one "
            f"of {', '.join(_MODES)}."
        )
    return image
