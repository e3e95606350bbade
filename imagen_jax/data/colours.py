"""Colours of decoded pictures as sRGB on white, whatever mode and colour profile they come in."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

_NOT_NOTICED = 2
"""Of 255; a profile that moves no colour further is sRGB's own, of which there are many."""
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
"""Mode -> what its profiles call it."""
_STEPS = np.array([0, 64, 128, 192, 255], np.uint8)


def to_srgb_on_white(image: Image.Image) -> Image.Image:
    """The picture in sRGB, anything transparent on white.

    Raises:
        ValueError: of a mode without a white that is agreed on, or that Pillow cannot convert.
    """
    if image.mode in ("I", "F"):  # 32 bits of grey.
        raise ValueError(f"mode {image.mode}")
    profile = image.info.get("icc_profile")
    colours, alpha = _parts(image)
    rgb = _in_srgb(colours, profile) if profile else colours.convert("RGB")
    if alpha is None:
        return rgb
    rgb.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", rgb.size, "white"), rgb).convert("RGB")


def _parts(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours as RGB, L, CMYK or what else Pillow can convert to RGB, and the alpha if any."""
    if image.mode.startswith("I;16"):
        return _of_16_bits(image)
    if image.mode == "La":  # Grey multiplied by its alpha.
        image = image.convert("LA")
    if image.mode == "LA":
        return image.getchannel("L"), image.getchannel("A")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return image.convert("RGB"), image.getchannel("A")
    return image.convert("RGB") if image.mode in ("P", "RGBX") else image, None


def _of_16_bits(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Scaled; convert() would clip."""
    pixels, transparent = np.asarray(image), image.info.get("transparency")
    grey = Image.fromarray((pixels >> 8).astype(np.uint8))
    if not isinstance(transparent, int):
        return grey, None
    return grey, Image.fromarray(np.where(pixels == transparent, 0, 255).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture in sRGB by its profile, where that is one of the picture's own colours."""
    transform = _transform(profile, image.mode) if image.mode in _SPACES else None
    if transform is None:
        return image.convert("RGB")
    return ImageCms.applyTransform(image, transform)


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The change to sRGB; None where the profile is damaged, of other colours or of no effect."""
    try:
        read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if read.profile.xcolor_space != _SPACES[mode]:
            return None
        transform = ImageCms.buildTransform(read, ImageCms.createProfile("sRGB"), mode, "RGB")
        moved = _changes(transform, mode) if mode != "CMYK" else True
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return transform if moved else None


def _changes(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    grid = np.stack(np.meshgrid(_STEPS, _STEPS, _STEPS), -1).reshape(1, -1, 3)
    probe = Image.fromarray(grid if mode == "RGB" else grid[..., 0])
    before, after = probe.convert("RGB"), ImageCms.applyTransform(probe, transform)
    moved = np.asarray(before, int) - np.asarray(after, int)
    return bool(np.abs(moved).max() > _NOT_NOTICED)
