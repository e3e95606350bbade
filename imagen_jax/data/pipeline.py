"""Batches for training: shuffled, captioned anew each epoch, shared out, endless."""

import os
from collections.abc import Callable, Sequence

import grain
import numpy as np
from absl import flags
from PIL import Image

from imagen_jax.config import StageConfig
from imagen_jax.data import transforms
from imagen_jax.data.records import Record, Source

Batch = dict[str, np.ndarray]
Tokenize = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
"""Captions -> token ids, int32 [batch, length], and mask, bool [batch, length]."""

_CAPTION = "caption"
MAX_THREADS = 8
BATCHES_AHEAD = 2


def make_dataset(
    source: Source,
    config: StageConfig,
    tokenize: Tokenize,
    *,
    batch_size: int,
    rows: Sequence[int] | None = None,
    first_picture: int = 0,
    seed: int,
) -> grain.IterDataset:
    """An endless data set of batches, or of one process's rows of them.

    A batch holds `image`, uint8 [B, S, S, 3], `token_ids`, int32 [B, L], `mask`, bool [B, L],
    and for a super-resolution stage `low_res`, uint8 [B, s, s, 3], where S is `data.crop` or
    the resolution and s = S / upscale. Row j of batch i (picture, crop and caption) depends
    on `seed` and first_picture + i * batch_size + j alone: not on who reads it, nor on where
    reading began. So a run that goes on needs to know nothing but how many pictures it has
    seen, on any number of processes and with any batch size.

    Args:
        source: of the records.
        config: of the stage.
        tokenize: captions -> (token ids, mask).
        batch_size: pictures of a batch over all processes.
        rows: which of them this process reads; None for all.
        first_picture: of the first batch; the number of pictures that came before.
        seed: of the order, the captions and the crops.

    Raises:
        UsageError: when iterated, a picture does not decode.
    """
    examples = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(LoadExample(config.resolution, config.low_resolution, config.data.crop))
    )
    rows = range(batch_size) if rows is None else rows
    # Picked last, so that no two processes drift apart or share random numbers.
    picked = grain.MapDataset.source(_Rows(examples, first_picture, batch_size, rows))
    batches = picked.batch(len(rows), batch_fn=collate)
    # In the caller's thread: tokenizers need be neither thread-safe nor sent to a process.
    return _prefetched(batches, config.data.num_workers).map(TokenizeCaptions(tokenize))


class _Rows:
    """From `first` on, of every `batch_size` examples those at `rows`, one after another."""

    def __init__(
        self, examples: grain.MapDataset, first: int, batch_size: int, rows: Sequence[int]
    ):
        self._examples, self._first = examples, first
        self._batch_size, self._rows = batch_size, rows

    def __len__(self) -> int:
        return (len(self._examples) - self._first) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> dict[str, object]:
        batch, place = divmod(index, len(self._rows))
        return self._examples[self._first + batch * self._batch_size + self._rows[place]]


def _prefetched(batches: grain.MapDataset, num_workers: int) -> grain.IterDataset:
    """Batches made ahead by threads of this process or by worker processes."""
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    if num_workers == 0:
        ahead = max(threads, BATCHES_AHEAD)
        return batches.to_iter_dataset(grain.ReadOptions(threads, prefetch_buffer_size=ahead))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags.
    one_by_one = batches.to_iter_dataset(grain.ReadOptions(1, prefetch_buffer_size=1))
    options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=BATCHES_AHEAD)
    return one_by_one.mp_prefetch(options)


class LoadExample:
    """Record -> one example: its pictures and a freshly drawn caption."""

    def __init__(self, resolution: int, low_resolution: int | None, crop: int | None):
        self._resolution = resolution
        self._low_resolution = low_resolution
        self._crop = crop

    def __call__(self, record: Record, rng: np.random.Generator) -> dict[str, object]:
        return {_CAPTION: record.draw_caption(rng), **self._pictures(record, rng)}

    def _pictures(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray]:
        decoded = transforms.decode(record.image, record.name, self._resolution)
        image = transforms.to_square(decoded, self._resolution)
        if self._low_resolution is None:
            return {"image": transforms.random_crop(image, self._crop or self._resolution, rng)}
        low_res = transforms.to_square(self._low_res(record, image), self._low_resolution)
        side = self._crop or self._resolution
        image, low_res = transforms.random_crop_pair(image, low_res, side, rng)
        return {"image": image, "low_res": low_res}

    def _low_res(self, record: Record, image: Image.Image) -> Image.Image:
        """What to take the low-resolution picture from: never a crop, which lacks surroundings."""
        if record.low_res is None:
            return image
        return transforms.decode(record.low_res, record.name, self._low_resolution)


def collate(examples: Sequence[dict[str, object]]) -> dict[str, object]:
    """Examples -> one batch: stacked pictures, and the captions as a list."""
    names = [name for name in examples[0] if name != _CAPTION]
    pictures = {name: np.stack([example[name] for example in examples]) for name in names}
    return {**pictures, _CAPTION: [example[_CAPTION] for example in examples]}


class TokenizeCaptions:
    """Puts token ids and mask in the place of a batch's captions."""

    def __init__(self, tokenize: Tokenize):
        self._tokenize = tokenize

    def __call__(self, batch: dict[str, object]) -> Batch:
        token_ids, mask = self._tokenize(batch[_CAPTION])
        pictures = {name: array for name, array in batch.items() if name != _CAPTION}
        return {**pictures, "token_ids": token_ids, "mask": mask}
