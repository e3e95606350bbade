"""What the embeddings of a data set take, in words. No JAX here."""

from imagen_jax.config import DataConfig
from imagen_jax.config.network import T5_PRESETS
from imagen_jax.text.cache_format import (
    HEADER_BYTES,
    INDEX,
    PROMPTS_PREFIX,
    Encoding,
    Plan,
    Sizes,
)

_BYTES = 2
_MANY = 400_000_000
_CAPTION_BYTES = HEADER_BYTES + sum(dtype.itemsize for dtype in INDEX.values())
"""Of a caption, beside its rows."""
_SHORTEST = 8


def size_in_bytes(sizes: Sizes, encoding: Encoding) -> int:
    """The size of all embeddings of a part and its index, before the shards are compressed."""
    rows = sizes.tokens(encoding.max_length)
    if encoding.padded:
        rows = sizes.distinct * encoding.max_length
    return rows * encoding.width * _BYTES + sizes.distinct * _CAPTION_BYTES


def describe(plan: Plan, sizes: Sizes) -> str:
    """Captions, tokens and bytes, by arithmetic; of a data set also what many more would take."""
    encoding, length = plan.encoding, plan.encoding.max_length
    total, tokens = size_in_bytes(sizes, encoding), sizes.tokens(length)
    distinct = max(sizes.distinct, 1)
    broken = f" ({sizes.broken:,} broken)" if sizes.broken else ""
    lines = [
        f"{name_of(plan.data)}: {plan.records:,} records{broken}, {sizes.captions:,} captions; to "
        f"embed are {sizes.distinct:,}, each once",
        f"  tokens      {tokens:,}, {tokens / distinct:.1f} a caption, the longest "
        f"{sizes.longest}; {sizes.longer(length):,} captions are cut to {length}",
        f"  bytes       {show(total)} before compression, {total / distinct:,.0f} a caption, in "
        f"{len(sizes.shards)} shards" + (", with the rows of padding" if encoding.padded else ""),
    ]
    if not plan.data.source.startswith(PROMPTS_PREFIX):  # Of which there are never many.
        lines += _of_more_captions(sizes, encoding)
    return "\n".join(lines)


def _of_more_captions(sizes: Sizes, encoding: Encoding) -> list[str]:
    """What many such captions would take, and what shorter ones would save."""
    length, distinct, widest = (
        encoding.max_length,
        max(sizes.distinct, 1),
        T5_PRESETS["xxl"].d_model,
    )
    mean = sizes.tokens(length) / distinct
    lines = [
        f"  400 million captions of {mean:.1f} tokens would take "
        f"{_of_many(mean, encoding.width)}, with T5-XXL {_of_many(mean, widest)} (padded to "
        f"{length} tokens, {_of_many(length, widest)})",
    ]
    shorter = _SHORTEST
    while shorter < min(length, sizes.longest):
        share, less = sizes.longer(shorter) / distinct, sizes.tokens(shorter) / distinct
        lines.append(
            f"  --max-length {shorter} would cut {share:.1%} of them: {less:.1f} tokens a caption, "
            f"400 million with T5-XXL {_of_many(less, widest)}"
        )
        shorter *= 2
    return lines


def name_of(data: DataConfig) -> str:
    return ", ".join(share.source for share in data.shares)


def _of_many(tokens: int | float, width: int) -> str:
    return show(_MANY * (tokens * width * _BYTES + _CAPTION_BYTES))


def show(size: int | float) -> str:
    """`size` bytes in units of 1000: 12.3 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
