"""The verb `vocabulary`: what a stage that was trained on emoji can be asked for."""

import dataclasses
import io
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from imagen_jax.cli.outputs import require_suffix
from imagen_jax.cli.stage_flags import SHIPPED
from imagen_jax.config.python_file import stage_or_config
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.shipped import STAGES, shipped_stage
from imagen_jax.storage.files import AnyPath

_WIDTH = 98
"""Letters of a line."""
_COLUMNS, _SIDE = 11, 92
"""Of the sheet."""


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """List the words that a stage has learned from the emoji, by kind, with a thing's other names
    in brackets. A word that is not listed means little or nothing to the stage."""

    stage: Annotated[Positional[str], arg(metavar="STAGE")] = SHIPPED
    """A stage or a config; unsaid, the base that ships with this package."""
    out: Annotated[Path | None, arg(metavar="FILE.png")] = None
    """Picture to write too: each thing as it was drawn to learn from."""

    def run(self) -> None:
        from imagen_jax.data import emoji_words
        from imagen_jax.stored.stages import load_config

        if self.out is not None:
            require_suffix(self.out, ".png")
        config = load_config(self._path())
        words = emoji_words.Vocabulary.of(config.data)
        if words is None:
            raise UsageError(
                f"{config.name} was not trained on the data set captioned_emoji alone; only of "
                "that set the words are known."
            )
        print(_listed(config.name, words))
        if self.out is not None:
            _save_sheet(words, self.out)
            print(self.out)

    def _path(self) -> AnyPath:
        is_shipped = self.stage == SHIPPED
        return shipped_stage(STAGES[0]) if is_shipped else stage_or_config(self.stage)


def _listed(name: str, words: Any) -> str:
    from imagen_jax.data.emoji_vectors import STYLES

    lines = [f"{name} knows {len(words.concepts)} things:", ""]
    for group, concepts in words.by_group().items():
        lines.append(
            _wrapped(group.replace("-", ", "), (_with_names(words.names_of(x)) for x in concepts))
        )
    lines += ["", _wrapped("styles, as in 'a cat, noto style'", STYLES)]
    if words.colours:
        lines.append(_wrapped("colours, as in 'a blue apple'", words.colours))
        lines.append(_wrapped("backgrounds, as in 'a cat on a red background'", words.backgrounds))
    if words.has_pairs:
        lines.append("two things side by side, as in 'a cat and a dog'")
    return "\n".join(lines)


def _wrapped(title: str, parts: Iterable[str]) -> str:
    return textwrap.fill(f"{title}: {', '.join(parts)}", _WIDTH, subsequent_indent="    ")


def _with_names(names: Sequence[str]) -> str:
    label, *others = names
    return f"{label} ({', '.join(others)})" if others else label


def _save_sheet(words: Any, path: Path) -> None:
    import numpy as np
    from PIL import Image

    from imagen_jax.data.emoji_colours import draw
    from imagen_jax.data.emoji_vectors import styles_of
    from imagen_jax.pipeline.sheets import grid, save_png

    drawn = [draw(styles_of(c.key)[0], c.key, "", "", _SIDE) for c in words.concepts]
    pictures = [np.asarray(Image.open(io.BytesIO(png))) for png in drawn]
    names = [words.shortest_name(concept) for concept in words.concepts]
    starts = range(0, len(names), _COLUMNS)
    rows = [pictures[first : first + _COLUMNS] for first in starts]
    save_png(grid(rows, [names[first : first + _COLUMNS] for first in starts]), path)
