"""Low-rank adapters: what is trained beside the frozen weights of a stage."""

import dataclasses

from imagen_jax.config.checked import Checked
from imagen_jax.config.rules import require, require_not_negative, require_positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterConfig(Checked):
    """A low-rank adapter (LoRA, Hu et al. 2021) of a trained stage; the paper has none."""

    rank: int = 0
    """Of what is added to each kernel; 0 trains the stage itself."""
    alpha: float | None = None
    """What is added is multiplied by alpha / rank; None is the rank, and so no factor."""
    targets: tuple[str, ...] = ("unet.*attention*.kernel",)
    """Patterns of the kernels that it adds to, such as `unet.down.*` or `text_encoder.*`; `*`
    stands for anything, and of what is no kernel nothing is chosen."""
    base: str = ""
    """The stage that it adapts, which is not changed: a training directory or an exported file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_not_negative(self, "rank")
        if self.alpha is not None:
            require_positive(self, "alpha")
        if self.rank:
            require(
                bool(self.targets),
                "AdapterConfig.targets is empty; an adapter needs at least one pattern of kernels.",
            )

    @property
    def scale(self) -> float:
        """What the product of the two factors is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def adapts(self, network: str) -> bool:
        """Whether a pattern may choose kernels of "unet" or of "text_encoder"."""
        return bool(self.rank) and any(
            pattern.startswith((network, "*")) for pattern in self.targets
        )
