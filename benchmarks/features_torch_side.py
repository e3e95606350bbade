"""The PyTorch side of features_speed.py, which starts it; eager.

    python benchmarks/features_torch_side.py DIRECTORY NETWORK [make|channels_last]

`make` writes random weights into DIRECTORY and ends.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torchvision
import turns
from pytorch_fid import inception
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    logging,
)

_CLIPS = {
    "clip-b32": {},
    "clip-l14": {
        "text_config": {
            "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
        },
        "vision_config": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "patch_size": 14, "projection_dim": 768,
        },
        "projection_dim": 768,
    },
}  # fmt: skip
_DINOV2 = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518,
    "patch_size": 14,
}  # fmt: skip
_INCEPTION = "inception.safetensors"
# Means and deviations of channels from 0 to 1 that each network was trained with; pytorch-fid's
# takes such channels as they are.
_SPREADS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


def make(directory: Path, name: str) -> None:
    """Random weights, by which values keep about their spread from layer to layer."""
    torch.manual_seed(0)
    if name in _CLIPS:
        CLIPModel(CLIPConfig(**_CLIPS[name])).save_pretrained(directory)
    elif name == "dinov2-l14":
        Dinov2Model(Dinov2Config(**_DINOV2)).save_pretrained(directory)
    else:
        network = torchvision.models.inception_v3(
            num_classes=1008, aux_logits=False, weights=None, init_weights=False
        )
        for parameter in network.parameters():
            if parameter.ndim == 4:
                torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        safetensors.torch.save_file(network.state_dict(), directory / _INCEPTION)


def load(directory: Path, name: str) -> tuple[torch.nn.Module, Callable[..., torch.Tensor]]:
    """The network, and what gives the features of what it gives."""
    if name in _CLIPS:
        network = CLIPVisionModelWithProjection.from_pretrained(directory)
        return network, lambda output: output.image_embeds
    if name == "dinov2-l14":
        return Dinov2Model.from_pretrained(directory), lambda output: output.pooler_output
    state = safetensors.torch.load_file(directory / _INCEPTION)
    inception.load_state_dict_from_url = lambda *_, **__: state
    return inception.InceptionV3(resize_input=False), lambda output: output[0][:, :, 0, 0]


def main() -> None:
    directory, name, *how = sys.argv[1:]
    if how == ["make"]:
        return make(Path(directory), name)
    logging.set_verbosity_error()  # Of CLIP's text tower, which is not loaded.
    logging.disable_progress_bar()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    order = torch.channels_last if how else torch.contiguous_format
    network, features = load(Path(directory), name)
    network = network.eval().to(memory_format=order)
    spread = torch.tensor(_SPREADS[name.partition("-")[0]])
    mean, deviation = spread[:, None, :, None, None]
    pictures = torch.from_numpy(np.load(f"{directory}/pictures.npy")).permute(0, 3, 1, 2)
    pictures = pictures.contiguous(memory_format=order)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return features(network((pictures / 255 - mean) / deviation)).numpy()

    turns.serve(run, "forward")


if __name__ == "__main__":
    main()
