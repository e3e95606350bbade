"""Array types of the public signatures, named once.

Letters in einsum bodies: B batch, H height, W width, C channels, L text length, D text
width, Q queries, K keys, N heads, E embedding width.
"""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Key, UInt8

Images = Float[Array, "batch height width channels"]
"""Pictures or latents; clean pictures lie in [-1, 1]."""
Pixels = UInt8[Array, "batch height width 3"]
"""Pictures as stored and as sent to the device, 0..255."""
Features = Float[Array, "batch _ _ _"]
"""Pictures or activations (batch, height, width, channels) that one signature may have in
several sizes."""
LowResPixels = UInt8[Array, "batch low_height low_width 3"]
"""Of another size than the `Pixels` of the same signature."""
LogSNR = Float[Array, "batch"]
"""lambda = log(alpha^2 / sigma^2), float32, one per picture."""
NoiseLevel = Float[Array, "batch"]
"""What a network is told of a picture's noise: a log-SNR or an aug_level, or as one that counts in
the steps of a discrete chain a step's number."""
Time = Float[Array, "batch"]
"""Diffusion time in [0, 1]: 0 is the clean picture, 1 is noise."""
AugLevel = Float[Array, "batch"]
"""Noise conditioning augmentation level in [0, 1], one per picture."""
Embedding = Float[Array, "batch embedding"]
TextEmbeddings = Float[Array, "batch length text_width"]
TextMask = Bool[Array, "batch length"]
"""True where a token is real, False where it is padding."""
_Anywhere = Array | np.ndarray
NullText = tuple[Float[_Anywhere, "1 length text_width"], Bool[_Anywhere, "1 length"]]
"""Embeddings and mask of the empty caption, for pictures without a text; on host or devices."""
TokenIds = Int32[Array, "batch length"]
Traced = Any
"""A number in a pytree that is an argument of jitted functions: a float or int, or any array,
tracer or abstract array of its shape, which is () where nothing else is said."""
Keys = Key[Array, "batch"]
"""One typed PRNG key per picture."""
