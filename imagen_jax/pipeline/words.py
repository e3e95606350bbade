"""Which words of its prompt each place of a picture attends to."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image

from imagen_jax.errors import UsageError
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline.pictures import Pictures
from imagen_jax.pipeline.sampling import picture_keys
from imagen_jax.pipeline.stage import Stage


@dataclasses.dataclass(frozen=True)
class WordMaps:
    """How much each place of a stage's pictures attends to each token of its prompt.

    Attributes:
        tokens: of each picture's prompt, without the padding.
        layers: of every attention over text, as `WordWeights`.
        size: (height, width) of the pictures.
    """

    tokens: tuple[tuple[str, ...], ...]
    layers: Sequence[Float[np.ndarray, "pictures _ _ length"]]
    size: tuple[int, int]

    def of(self, word: str, picture: int = 0) -> Float[np.ndarray, "height width"]:
        """The weight of a word, summed over its tokens, as a mean over the layers; 0 to 1.

        Raises:
            UsageError: the picture's prompt has no such word.
        """
        tokens = _places(word, self.tokens[picture])
        maps = [layer[picture][:, :, tokens].sum(-1) for layer in self.layers]
        return np.mean([_at_size(x, self.size) for x in maps], axis=0)


def word_maps(stage: Stage, pictures: Pictures, index: int, time: float, seed: int) -> WordMaps:
    """The maps of a stage's pictures.

    Args:
        index: of the stage.
        time, seed: as `Cascade.word_maps` takes them.

    Raises:
        UsageError: the stage reads no text, or the time is out of range.
    """
    config = stage.config
    if not config.conditions.text:
        raise UsageError(f"{stage.stored.origin} ({config.name}) reads no text.")
    if not 0 <= time <= 1:
        raise UsageError(f"time is {time}; it must lie between 0 and 1.")
    pixels = pictures.stages[index]
    count = len(pixels)
    # As many rows as divide over the devices.
    rows = np.arange(meshes.batch_starts(count, count, stage.mesh).step) % count
    keys = picture_keys(seed, config.resolution, count)[rows]
    aug_level = pictures.steps[index].settings.aug_level
    layers = stage.word_weights(
        pixels[rows], keys, pictures.conditions(index, rows), time, aug_level
    )
    tokens = _tokens(stage, pictures)
    return WordMaps(tokens, [layer[:count] for layer in layers], pixels.shape[1:3])


def _tokens(stage: Stage, pictures: Pictures) -> tuple[tuple[str, ...], ...]:
    """The tokens of each picture's prompt."""
    tokenizer = stage.stored.load_tokenizer()
    read = [
        tuple(tokenizer.decode([i]) for i in tokenizer.ids(prompt)) for prompt in pictures.prompts
    ]
    most = stage.config.text_encoder.max_length - 1
    return tuple(tokens[:most] for tokens in read for _ in range(pictures.num_images))


def _places(word: str, tokens: Sequence[str]) -> list[int]:
    """Where the tokens of a word stand, each time that it comes."""
    wanted = word.strip().lower()
    found: set[int] = set()
    for start in range(len(tokens)):
        for end in range(start + 1, len(tokens) + 1):
            if "".join(tokens[start:end]).strip().lower() == wanted:
                found |= set(range(start, end))
    if not found:
        raise UsageError(f"The prompt has no word {word!r}; its tokens are {', '.join(tokens)}.")
    return sorted(found)


def _at_size(weights: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(weights.astype(np.float32))
    return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))
