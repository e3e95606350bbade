"""The command that publishes a stage."""

import dataclasses
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from imagen_jax.config.choices import Dtype, Weights
from imagen_jax.errors import UsageError, reason
from imagen_jax.storage.files import to_path


@dataclasses.dataclass(frozen=True)
class Publish:
    """Upload a stage to Hugging Face's hub, with a card; then hf://OWNER/NAME names it. Who you are
    is said by HF_TOKEN or `hf auth login`."""

    stage: Annotated[Positional[str], arg(metavar="STAGE")]
    """A training directory, or an exported file, which is uploaded as it is."""
    repo: Annotated[Positional[str], arg(metavar="OWNER/NAME")]
    """The repository; it is made if it is not there."""
    private: bool = False
    """Make a new repository private; one that is there and public is refused."""
    license: str = "other"
    """Identifier of the hub, such as apache-2.0, for the card."""
    card: Annotated[Path | None, arg(metavar="FILE.md")] = None
    """Card to upload instead of the one that is written from the config. Unsaid, a card that is
    there stays."""
    dtype: Dtype = "bfloat16"
    """Of the weights of a training directory."""
    weights: Weights | None = None
    """Which of a training directory; unsaid, ema."""

    def run(self) -> None:
        from imagen_jax.stored.publish import Publication, publish

        publication = Publication(
            repo=self.repo,
            private=self.private,
            licence=self.license,
            card=self._card(),
            weights=self.weights,
            dtype=self.dtype,
        )
        print(publish(to_path(self.stage), publication))

    def _card(self) -> str | None:
        if self.card is None:
            return None
        try:
            return self.card.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"--card is {self.card}, which cannot be read: {reason(error)}."
            ) from error
