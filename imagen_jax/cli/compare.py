"""The verb `compare`: a page for human raters, and what they prefer."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from imagen_jax.cli.given import require_positive_flags
from imagen_jax.cli.unused import require_default
from imagen_jax.errors import UsageError

_SUFFIX = ".html"


@dataclasses.dataclass(frozen=True)
class Compare:
    """Write one HTML page on which people choose between the pictures of A and of B, without
    knowing whose they are: it needs no network, and saves its answers as a file. With --answers:
    say what they prefer."""

    a: Annotated[Positional[Path | None], arg(metavar="A")] = None
    """Directory of pictures that paint or sample.py wrote, or others with --prompts."""
    b: Annotated[Positional[Path | None], arg(metavar="B")] = None
    """The same prompts' pictures by another cascade, as many of each."""
    prompts: str = ""
    """Their prompts and categories, as paint takes them, such as drawbench.csv: of pictures without
    a manifest.json in the order of their names."""
    out: Path = Path("comparison.html")
    """The page; beside it lies its key, which raters must not see."""
    side: int = 320
    """Pixels of the longer side of pictures in the page; larger ones make it larger."""
    answers: tuple[Path, ...] = ()
    """Files that raters have saved from the page, to be counted."""

    def run(self) -> None:
        if self.out.suffix != _SUFFIX or self.out.is_dir():
            raise UsageError(f"--out is {self.out}; name a file that ends with {_SUFFIX}.")
        if self.answers:
            if self.a is not None:
                raise UsageError("--answers are of a page that was written; leave A and B out.")
            require_default(self, "the page of --answers is written already.", "prompts", "side")
            self._count()
        elif self.a is None or self.b is None:
            raise UsageError("There is nothing to compare; name two directories, or --answers.")
        else:
            self._write(self.a, self.b)

    def _write(self, *directories: Path) -> None:
        from imagen_jax.evaluation.comparison import key_path, write_comparison
        from imagen_jax.evaluation.pictures import open_pictures
        from imagen_jax.evaluation.prompt_sets import read_prompt_set, texts_of

        require_positive_flags(self, "side")
        prompts = read_prompt_set(self.prompts) if self.prompts else ()
        sets = [open_pictures(directory) for directory in directories]
        if prompts:
            texts = texts_of(prompts)
            sets = [
                x if x.prompts else x.with_prompts(texts, max(len(x) // len(texts), 1))
                for x in sets
            ]
        count = write_comparison(*sets, prompts, self.out, self.side)
        print(f"{self.out}: {count} prompts; its key, for --answers: {key_path(self.out)}")

    def _count(self) -> None:
        from imagen_jax.evaluation.comparison import key_path, read_key
        from imagen_jax.evaluation.preferences import markdown, read_votes

        key = read_key(key_path(self.out))
        print(markdown(key, read_votes(key, self.answers)))
