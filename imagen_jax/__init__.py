"""Imagen in JAX: text -> T5 -> 64x64 diffusion -> 256 -> 1024 super-resolution."""

__version__ = "0.1.0"
