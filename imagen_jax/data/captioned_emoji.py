"""The tfds data set `captioned_emoji`: emoji of three styles with their words.

    builder = tfds.builder("captioned_emoji/core_256", file_format="array_record")

Configs are named `{core,all,varied,pairs}_{64,256,1024}`; `varied` has the core's concepts in other
colours and on coloured backgrounds, and `pairs` two of them side by side. Every picture is drawn
from vectors, so it is as sharp as its size; `low_res` is the same vector drawn at a quarter of the
side.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import ClassVar, Literal, get_args

import tensorflow_datasets as tfds

from imagen_jax.data import emoji_colours, emoji_concepts, emoji_pairs, emoji_vectors
from imagen_jax.data.emoji_vectors import Concept

NAME = "captioned_emoji"
RESOLUTIONS = (64, 256, 1024)
UPSCALE = 4
SEPARATOR = "|"
VARIANTS = {64: 40, 256: 10, 1024: 3}
"""The most pictures that `varied` has of a concept in a style: large ones take long to draw."""
Subset = Literal["core", "all", "varied", "pairs"]
_CITATION = """Noto Emoji (Google, Apache-2.0); Twemoji (Twitter and contributors, CC-BY-4.0);
Fluent Emoji Flat (Microsoft, MIT); words: emojibase-data (Miles Johnson, MIT)."""


@dataclasses.dataclass(kw_only=True)
class CaptionedEmojiConfig(tfds.core.BuilderConfig):
    """Which concepts, and the side of the pictures."""

    subset: Subset = "core"
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
        for subset in get_args(Subset)
        for resolution in RESOLUTIONS
    ]


def _picture(side: int) -> tfds.features.Image:
    return tfds.features.Image(shape=(side, side, 3), encoding_format="png")


class CaptionedEmoji(tfds.core.GeneratorBasedBuilder):
    """Emoji in three styles; the test split holds out styles, colours and backgrounds of concepts
    that the train split has in others."""

    name = NAME
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "Plain pictures; whole concepts are held out too.",
        "2.0.0": "`varied`, with colours and backgrounds; no concept is held out whole.",
    }
    BUILDER_CONFIGS = _configs()

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        features = {
            "image": _picture(config.resolution),
            "label": tfds.features.Text(),
            "synonyms": tfds.features.Text(doc=f"joined with {SEPARATOR!r}"),
            "keywords": tfds.features.Text(doc=f"joined with {SEPARATOR!r}"),
            "style": tfds.features.Text(doc=", ".join(emoji_vectors.STYLES)),
            "colour": tfds.features.Text(doc='the object\'s, "" for its own'),
            "background": tfds.features.Text(doc='"" for white'),
            "concept": tfds.features.Text(doc="Unicode code points, as 1f34e"),
            "held_out": tfds.features.Text(doc='what is held out in the test split, else ""'),
        }
        if config.subset == "pairs":
            features["beside"] = tfds.features.Text(doc="label of the one on the right")
            features["beside_synonyms"] = tfds.features.Text(doc="of that")
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
        if self.builder_config.subset == "all":
            return list(emoji_vectors.concepts().values())
        return emoji_concepts.core_concepts()

    def _variants(self, concept: Concept, style: str) -> list[tuple[str, str]]:
        """(colour, background) of each picture of a concept in a style."""
        if self.builder_config.subset != "varied":
            return [("", "")]
        return emoji_concepts.variants(concept, style)[: VARIANTS[self.builder_config.resolution]]

    def _generate_examples(self, test: bool) -> Iterator[tuple[str, dict]]:
        """All pictures that are held out, or all that are not."""
        if self.builder_config.subset == "pairs":
            yield from self._generate_pairs(test)
            return
        for concept in self._concepts():
            for style in emoji_vectors.styles_of(concept.key):
                for look in self._variants(concept, style):
                    if bool(emoji_concepts.held_out(concept, style, *look)) == test:
                        key = "/".join([concept.key, style, *look])
                        yield key, self._example(concept, style, *look)

    def _generate_pairs(self, test: bool) -> Iterator[tuple[str, dict]]:
        for left, right in emoji_pairs.pairs():
            if emoji_pairs.is_held_out(left, right) != test:
                continue
            for style in emoji_pairs.styles_of(left, right):
                draw = functools.partial(emoji_pairs.draw, style, left.key, right.key)
                words = self._words(left, style) | {
                    "concept": f"{left.key}{SEPARATOR}{right.key}",
                    "beside": right.label,
                    "beside_synonyms": _synonyms(right),
                    "held_out": "pair" if test else "",
                }
                yield "/".join([left.key, right.key, style]), self._pictures(draw) | words

    def _example(self, concept: Concept, style: str, *look: str) -> dict:
        draw = functools.partial(emoji_colours.draw, style, concept.key, *look)
        return self._pictures(draw) | self._words(concept, style, *look)

    def _words(
        self, concept: Concept, style: str, colour: str = "", background: str = ""
    ) -> dict[str, str]:
        return {
            "label": emoji_concepts.colourable_label(concept) if colour else concept.label,
            "synonyms": _synonyms(concept),
            "keywords": SEPARATOR.join(concept.keywords),
            "style": style,
            "colour": colour,
            "background": background,
            "concept": concept.key,
            "held_out": emoji_concepts.held_out(concept, style, colour, background),
        }

    def _pictures(self, draw: Callable[[int], bytes]) -> dict[str, bytes]:
        """What `draw` makes of each side."""
        config = self.builder_config
        pictures = {"image": draw(config.resolution)}
        if config.low_resolution is not None:
            pictures["low_res"] = draw(config.low_resolution)
        return pictures


def _synonyms(concept: Concept) -> str:
    return SEPARATOR.join(emoji_concepts.SYNONYMS.get(concept.label, ()))
