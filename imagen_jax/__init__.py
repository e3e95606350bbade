"""Imagen in JAX: text -> T5 -> 64x64 diffusion -> 256 -> 1024 super-resolution.

import imagen_jax

cascade = imagen_jax.load_cascade()
pictures = cascade("a red apple", num_images=4, seed=0)
pictures.save("out")
"""

import importlib

__version__ = "0.1.0"
__all__ = ["Cascade", "Stage", "load_cascade", "load_stage"]

_PLACES = {
    "Cascade": "imagen_jax.pipeline.cascade",
    "Stage": "imagen_jax.pipeline.stage",
    "load_cascade": "imagen_jax.pipeline.load",
    "load_stage": "imagen_jax.pipeline.load",
}


def __getattr__(name: str) -> object:
    """Imports what is asked for only then: a script that shows its help needs no JAX."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
