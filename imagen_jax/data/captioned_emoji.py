"""The tfds data set `captioned_emoji`: emoji of three styles with their words.

    builder = tfds.builder("captioned_emoji/core_256", file_format="array_record")

Configs are named `{core,all}_{64,256,1024}`. Every picture is drawn from vectors, so it is as
sharp as its size; `low_res` is the same vector drawn at a quarter of the side.
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import tensorflow_datasets as tfds

from imagen_jax.data import emoji_concepts, emoji_vectors
from imagen_jax.data.emoji_vectors import Concept

NAME = "captioned_emoji"
RESOLUTIONS = (64, 256, 1024)
UPSCALE = 4
KEYWORD_SEPARATOR = "|"
_CITATION = """Noto Emoji (Google, Apache-2.0); Twemoji (Twitter and contributors, CC-BY-4.0);
Fluent Emoji Flat (Microsoft, MIT); words: emojibase-data (Miles Johnson, MIT)."""


@dataclasses.dataclass(kw_only=True)
class CaptionedEmojiConfig(tfds.core.BuilderConfig):
    """Which concepts, and the side of the pictures."""

    subset: Literal["core", "all"] = "core"
    resolution: int = 64

    @property
    def low_resolution(self) -> int | None:
        """Side of `low_res`; None at the lowest resolution."""
        return None if self.resolution == RESOLUTIONS[0] else self.resolution // UPSCALE


def _configs() -> list[CaptionedEmojiConfig]:
    return [
        CaptionedEmojiConfig(
            name=f"{subset}_{resolution}",
            description=f"{subset} concepts at {resolution}x{resolution}",
            subset=subset,
            resolution=resolution,
        )
        for subset in ("core", "all")
        for resolution in RESOLUTIONS
    ]


def _picture(side: int) -> tfds.features.Image:
    return tfds.features.Image(shape=(side, side, 3), encoding_format="png")


class CaptionedEmoji(tfds.core.GeneratorBasedBuilder):
    """Emoji in three styles; the test split holds out concepts and (concept, style) pairs."""

    name = NAME
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = _configs()

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        features = {
            "image": _picture(config.resolution),
            "label": tfds.features.Text(),
            "keywords": tfds.features.Text(doc=f"joined with {KEYWORD_SEPARATOR!r}"),
            "style": tfds.features.Text(doc=", ".join(emoji_vectors.STYLES)),
            "concept": tfds.features.Text(doc="Unicode code points, as 1f34e"),
            "held_out": tfds.features.Text(doc='"concept" or "pair" in the test split, else ""'),
        }
        if config.low_resolution is not None:
            features["low_res"] = _picture(config.low_resolution)
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager  # The vectors are part of the package.
        return {"train": self._generate_examples(False), "test": self._generate_examples(True)}

    def _concepts(self) -> list[Concept]:
        if self.builder_config.subset == "core":
            return emoji_concepts.core_concepts()
        return list(emoji_vectors.concepts().values())

    def _generate_examples(self, test: bool) -> Iterator[tuple[str, dict]]:
        """All pictures that are held out, or all that are not."""
        for concept in self._concepts():
            for style in emoji_vectors.styles_of(concept.key):
                if bool(emoji_concepts.held_out(concept, style)) == test:
                    yield f"{concept.key}/{style}", self._example(concept, style)

    def _example(self, concept: Concept, style: str) -> dict:
        config = self.builder_config
        example = {
            "image": emoji_vectors.draw(style, concept.key, config.resolution),
            "label": concept.label,
            "keywords": KEYWORD_SEPARATOR.join(concept.keywords),
            "style": style,
            "concept": concept.key,
            "held_out": emoji_concepts.held_out(concept, style),
        }
        if config.low_resolution is not None:
            example["low_res"] = emoji_vectors.draw(style, concept.key, config.low_resolution)
        return example
