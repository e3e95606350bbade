"""Pictures of any number of prompts, some at a time: no more of them are ever in memory.

The directory has a manifest as sample.py's, of the last stage's pictures alone. Each prompt has a
seed of its own, for pictures that all begin with the same noise are more alike than a cascade's.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from imagen_jax.checkpoints.directory import package_versions
from imagen_jax.errors import UsageError
from imagen_jax.evaluation.pictures import LAST_ALONE
from imagen_jax.evaluation.prompt_sets import Prompts, texts_of
from imagen_jax.parallel import distributed
from imagen_jax.pipeline.arguments import checked_seed
from imagen_jax.pipeline.cascade import Cascade
from imagen_jax.pipeline.pictures import Pictures
from imagen_jax.pipeline.results import MANIFEST
from imagen_jax.pipeline.sheets import save_png
from imagen_jax.storage.digests import digest, read_sealed, sealed
from imagen_jax.storage.files import beside_logs, write_text
from imagen_jax.storage.json_text import shown

_METADATA = "metadata.jsonl"
"""What GenEval looks for beside the samples of a prompt."""
CHUNK = 256
"""Prompts that go through the cascade at a time; what a kill undoes at most."""


@dataclasses.dataclass
class _Album:
    """What has been painted of a plan, and how."""

    directory: Path
    plan: dict[str, Any]
    prompts: Prompts
    num_images: int
    seeds: list[int]
    stages: list[dict[str, Any]]
    sums: dict[str, str]

    def name(self, row: int) -> str:
        """File of picture `row`; those of one prompt stand together, and where GenEval will check
        them in a directory of their own."""
        number, picture = divmod(row, self.num_images)
        if self.prompts[number].metadata:
            return f"{number:05}/samples/{picture:05}.png"
        return f"{number:06}-{picture:03}.png"

    def rows(self, prompts: range) -> range:
        return range(prompts.start * self.num_images, prompts.stop * self.num_images)

    def has(self, prompts: range) -> bool:
        """Whether all pictures of these prompts are there, as the manifest says."""
        return all(
            self.name(row) in self.sums and (self.directory / self.name(row)).is_file()
            for row in self.rows(prompts)
        )

    def keep(self, prompts: range, pictures: Pictures) -> None:
        """Writes pictures, and that they are there.

        Raises:
            UsageError: those before were painted by other weights.
        """
        if self.stages and self.stages != _plain(pictures.account):
            raise UsageError(
                f"{self.directory} was begun with other weights; name a new directory."
            )
        self.stages = _plain(pictures.account)
        if not self.sums:
            self._write()  # So that the same command goes on after a kill among the first ones.
        for row, picture in zip(self.rows(prompts), pictures.stages[-1], strict=True):
            path = self.directory / self.name(row)
            save_png(picture, path)
            self.sums[self.name(row)] = hashlib.sha256(path.read_bytes()).hexdigest()
        for number in prompts:
            if metadata := self.prompts[number].metadata:
                write_text(self.directory / f"{number:05}" / _METADATA, metadata)
        self._write()

    def _write(self) -> None:
        write_text(self.directory / MANIFEST, json.dumps(sealed(self._manifest()), indent=2))

    def _manifest(self) -> dict[str, Any]:
        return {
            LAST_ALONE: True,
            "plan": self.plan,
            "pictures": list(self._entries()),
            "stages": self.stages,
            "versions": package_versions(),
        }

    def _entries(self) -> Iterator[dict[str, Any]]:
        for row in range(len(self.prompts) * self.num_images):
            there = [self.name(row)] if self.name(row) in self.sums else []
            yield {
                "prompt": self.prompts[row // self.num_images].text,
                "seed": self.seeds[row // self.num_images],
                "picture": row % self.num_images,
                "files": there,
                "sha256": [self.sums[name] for name in there],
            }


def prompt_seeds(seed: int, count: int) -> list[int]:
    """The seeds of the first `count` prompts of a set."""
    return np.random.SeedSequence(seed).generate_state(count).tolist()


def painters(cascade: Cascade) -> list[dict[str, Any]]:
    """What of each stage decides its pictures beside a call's options; little of it is read."""
    return [
        {
            "unet": stage.stored.unet.fingerprint(),
            "text_encoder": stage.stored.encoder_fingerprint(),
            "sampling": dataclasses.asdict(stage.stored.config.sampling),
        }
        for stage in cascade.stages
    ]


def paint(
    cascade: Cascade,
    prompts: Prompts,
    out: Path,
    *,
    num_images: int,
    seed: int,
    **options: Any,
) -> int:
    """Paints what is not there yet; gives the number of all pictures.

    Of several processes all must call it, and the first one writes.

    Args:
        seed: of the set; `prompt_seeds` gives those of its prompts.
        options: as `Cascade` takes them.

    Raises:
        UsageError: as `Cascade`, or what is in `out` is of another command or of other weights.
    """
    seeds = prompt_seeds(checked_seed(seed, 1, 1), len(prompts))
    plan = {
        "seed": seed,
        "num_images": num_images,
        "prompts_sha256": digest({"prompts": [*texts_of(prompts)]}),
        "options": {name: x for name, x in options.items() if name != "batch_size"},
        "painters": painters(cascade),
    }
    album = _open(_Album(out, _plain(plan), prompts, num_images, seeds, [], {}))
    distributed.wait_for_all("opened the pictures")
    for first in range(0, len(prompts), CHUNK):
        chunk = range(first, min(first + CHUNK, len(prompts)))
        if album.has(chunk):
            continue
        texts = [prompts[number].text for number in chunk]
        own = seeds[chunk.start : chunk.stop]
        painted = cascade(texts, num_images=num_images, seed=own, **options)
        distributed.leader_does(lambda chunk=chunk, painted=painted: album.keep(chunk, painted))
    return len(prompts) * num_images


def _open(album: _Album) -> _Album:
    """The album with what an earlier call has left in its directory."""
    out, path = album.directory, album.directory / MANIFEST
    if not path.is_file():
        if beside_logs(out):
            raise UsageError(f"{out} holds something else; name a new directory.")
        return album
    before = read_sealed(path)
    _check_plan(before.get("plan"), album.plan, out)
    try:
        sums = {
            name: sum
            for picture in before["pictures"]
            for name, sum in zip(picture["files"], picture["sha256"], strict=True)
        }
        return dataclasses.replace(album, stages=before["stages"], sums=sums)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} does not list pictures as this command does.") from error


def _check_plan(before: Any, plan: dict[str, Any], out: Path) -> None:
    before = before if isinstance(before, dict) else {}
    for name in plan:
        if before.get(name) != plan[name]:
            by = "with other weights" if name == "painters" else "by another command"
            raise UsageError(
                f"{out} was begun {by}: its {name} is {shown(before.get(name))} and that of this "
                f"one {shown(plan[name])}; name a new directory."
            )


def _plain(values: Any) -> Any:
    """Values as they come back from JSON."""
    return json.loads(json.dumps(values))
