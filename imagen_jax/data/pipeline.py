"""Batches for training: shuffled, captioned anew each epoch, shared out, endless."""

import concurrent.futures
import functools
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags
from PIL import Image, ImageOps

from imagen_jax.config import StageConfig
from imagen_jax.config.conditions import LOW_RES
from imagen_jax.config.data import Size
from imagen_jax.data import shown, transforms
from imagen_jax.data.broken import Broken, BrokenRecords
from imagen_jax.data.faults import with_faults
from imagen_jax.data.order import Bucketed, shuffled
from imagen_jax.data.records import BrokenRecord, Record, Source
from imagen_jax.data.workers import end_with_parent, out_of_shared_memory
from imagen_jax.storage.files import threads_for

Batch = dict[str, np.ndarray]
ReadCaptions = Callable[[Sequence[str]], Batch]
"""Captions -> what a batch holds of them: `mask`, bool [B, L], and `token_ids`, int32 [B, L], or
`text`, their embeddings, bfloat16 [B, L, D]. Of a caption that says nothing to it the ends alone
can be seen, T5's `</s>`; of all others more."""

_NAME, _CAPTION, _BROKEN, _LABEL = "name", "caption", "broken", "label"
_LISTS = (_NAME, _CAPTION, _BROKEN)
_LARGEST = 2.0**24
"""Of a record's numbers that a network is told; a class is one of them."""
BATCHES_AHEAD = 2


