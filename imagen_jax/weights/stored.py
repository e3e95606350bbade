"""Tensors that stay in their files until a part of them is wanted."""

import contextlib
import dataclasses
import functools
import math
import mmap
from collections.abc import Callable, Collection, Iterator, Set
from pathlib import Path
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from imagen_jax.config.choices import Dtype
from imagen_jax.errors import UsageError
from imagen_jax.storage.files import AnyPath, LocalFile
from imagen_jax.weights.sums import checksum, read_sums

Index = tuple[slice, ...]

_BLOCK = 2**20
"""Elements that are read, or looked at, at once."""
_TILE = 16
"""Rows that are copied at once: a transposed copy of more falls out of the processor's cache."""
_SAFETENSORS_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_FLOATS = set(_SAFETENSORS_DTYPES.values())
_LISTED = 20
_EXPONENTS = {4: 0x7F800000, 2: 0x7F80}
"""Bits of the exponent of a float32 and a bfloat16; they are all set where it is not finite."""


@runtime_checkable
class Stored(Protocol):
    """A parameter that is read when it is wanted."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def whole(self, dtype: Dtype) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, seen as the parameter that it becomes.

    Attributes:
        origin: file and name, for errors.
        stored_shape: in the file.
        dtype: name of its type in the file.
        read: gives the part of the stored tensor at an index of plain slices.
        transposed: the file has [outputs, inputs] and the parameter is [inputs, outputs].
        sum: of its bytes, as `sums.checksum`; empty where the file does not say it.
    """

    origin: str
    stored_shape: tuple[int, ...]
    dtype: str
    read: Callable[[Index], np.ndarray]
    transposed: bool = False
    sum: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored_shape[::-1] if self.transposed else self.stored_shape

    def whole(self, dtype: Dtype) -> np.ndarray:
        """All of the parameter, a new array.

        Raises:
            UsageError: as `check` and `part`.
        """
        self.check()
        return self.part((slice(None),) * len(self.shape), dtype)

    def check(self) -> None:
        """Reads all of it, some rows at a time, where there is a sum to hold it against.

        Raises:
            UsageError: these are not the bytes that were written.
        """
        if not self.sum:
            return
        found = checksum(b"")
        for index, _ in _blocks([(0, size) for size in self.stored_shape]):
            block = np.ascontiguousarray(self.read(index))
            found = checksum(block.reshape(-1).view(np.uint8), found)
        if (found or checksum(b"")) != self.sum:
            raise UsageError(
                f"{self.origin} is damaged: its bytes are not those that were written."
            )

    def part(self, index: Index, dtype: Dtype) -> np.ndarray:
        """The part of the parameter at `index`, a new array; some rows at a time are read.

        Raises:
            UsageError: a number in it is not finite.
        """
        bounds = [s.indices(size)[:2] for s, size in zip(index, self.shape, strict=True)]
        part = _empty([stop - start for start, stop in bounds], jnp.dtype(dtype))
        target = part.T if self.transposed else part
        for index, rows in _blocks(bounds[::-1] if self.transposed else bounds):
            block = np.asarray(self.read(index)).astype(part.dtype, copy=False)
            require_finite(block, self.origin)
            _copy(block, target[rows] if rows else target)
        return part


