"""The base of all configs."""

import pydantic

from imagen_jax.config.rules import require_finite


class Checked:
    """Base of all configs: no unknown field when read from JSON, and no number that is none.

    A config with rules of its own calls this `__post_init__` first.
    """

    __pydantic_config__ = pydantic.ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        require_finite(self)
