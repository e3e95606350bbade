"""Counts of parameters, from the architecture on paper."""


def dense(inside, outside):
    return inside * outside + outside


def conv(kernel, inside, outside):
    return kernel**2 * inside * outside + outside


def res_block(inside, outside, embedding):
    """Two group norms, two convolutions, scale and shift, a 1x1 shortcut if widths differ."""
    shortcut = conv(1, inside, outside) if inside != outside else 0
    norms = 2 * inside + 2 * outside
    convs = conv(3, inside, outside) + conv(3, outside, outside)
    return norms + convs + dense(embedding, 2 * outside) + shortcut


def attention(channels, inner, text, self_attention=True):
    """Group norm, layer norm of the text, query, own and text keys and values, output."""
    own = dense(channels, 2 * inner) if self_attention else 0
    norms = 2 * channels + 2 * text
    return norms + dense(channels, inner) + own + dense(text, 2 * inner) + dense(inner, channels)


def embeddings(width, text, scalars):
    """Time (and aug_level) through two dense layers; the pooled text."""
    embedding = 4 * width
    scalar = dense(width, embedding) + dense(embedding, embedding)
    pooling = 2 * text + dense(text, text) + dense(text, 2 * text) + dense(text, embedding)
    return scalars * scalar + pooling


def paper_base(text):
    """Appendix F.1: 512 channels times 1, 2, 3, 4; three blocks; attention at 32, 16, 8."""
    d, e = 512, 2048
    one, two, three, four = d, 2 * d, 3 * d, 4 * d
    block = lambda inside, outside: res_block(inside, outside, e)  # noqa: E731
    attend = lambda channels: attention(channels, channels, text)  # noqa: E731
    down = (
        4 * block(one, one)  # three and the one that halves the side
        + (block(one, two) + 3 * block(two, two) + 3 * attend(two))
        + (block(two, three) + 3 * block(three, three) + 3 * attend(three))
        + (block(three, four) + 2 * block(four, four) + 3 * attend(four))
    )
    middle = 2 * block(four, four) + attend(four)
    # Going up a level has four blocks, each on its input beside one skip, and one that
    # doubles the side. The skips are, from below: the level's three blocks, then what the
    # level above handed down.
    up = (
        (3 * block(four + four, four) + block(four + three, four) + block(four, four))
        + (block(four + three, three) + 2 * block(three + three, three))
        + (block(three + two, three) + block(three, three))
        + (block(three + two, two) + 2 * block(two + two, two))
        + (block(two + one, two) + block(two, two))
        + (block(two + one, one) + 3 * block(one + one, one))
        + 4 * (attend(four) + attend(three) + attend(two))
    )
    ends = conv(3, 3, d) + 2 * d + conv(3, d, 3)
    return embeddings(d, text, scalars=1) + down + middle + up + ends


def blocks(channels, counts, text, self_attention):
    """DBlocks and UBlocks: convolution, residual blocks, at the bottom attention of 2C."""
    embedding, total = 4 * channels[0], 0
    for outer, inner, count in zip((channels[0], *channels), channels, counts, strict=False):
        total += conv(3, outer, inner) + conv(3, inner, outer)
        total += 2 * count * res_block(inner, inner, embedding)
    return total + 2 * attention(channels[-1], 2 * channels[-1], text, self_attention)
