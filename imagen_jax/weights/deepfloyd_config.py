"""What diffusers' `config.json` says of a U-Net of DeepFloyd IF: `UNetConfig` from it, and back.

Sizes are read; everything else must be what stages I and II have, or the file is refused.
"""

import dataclasses
from pathlib import Path
from typing import Any, NoReturn

from imagen_jax.config import ConditionsConfig, NetworkInputs, UNetConfig, UNetVariant
from imagen_jax.config.choices import EmbeddingActivation
from imagen_jax.errors import UsageError, naming
from imagen_jax.storage.json_text import is_number, read_object, shown

_MOST_LEVELS = 16
_PLAIN, _ATTENDING = "Resnet{}sampleBlock2D", "SimpleCrossAttn{}Block2D"
# What `UNet` computes, and what diffusers computes where a config does not say.
_FIXED = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "cross_attention_norm": "group_norm",
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "out_channels": 6,
    "resnet_time_scale_shift": "scale_shift",
}
_FIXED_IF_THERE = {
    "center_input_sample": False,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "encoder_hid_dim_type": "text_proj",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-5,
    "only_cross_attention": False,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
}


@dataclasses.dataclass(frozen=True)
class StoredUNet:
    """A U-Net's sizes, with what its stage fixes."""

    config: UNetConfig
    resolution: int
    text_width: int
    low_res: bool
    """Whether a low-resolution picture is an input: stage II."""

    @property
    def inputs(self) -> NetworkInputs:
        """What it is told beside z."""
        return ConditionsConfig().inputs(self.text_width, enlarges=self.low_res)


def read_unet_config(path: Path) -> StoredUNet:
    """The sizes in diffusers' `config.json`.

    Raises:
        UsageError: no such file, or not of stage I or II of DeepFloyd IF.
    """
    return parse_unet_config(read_object(path), path)


def parse_unet_config(values: dict[str, Any], path: Path) -> StoredUNet:
    """The same of what a `config.json` holds; errors name its `path`."""
    stored = _Stored(path, values)
    for name, value in _FIXED.items():
        stored.require_value(name, value)
    for name, value in _FIXED_IF_THERE.items():
        if stored.values.get(name) is not None:  # What is null follows from the rest.
            stored.require_value(name, value)
    widths, text_width = stored.integers("block_out_channels"), stored.integer("encoder_hid_dim")
    if any(width % widths[0] for width in widths):
        stored.refuse(f"has block_out_channels {widths}; each must be a multiple of the first.")
    low_res, resolution = _is_stage_2(stored), stored.integer("sample_size")
    sizes = dict(
        embed_dim=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=_num_res_blocks(stored, len(widths)),
        attention_resolutions=_attention_resolutions(stored, len(widths), resolution),
        head_dim=_head_dim(stored, text_width),
        norm_groups=stored.integer("norm_num_groups"),
    )
    variant = dict(
        activation="gelu",
        time_input="step",
        embedding_activation=_embedding_activation(stored),
        embedding_dim=_embedding_dim(stored),
        residual_scale=1 / _residual_divisor(stored),
        pooling="token",
        text_projection=stored.integer("cross_attention_dim"),
        text_norm="group",
        mask_padding=False,
        predicts_variance=True,
    )
    with naming(path):
        config = UNetConfig(**sizes, variant=UNetVariant(**variant))
    return StoredUNet(config, resolution, text_width, low_res)