def _blocks(bounds: list[tuple[int, int]]) -> Iterator[tuple[Index, Index]]:
    """What is read at once of a part of a tensor, some rows, and where in the part it lies.

    Of a single number, which has no rows, both are ().
    """
    if not bounds:
        yield (), ()
        return
    (start, stop), *others = bounds
    step = max(1, _BLOCK // max(1, math.prod(stop - start for start, stop in others)))
    for first in range(start, stop, step):
        last = min(first + step, stop)
        index = (slice(first, last), *(slice(*bound) for bound in others))
        yield index, (slice(first - start, last - start),)


def require_finite(x: np.ndarray, origin: str) -> None:
    """Raises a UsageError if a float32 or bfloat16 array holds infinities or what is no number."""
    kind = np.dtype(f"u{x.itemsize}")
    exponent = kind.type(_EXPONENTS[x.itemsize])
    bits = x.view(kind).reshape(-1)  # NumPy is slow with bfloat16.
    for start in range(0, bits.size, _BLOCK):
        if ((bits[start : start + _BLOCK] & exponent) == exponent).any():
            raise UsageError(f"{origin} holds numbers that are not finite.")


def _empty(shape: list[int], dtype: np.dtype) -> np.ndarray:
    """A new array outside of the heap, where arrays of many sizes would leave holes when they go:
    480 MB of them after T5-XXL."""
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return np.frombuffer(memory, dtype).reshape(shape)


def _copy(block: np.ndarray, target: np.ndarray) -> None:
    """target[...] = block, as integers: NumPy is slow with bfloat16."""
    bits = f"u{block.itemsize}"
    block, target = block.view(bits), target.view(bits)
    if not block.shape:
        target[...] = block
        return
    for row in range(0, len(block), _TILE):
        target[row : row + _TILE] = block[row : row + _TILE]


def place(
    tensor: StoredTensor, dtype: Dtype, sharding: jax.sharding.Sharding, *, check: bool = True
) -> jax.Array:
    """The parameter as `dtype` on its devices; this process reads only what its own ones hold.

    With `check` it first reads all of it, which then lies in the system's cache.
    """
    if check:
        tensor.check()
    parts: dict[str, np.ndarray] = {}

    def part(index: Index) -> np.ndarray:
        # Several devices may hold the same part. Slices cannot be keys before Python 3.12.
        if str(index) not in parts:
            parts[str(index)] = tensor.part(index, dtype)
        return parts[str(index)]

    placed = jax.make_array_from_callback(tensor.shape, sharding, part)
    return jax.block_until_ready(placed)  # Before the host makes room for the next one.


def open_file(path: AnyPath) -> tuple[dict[str, str], dict[str, StoredTensor]]:
    """What the header of a safetensors file says, and its tensors by name; none is read.

    Raises:
        UsageError: it cannot be read, is not safetensors, is cut short or has another header than
            was written.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a directory; it must be a file of safetensors.")
    with _reporting(path):
        file = LocalFile(path)
        with safetensors.safe_open(file.path, framework="numpy") as content:
            pieces = {name: content.get_slice(name) for name in content.keys()}  # noqa: SIM118
            shapes = {name: tuple(piece.get_shape()) for name, piece in pieces.items()}
            about, sums = read_sums(content.metadata() or {}, shapes, path)
            tensors = {
                name: StoredTensor(
                    origin=f"{path}: {name}",
                    stored_shape=shapes[name],
                    dtype=_SAFETENSORS_DTYPES.get(piece.get_dtype(), piece.get_dtype()),
                    read=functools.partial(_read_safetensors, file, name),
                    sum=sums.get(name, ""),
                )
                for name, piece in pieces.items()
            }
            return about, tensors


def _read_safetensors(file: LocalFile, name: str, index: Index) -> np.ndarray:
    # Opened anew each time: pages of a file that stays mapped are memory of this process.
    with (
        _reporting(file.origin),
        safetensors.safe_open(file.path, framework="numpy") as content,
    ):
        return content.get_slice(name)[index]


@contextlib.contextmanager
def _reporting(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    except safetensors.SafetensorError as error:
        raise UsageError(f"{path} is not a safetensors file or is cut short ({error}).") from error


def check_fit(
    tensors: dict[str, StoredTensor], shapes: dict[str, tuple[int, ...]], origin: Path
) -> None:
    """Makes sure that tensors are those of a network.

    Args:
        tensors: by name.
        shapes: of the network's parameters, by the same names.
        origin: file or directory that the tensors came from.

    Raises:
        UsageError: names are missing or left over, a shape differs, or a tensor does not hold
            floating-point numbers.
    """
    check_names(tensors.keys(), shapes.keys(), origin)
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name]:
            wanted = shapes[name][::-1] if tensor.transposed else shapes[name]
            raise UsageError(
                f"{tensor.origin} has shape {tensor.stored_shape}; its config says {wanted}."
            )
        if tensor.dtype not in _FLOATS:
            raise UsageError(
                f"{tensor.origin} is {tensor.dtype}; weights must be one of "
                f"{', '.join(sorted(_FLOATS))}."
            )


def check_names(names: Set[str], wanted: Set[str], origin: Path) -> None:
    """Raises a UsageError that lists what is missing and what is left over, if anything."""
    faults = [
        f"{len(wrong)} tensors are {what} ({listed(wrong)})"
        for what, wrong in (("missing", wanted - names), ("left over", names - wanted))
        if wrong
    ]
    if faults:
        raise UsageError(f"{origin} does not fit its config: {' and '.join(faults)}.")


def listed(names: Collection[str]) -> str:
    """The names in order; of many, the first and how many more there are."""
    first = ", ".join(sorted(names)[:_LISTED])
    return first if len(names) <= _LISTED else f"{first} and {len(names) - _LISTED} more"