def make_dataset(
    source: Source,
    config: StageConfig,
    read: ReadCaptions | None,
    *,
    batch_size: int,
    rows: Sequence[int] | None = None,
    first_picture: int = 0,
    seed: int,
    broken: BrokenRecords | None = None,
) -> grain.IterDataset:
    """An endless data set of batches, or of one process's rows of them.

    A batch holds `image`, uint8 [B, H, W, 3], what `read` gives, `weight`, float32 [B], and for a
    super-resolution stage `low_res`, uint8 [B, H / upscale, W / upscale, 3], where (H, W) is one of
    the config's `training_sizes`; and what else `conditions` names: pictures, uint8 [B, H, W, C],
    numbers, float32 [B], and `label`, int32 [B].

    Row j of batch i (picture, crop and caption) depends on `seed`
    and first_picture + i * batch_size + j alone: not on who reads it, nor on where reading began.
    So a run that goes on needs to know nothing but how many pictures it has seen, on any number
    of processes and with any batch size.

    Batches of a `Bucketed` source begin at multiples of the batch size, here with the first that
    is not before `first_picture`, and what comes together in them depends on the batch size too.

    Where a record is broken, its row is blank and has weight 0, all others 1: so every good
    record counts exactly once an epoch.

    Args:
        source: of the records.
        config: of the stage.
        read: of the captions; None for a stage without text. Where `data.embeddings` names a
            directory, it must be fit for several threads and processes.
        batch_size: pictures of a batch over all processes.
        rows: which of them this process reads; None for all.
        first_picture: of the first batch; the number of pictures that came before.
        seed: of the order, the captions and the crops.
        broken: counts the broken records of the batches that were read; None for a new one.

    Raises:
        UsageError: when iterated, too many records are broken.
    """
    load = LoadExample(source, config)
    examples = shuffled(source, seed, batch_size).random_map(load)
    if isinstance(source, Bucketed):  # Other than a multiple after a change of the batch size.
        first_picture = -(-first_picture // batch_size) * batch_size
    rows = range(batch_size) if rows is None else rows
    places = (config.data.data_dir, *(share.source for share in config.data.shares))
    threads = max(map(threads_for, places))
    batches = grain.MapDataset.source(_Batches(examples, first_picture, batch_size, rows, threads))
    num_workers = config.data.num_workers
    read_batch = ReadBatch(read, config.text_encoder.ends)
    if config.data.embeddings:  # Many bytes, read ahead like the pictures.
        loaded = _prefetched(batches.map(read_batch), num_workers)
    else:  # In the caller's thread: a tokenizer need be neither thread-safe nor sent to a process.
        loaded = _prefetched(batches, num_workers).map(read_batch)
    return loaded.map(CountBroken(broken or BrokenRecords(config.data.max_broken_share)))


class _Batches:
    """The examples at `rows` of every `batch_size` of them, from `first` on.

    They are loaded by threads of this object's own.
    """

    def __init__(
        self,
        examples: grain.MapDataset,
        first: int,
        batch_size: int,
        rows: Sequence[int],
        threads: int,
    ):
        self._examples, self._first = examples, first
        self._batch_size, self._rows, self._threads = batch_size, rows, threads

    def __len__(self) -> int:
        return (len(self._examples) - self._first) // self._batch_size

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = self._first + index * self._batch_size
        places = [start + row for row in self._rows]
        return collate(list(self._pool.map(self._examples.__getitem__, places)))

    @functools.cached_property
    def _pool(self) -> concurrent.futures.ThreadPoolExecutor:
        return concurrent.futures.ThreadPoolExecutor(self._threads)

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes have pools of their own."""
        return {name: value for name, value in vars(self).items() if name != "_pool"}


def _prefetched(batches: grain.MapDataset, num_workers: int) -> grain.IterDataset:
    """Batches made ahead by threads of this process or by worker processes."""
    if num_workers == 0:
        return batches.to_iter_dataset(grain.ReadOptions(BATCHES_AHEAD, BATCHES_AHEAD))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags.
    one_by_one = batches.to_iter_dataset(grain.ReadOptions(1, prefetch_buffer_size=1))
    options = grain.MultiprocessingOptions(num_workers, per_worker_buffer_size=BATCHES_AHEAD)
    return one_by_one.mp_prefetch(options, end_with_parent).map(out_of_shared_memory)


class LoadExample:
    """Index of a record -> one example: all that its stage is told of it, a freshly drawn caption.

    Of a broken record, a blank one without a caption, and what is wrong with it.
    """

    def __init__(self, source: Source, config: StageConfig):
        self._source, self._config, self._inputs = source, config, config.inputs
        self._side = config.data.crop or config.resolution

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        try:
            record = self._source[index]
            caption = record.captions.draw(rng) if record.captions else None
            pictures = self._pictures(record, self._size(index), rng)
            numbers = self._numbers(record.name, index)
            return {_NAME: record.name, _CAPTION: caption, **pictures, **numbers, _BROKEN: None}
        except BrokenRecord as error:
            broken = Broken(error.name, error.reason, str(error))
            blank = self._blank(self._size(index))
            return {_NAME: error.name, _CAPTION: None, **blank, _BROKEN: broken}

    def _size(self, index: int) -> Size:
        """(height, width) of the whole picture."""
        if isinstance(self._source, Bucketed):
            return self._source.size(index)
        return self._config.resolution, self._config.resolution

    def _cropped(self, size: Size) -> Size:
        crop = self._config.data.crop
        return size if crop is None else (crop, crop)

    def _low(self, size: Size) -> Size:
        height, width = (side // self._config.upscale for side in size)
        return height, width

    def _blank(self, size: Size) -> dict[str, np.ndarray]:
        size, inputs = self._cropped(size), self._inputs
        blank = {"image": np.zeros((*size, 3), np.uint8)}
        for pictures, of_size in ((inputs.stacked, self._low(size)), (inputs.pictures, size)):
            for picture in pictures:
                blank[picture.name] = np.zeros((*of_size, picture.stored_channels), np.uint8)
        blank |= {name: np.float32(0) for name in inputs.numbers}
        return blank if inputs.classes is None else {**blank, _LABEL: np.int32(0)}

    def _pictures(
        self, record: Record, size: Size, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        decoded = transforms.decode(record.image, record.name, max(size))
        pictures = {"image": transforms.cover(decoded, size)}
        if self._inputs.stacked:
            pictures[LOW_RES] = self._low_res(record, pictures["image"], self._low(size), rng)
        for condition in self._inputs.pictures:
            beside = shown.beside(condition, record, decoded, max(size))
            fitted = shown.fit(condition, beside, size)
            is_mask = condition.kind == "mask"
            pictures[condition.name] = (
                shown.masked(pictures["image"], fitted) if is_mask else fitted
            )
        if self._config.data.flip and rng.random() < self._config.data.flip:
            pictures = {name: ImageOps.mirror(picture) for name, picture in pictures.items()}
        return transforms.random_crop(pictures, self._cropped(size), rng)

    def _low_res(
        self, record: Record, image: Image.Image, size: Size, rng: np.random.Generator
    ) -> Image.Image:
        """The low-resolution picture of the whole, never of a crop, which lacks surroundings."""
        given = record.pictures.get(LOW_RES)
        if given is not None:
            width, height = transforms.size_of(given, record.name)
            # One of another size is for another stage.
            if min(width / size[1], height / size[0]) == 1:
                image = transforms.decode(given, record.name, max(size))
        data = self._config.data
        fitted = transforms.cover(image, size)
        return with_faults(fitted, data.low_res_blur, data.low_res_blotches, rng)

    def _numbers(self, name: str, index: int) -> dict[str, np.generic]:
        """The record's numbers and its class; where the stage is told none, nothing is read."""
        inputs = self._inputs
        if inputs.classes is None and not inputs.numbers:
            return {}
        found = self._source.metadata(index).numbers
        feature = self._config.data.label_feature
        for number in [*inputs.numbers, *([] if inputs.classes is None else [feature])]:
            if number not in found:
                raise BrokenRecord(name, f"no number {number}")
            if abs(found[number]) > _LARGEST:
                raise BrokenRecord(name, f"{number} out of range", f"{found[number]:g}")
        numbers = {number: np.float32(found[number]) for number in inputs.numbers}
        if inputs.classes is None:
            return numbers
        label = found[feature]
        if not (label.is_integer() and 0 <= label < inputs.classes):
            known = f"{feature} is {label:g}; there are 0 to {inputs.classes - 1}"
            raise BrokenRecord(name, "class out of range", known)
        return {**numbers, _LABEL: np.int32(label)}


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Examples -> one batch: stacked pictures; names, captions and what is broken as lists."""
    names = [name for name in examples[0] if name not in _LISTS]
    pictures = {name: np.stack([example[name] for example in examples]) for name in names}
    return {**pictures, **{name: [example[name] for example in examples] for name in _LISTS}}


class ReadBatch:
    """Puts what is read of a batch's captions in their place, and weights beside it."""

    def __init__(self, read: ReadCaptions | None, ends: int = 1):
        """`read` is None for a stage without text. `ends`: tokens of a text without words."""
        self._read, self._ends = read, ends

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        arrays = {name: array for name, array in batch.items() if name not in _LISTS}
        broken = list(batch[_BROKEN])
        if self._read is not None:
            arrays |= self._captions(batch[_CAPTION])
            silent = _rows_without_words(arrays["mask"], self._ends, broken)
            for row in silent:
                error = BrokenRecord(batch[_NAME][row], "no caption", "none that can be read")
                broken[row] = Broken(error.name, error.reason, str(error))
            if silent:
                arrays = _without(silent, arrays)
        weight = np.array([one is None for one in broken], np.float32)
        return {**arrays, "weight": weight, _BROKEN: [one for one in broken if one]}

    def _captions(self, captions: Sequence[str | None]) -> Batch:
        """What there is none for gets zeros, as the null text is: one token can be seen."""
        rows = [row for row, caption in enumerate(captions) if caption is not None]
        read = self._read([captions[row] for row in rows])
        if len(rows) == len(captions):
            return read
        filled = {x: np.zeros((len(captions), *read[x].shape[1:]), read[x].dtype) for x in read}
        filled["mask"][:, 0] = True
        for name, array in filled.items():
            array[rows] = read[name]
        return filled


def _rows_without_words(mask: np.ndarray, ends: int, broken: Sequence[Broken | None]) -> list[int]:
    """The rows that are not broken, and of whose caption the ends alone can be seen."""
    return [row for row in np.flatnonzero(mask.sum(1) <= ends).tolist() if not broken[row]]


def _without(rows: Sequence[int], batch: Batch) -> Batch:
    """The batch with these rows blank, as those of other broken records."""
    copies = {name: array.copy() for name, array in batch.items()}
    for array in copies.values():
        array[rows] = 0
    copies["mask"][rows, 0] = True
    return copies


class CountBroken:
    """Takes the broken records out of a batch and counts them."""

    def __init__(self, broken: BrokenRecords):
        self._broken = broken

    def __call__(self, batch: dict[str, Any]) -> Batch:
        self._broken.take(len(batch["image"]), batch.pop(_BROKEN))
        return batch