def unet_values(unet: StoredUNet) -> dict[str, Any]:
    """What `parse_unet_config` reads this network from, as the `config.json` has it."""
    config, levels = unet.config, range(len(unet.config.channel_mult))
    attends = [unet.resolution // 2**level in config.attention_resolutions for level in levels]
    once = config.variant.embedding_activation == "once"
    return _FIXED | {
        "addition_embed_type_num_heads": unet.text_width // config.head_dim,
        "attention_head_dim": config.head_dim,
        "block_out_channels": [config.embed_dim * factor for factor in config.channel_mult],
        "class_embed_type": "timestep" if unet.low_res else None,
        "cross_attention_dim": config.variant.text_projection,
        "down_block_types": _types("Down", attends),
        "encoder_hid_dim": unet.text_width,
        "encoder_hid_dim_type": _FIXED_IF_THERE["encoder_hid_dim_type"],
        "in_channels": 6 if unet.low_res else 3,
        "layers_per_block": list(config.num_res_blocks),
        "mid_block_scale_factor": 1 / config.variant.residual_scale,
        "norm_num_groups": config.norm_groups,
        "resnet_out_scale_factor": 1 / config.variant.residual_scale,
        "resnet_skip_time_act": once,
        "sample_size": unet.resolution,
        "time_embedding_act_fn": "gelu" if once else None,
        "time_embedding_dim": config.variant.embedding_dim,
        "up_block_types": _types("Up", attends[::-1]),
    }


def _types(way: str, attends: list[bool]) -> list[str]:
    return [(_ATTENDING if attending else _PLAIN).format(way) for attending in attends]


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A `config.json` that refuses what does not fit."""

    path: Path
    values: dict[str, Any]

    def refuse(self, what: str) -> NoReturn:
        raise UsageError(f"{self.path} {what}")

    def require_value(self, name: str, value: Any) -> None:
        if self.values.get(name) != value:
            self.refuse(
                f"has {name} {shown(self.values.get(name))}; DeepFloyd IF's stages I and II have "
                f"{value!r}."
            )

    def integer(self, name: str, default: int | None = None) -> int:
        value = self.values.get(name, default)
        if type(value) is not int or value < 1:
            self.refuse(f"has {name} {shown(value)}; it must be a positive integer.")
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        value = self.values.get(name)
        if not (isinstance(value, list) and all(type(x) is int and x > 0 for x in value)):
            self.refuse(f"has {name} {shown(value)}; it must be a list of positive integers.")
        if not 0 < len(value) <= _MOST_LEVELS:
            self.refuse(f"has {len(value)} {name}; there must be 1 to {_MOST_LEVELS}.")
        return tuple(value)


def _is_stage_2(stored: _Stored) -> bool:
    kind = (stored.values.get("class_embed_type"), stored.integer("in_channels"))
    if kind not in ((None, 3), ("timestep", 6)):
        stored.refuse(
            f"has class_embed_type {shown(kind[0])} with {kind[1]} in_channels; stage I has None "
            "with 3, stage II 'timestep' with 6."
        )
    return kind[1] == 6


def _num_res_blocks(stored: _Stored, levels: int) -> tuple[int, ...]:
    if type(stored.values.get("layers_per_block")) is int:
        return (stored.integer("layers_per_block"),) * levels
    return stored.integers("layers_per_block")


def _head_dim(stored: _Stored, text_width: int) -> int:
    head_dim = stored.integer("attention_head_dim")
    heads = stored.integer("addition_embed_type_num_heads", 64)
    if heads * head_dim != text_width:
        stored.refuse(
            f"pools a text of width {text_width} by {heads} heads; with heads of {head_dim}, as "
            "elsewhere, these do not fit."
        )
    return head_dim


def _embedding_activation(stored: _Stored) -> EmbeddingActivation:
    kind = (
        stored.values.get("resnet_skip_time_act") or False,
        stored.values.get("time_embedding_act_fn"),
    )
    if kind not in ((False, None), (True, "gelu")):
        stored.refuse(
            f"has resnet_skip_time_act {shown(kind[0])} with time_embedding_act_fn "
            f"{shown(kind[1])}; stage I has False with None, stage II True with 'gelu'."
        )
    return "once" if kind[0] else "per_block"


def _embedding_dim(stored: _Stored) -> int | None:
    """Stage II's is eight times its first width, which its config says; stage I's says nothing."""
    if stored.values.get("time_embedding_dim") is None:
        return None
    return stored.integer("time_embedding_dim")


def _residual_divisor(stored: _Stored) -> float:
    names = ("resnet_out_scale_factor", "mid_block_scale_factor")
    scale, middle = (stored.values.get(name, 1) for name in names)
    if not is_number(scale) or scale <= 0 or scale != middle:
        stored.refuse(
            f"has {names[0]} {shown(scale)} and {names[1]} {shown(middle)}; they must be the same "
            "positive number."
        )
    return scale


def _attention_resolutions(stored: _Stored, levels: int, resolution: int) -> tuple[int, ...]:
    """Sides of the levels that attend, from the types of the blocks."""
    down, up = (_attends(stored, way, levels) for way in ("Down", "Up"))
    if down != up[::-1]:
        stored.refuse("has up_block_types that do not mirror its down_block_types.")
    return tuple(resolution // 2**level for level, attends in enumerate(down) if attends)


def _attends(stored: _Stored, way: str, levels: int) -> list[bool]:
    name, known = f"{way.lower()}_block_types", [_PLAIN.format(way), _ATTENDING.format(way)]
    types = stored.values.get(name)
    if not isinstance(types, list) or len(types) != levels:
        stored.refuse(f"has {name} {shown(types)}; there must be one for each of {levels} levels.")
    for kind in types:
        if kind not in known:
            stored.refuse(
                f"has {shown(kind)} in {name}; the types known are {' and '.join(known)}."
            )
    return [kind == known[1] for kind in types]
