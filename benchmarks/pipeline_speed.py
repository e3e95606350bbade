"""How many pictures a second the input pipeline makes per core, beside Pillow and tf.data.

    python benchmarks/pipeline_speed.py [--pictures 1000] [--repeats 3]

Two tasks, both from JPEG files in one folder with captions: 512-pixel pictures whole to 64, and
1024-pixel pictures to 256 with a random crop of 128. All of it in one run on the same files:

- pipeline: `make_dataset` as train.py uses it, captions, batches and tokens included;
- Pillow: a plain loop that opens, converts, resizes and crops, one picture after another;
- Pillow, draft: the same, letting the JPEG decoder scale down first, as the pipeline does;
- tf.data: decode_jpeg, antialiased bicubic resize, crop and batch, where TensorFlow is installed.

Rates are pictures per second of CPU time, of all threads together: what one core makes, whatever
else the machine does. Medians over the repeats, which take turns.
"""

import dataclasses
import functools
import importlib.util
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from imagen_jax.cli.parsing import parse_flags
from imagen_jax.config import DataConfig, StageConfig, UNetConfig
from imagen_jax.config.rules import require_positive
from imagen_jax.data.pipeline import make_dataset
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError, exit_on_usage_error

BATCH = 32


@dataclasses.dataclass(frozen=True)
class Flags:
    pictures: int = 1000
    """Files of each task, and pictures that each repeat makes."""
    repeats: int = 3


@dataclasses.dataclass(frozen=True)
class Task:
    """Side of the files, of the pictures made of them, and of the crops of these."""

    stored: int
    resolution: int
    crop: int

    @property
    def name(self) -> str:
        cropped = f", crop {self.crop}" if self.crop < self.resolution else ""
        return f"{self.stored} -> {self.resolution}{cropped}"


TASKS = (Task(512, 64, 64), Task(1024, 256, 128))


def write_pictures(directory: Path, task: Task, count: int) -> None:
    """Photo-like: coarse noise with soft edges, which takes about 1 bit a pixel at quality 90."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (task.stored // 16, task.stored // 16, 3), dtype=np.uint8)
        size = (task.stored, task.stored)
        soft = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
        grain = rng.integers(-6, 7, (*size, 1), dtype=np.int16)
        pixels = np.clip(soft + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(directory / f"{number:05}.jpg", quality=90)
        (directory / f"{number:05}.txt").write_text(f"picture number {number}\n")


def by_pipeline(directory: Path, task: Task) -> Iterator[object]:
    config = StageConfig(
        name="speed",
        resolution=task.resolution,
        unet=UNetConfig(),
        data=DataConfig(source=f"folder:{directory}", crop=task.crop),
    )
    source = open_source(config.data)
    return iter(make_dataset(source, config, read_captions, batch_size=BATCH, seed=0))


def read_captions(captions: list[str]) -> dict[str, np.ndarray]:
    """Hardly any work: it is not a tokenizer that is timed."""
    tokens = np.zeros((len(captions), 8), np.int32)
    return {"token_ids": tokens, "mask": tokens == 0}


def by_pillow(directory: Path, task: Task, *, draft: bool = False) -> Iterator[object]:
    rng = np.random.default_rng(0)
    paths = itertools.cycle(sorted(directory.glob("*.jpg")))
    while True:
        yield np.stack([load(next(paths), task, rng, draft=draft) for _ in range(BATCH)])


def load(path: Path, task: Task, rng: np.random.Generator, *, draft: bool) -> np.ndarray:
    image = Image.open(path)
    if draft:
        image.draft("RGB", (2 * task.resolution, 2 * task.resolution))
    image = image.convert("RGB")
    image = image.resize((task.resolution, task.resolution), Image.Resampling.BICUBIC)
    left, top = rng.integers(task.resolution - task.crop + 1, size=2)
    return np.asarray(image.crop((left, top, left + task.crop, top + task.crop)))


def by_tf_data(directory: Path, task: Task) -> Iterator[object]:
    import tensorflow as tf

    def load(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3)
        size = (task.resolution, task.resolution)
        image = tf.image.resize(image, size, method="bicubic", antialias=True)
        image = tf.saturate_cast(tf.round(image), tf.uint8)
        return tf.image.random_crop(image, (task.crop, task.crop, 3))

    paths = sorted(map(str, directory.glob("*.jpg")))
    dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
    dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
    return iter(dataset.batch(BATCH).prefetch(2))


def ways() -> dict[str, Callable[[Path, Task], Iterator[object]]]:
    found = {
        "pipeline": by_pipeline,
        "Pillow": by_pillow,
        "Pillow, draft": functools.partial(by_pillow, draft=True),
    }
    if importlib.util.find_spec("tensorflow") is None:
        print("tf.data is left out: TensorFlow is not installed.")
        return found
    return {**found, "tf.data": by_tf_data}


def rate(batches: Iterator[object], count: int) -> float:
    """Pictures per second of CPU time, once it runs; what is read ahead is as much at the end."""
    next(batches)
    began = settled_cpu_time()
    for _ in range(count):
        next(batches)
    return count * BATCH / (settled_cpu_time() - began)


def settled_cpu_time() -> float:
    """Of this process, once nothing more is read ahead."""
    while True:
        before = time.process_time()
        time.sleep(0.3)
        now = time.process_time()
        if now - before < 0.01:
            return before


def measure(flags: Flags) -> None:
    require_positive(flags, "repeats")
    if flags.pictures < BATCH:
        raise UsageError(f"--pictures is {flags.pictures}; it must be at least {BATCH}.")
    found = ways()
    print(f"{'task':24}{'way':16}{'pictures/s of a core':>22}{'of Pillow':>11}")
    for task in TASKS:
        with tempfile.TemporaryDirectory() as place:
            directory = Path(place)
            write_pictures(directory, task, flags.pictures)
            rates = {way: [] for way in found}
            for _ in range(flags.repeats):
                for way, make in found.items():
                    rates[way].append(rate(make(directory, task), flags.pictures // BATCH))
        medians = {way: statistics.median(of_way) for way, of_way in rates.items()}
        for way, median in medians.items():
            ratio = median / medians["Pillow"]
            print(f"{task.name:24}{way:16}{median:22,.0f}{ratio:11.2f}", flush=True)


def main() -> None:
    with exit_on_usage_error():
        measure(parse_flags(lambda: tyro.cli(Flags, description=__doc__)))


if __name__ == "__main__":
    main()
