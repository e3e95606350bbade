"""Faults of the stage before, done to true low-resolution pictures in training.

Beyond the paper, which adds Gaussian noise alone (noise conditioning augmentation). A network of
few parameters, trained briefly, paints soft outlines and blotched areas; the next stage learns to
make them crisp and flat only if it sees such pictures. What is done is not told to the network.
"""

import numpy as np
from PIL import Image, ImageFilter

_MOST_CELLS = 32
"""To a side; finer blotches would be noise, which noise conditioning augmentation adds."""


def with_faults(
    picture: Image.Image, blur: float, blotches: float, rng: np.random.Generator
) -> Image.Image:
    """The picture blurred and blotched, as much as is drawn anew each time.

    Args:
        picture: RGB.
        blur: the largest standard deviation of the Gaussian, in pixels.
        blotches: the largest standard deviation of smooth random colours that are added, in steps
            of 255. They are drawn for 1, 2, 4 ... 32 cells to a side; one cell moves all colours.
    """
    if blur:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, blur)))
    if blotches:
        cells = 2 ** rng.integers(min(_MOST_CELLS, *picture.size).bit_length())
        colours = rng.normal(0, rng.uniform(0, blotches), (3, cells, cells)).astype(np.float32)
        smooth = [
            np.asarray(Image.fromarray(channel).resize(picture.size, Image.Resampling.BICUBIC))
            for channel in colours
        ]
        blotched = np.asarray(picture) + np.stack(smooth, -1)
        picture = Image.fromarray(blotched.round().clip(0, 255).astype(np.uint8))
    return picture
