"""The configuration of one stage: typed, frozen dataclasses that check themselves.

A config is one stage; a cascade is three independent stages. A config is code (`configs/*.py`), is
overridden by typed flags, and travels as JSON with every checkpoint and exported file. Fields
beyond the paper say so and are off by default.
"""

from imagen_jax.config.adapter import AdapterConfig
from imagen_jax.config.conditions import ConditionsConfig, NetworkInputs
from imagen_jax.config.data import DataConfig
from imagen_jax.config.diffusion import DiffusionConfig
from imagen_jax.config.distillation import DistillationConfig
from imagen_jax.config.network import EfficientUNetConfig, T5Config, UNetConfig, UNetVariant
from imagen_jax.config.sampling import SamplingConfig
from imagen_jax.config.stage import (
    MeshConfig,
    OptimizerConfig,
    StageConfig,
    TrainingConfig,
)
from imagen_jax.config.text import TextEncoderConfig

__all__ = [
    "AdapterConfig",
    "ConditionsConfig",
    "DataConfig",
    "DiffusionConfig",
    "DistillationConfig",
    "EfficientUNetConfig",
    "MeshConfig",
    "NetworkInputs",
    "OptimizerConfig",
    "SamplingConfig",
    "StageConfig",
    "T5Config",
    "TextEncoderConfig",
    "TrainingConfig",
    "UNetConfig",
    "UNetVariant",
]
