"""What a field of a config may be, where it is one of a few words; each list is written once."""

from typing import Literal

Schedule = Literal[
    "cosine",
    "linear",
    "cosine_chain",
    "cosine_shifted_128",
    "cosine_shifted_256",
    "cosine_shifted_512",
    "cosine_shifted_1024",
    "linear_to_zero",
]
Prediction = Literal["eps", "x0", "v"]
SamplerName = Literal["ancestral", "ddim", "dpm++", "heun"]
Spacing = Literal["even", "leading", "trailing"]
Renoising = Literal["guided", "unguided"]
"""Which estimate's noise DDIM puts back: that of guidance, or that without text (CFG++)."""
Thresholding = Literal["none", "static", "dynamic"]
Inpainting = Literal["repaint", "clean"]
"""How the known part of a picture enters while the rest is painted: noised to the time of each
step, or without noise."""
NullTextKind = Literal["zeros", "empty"]
DistillationMethod = Literal["progressive", "consistency"]
Augmented = Literal["small", "enlarged"]
OptimizerName = Literal["adafactor", "adam"]
Dtype = Literal["float32", "bfloat16"]
Remat = Literal["none", "selective", "full"]
Activation = Literal["swish", "gelu"]
TimeInput = Literal["log_snr", "step"]
TextNorm = Literal["layer", "group"]
Pooling = Literal["mean", "token"]
EmbeddingActivation = Literal["per_block", "once"]
FeedForwardKind = Literal["gated-gelu", "relu"]
GeluKind = Literal["quick_gelu", "gelu"]
ClipLayer = Literal["penultimate", "last"]
"""Whose states of CLIP's text tower are a text's embeddings: the last block's but one, without a
norm, or the last one's after it."""
Weights = Literal["ema", "raw"]
"""Which parameters of a trained stage: their moving average, or what the optimizer made."""
Crop = Literal["whole", "centre"]
"""What of a picture a feature network reads: all of it, or the square in the middle."""
Resizer = Literal["bilinear", "tensorflow", "bicubic-float", "bicubic", "lanczos", "box"]
FeatureName = Literal["inception", "clip", "dinov2"]
Recipe = Literal["pytorch-fid", "clean-fid", "torch-fidelity", "imagen-fid30k", "cmmd", "fd-dinov2"]
"""Which features are made of pictures, and how these are read."""
