"""What one chip of each TPU generation can do, and the slices that can be had. No JAX here."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """Peak rates of one chip.

    Attributes:
        flops: multiplications and additions per second, bfloat16.
        hbm_bytes: what the compiler lets a program use; a little less than the chip has.
        hbm_bandwidth: bytes per second.
        ici_bandwidth: bytes per second that leave a chip over all its links to other chips.
        slices: chips along each side of the slices that can be had.
        kind: what JAX calls the device.
    """

    flops: float
    hbm_bytes: int
    hbm_bandwidth: float
    ici_bandwidth: float
    slices: tuple[str, ...]
    kind: str


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = (
    "2x2x1",
    "2x2x2",
    "2x2x4",
    "2x4x4",
    "4x4x4",
    "4x4x8",
    "4x8x8",
    "4x4x16",
    "8x8x8",
    "8x8x12",
    "8x8x16",
    "8x16x16",
    "16x16x16",
)

# Peaks and slices: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, tables of key specifications.
# Those pages give the links of v5e and v6e both ways together, 400 and 800 GB/s, and of v5p
# 4,800 Gb/s one way; of v4, Jouppi et al. 2023 (arXiv 2304.01433, table 4): six links of 50 GB/s.
# Bytes of HBM are those of libtpu 0.0.52's own message when a program does not fit.
CHIPS = {
    "v4": Chip(
        flops=275e12,
        hbm_bytes=int(30.75 * GIB),
        hbm_bandwidth=1228e9,
        ici_bandwidth=300e9,
        slices=_CUBES,
        kind="TPU v4",
    ),
    "v5e": Chip(
        flops=197e12,
        hbm_bytes=int(15.75 * GIB),
        hbm_bandwidth=819e9,
        ici_bandwidth=200e9,
        slices=_FLAT,
        kind="TPU v5 lite",
    ),
    "v5p": Chip(
        flops=459e12,
        hbm_bytes=int(95.73 * GIB),
        hbm_bandwidth=2765e9,
        ici_bandwidth=600e9,
        slices=(*_CUBES, "16x16x24"),
        kind="TPU v5",
    ),
    "v6e": Chip(
        flops=918e12,
        hbm_bytes=int(31.24 * GIB),
        hbm_bandwidth=1638e9,
        ici_bandwidth=400e9,
        slices=_FLAT,
        kind="TPU v6 lite",
    ),
}
"""Generation -> chip."""


def known_topologies() -> list[str]:
    """v4:2x2x1, ..., v6e:16x16"""
    return [f"{name}:{slice_}" for name, chip in CHIPS.items() for slice_ in chip.slices]


def chip_of(topology: str) -> Chip:
    return CHIPS[topology.partition(":")[0]]


def chip_of_kind(kind: str) -> Chip | None:
    """The chip that JAX calls `kind`; None of a CPU, a GPU and a chip that is not known here."""
    return next((chip for chip in CHIPS.values() if chip.kind == kind), None)
