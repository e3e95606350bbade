"""Writes `tests/golden/clip` and `dinov2`: tiny random networks and what PyTorch makes of them.

    python tests/golden/make_clip_golden.py

Needs torch and transformers. `config.json` and `model.safetensors` are as transformers saves
them; `expected.safetensors` holds inputs and results. Of `clip` these are texts that end at
different places (`token_ids`, `mask`), the states of their tokens after the last block and before
it, and embeddings of texts and pictures. Of `dinov2` they are pictures of the size that its
position embeddings are made for (`own`), of a smaller one and of a larger one that is not square,
and the features of each. Pictures are (batch, height, width, channels).
"""

from pathlib import Path

import safetensors.torch
import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, PreTrainedModel

HERE = Path(__file__).parent
END = 59
CLIP = dict(
    text_config=dict(
        vocab_size=60, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
        num_attention_heads=3, max_position_embeddings=12, bos_token_id=58, eos_token_id=END,
    ),
    vision_config=dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        image_size=20, patch_size=6,
    ),
    projection_dim=16,
)  # fmt: skip
DINOV2 = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, mlp_ratio=2, image_size=28,
    patch_size=4,
)  # fmt: skip
LENGTHS = (12, 3, 7)
"""Of the texts, the two tokens at their ends among them."""
SIZES = {"own": (28, 28), "small": (16, 16), "large": (36, 45)}


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """With norms, biases and small embeddings far from their starting values."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, filled up with 0 behind their ends, and masks."""
    token_ids = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.int32)
    for row, length in enumerate(LENGTHS):
        token_ids[row, 0], token_ids[row, length - 1] = END - 1, END
        token_ids[row, 1 : length - 1] = torch.randint(1, END - 1, (length - 2,))
    return token_ids, torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]


def clip() -> tuple[CLIPModel, dict[str, torch.Tensor]]:
    """A model, and inputs and results by name."""
    model = shaken(CLIPModel(CLIPConfig(**CLIP)))
    token_ids, mask = texts()
    side = CLIP["vision_config"]["image_size"]
    pictures = torch.randn(2, side, side, 3)
    states = model.text_model(
        input_ids=token_ids.long(), attention_mask=mask, output_hidden_states=True
    )
    return model, {
        "token_ids": token_ids,
        "mask": mask,
        "pictures": pictures,
        "last": states.last_hidden_state,
        "penultimate": states.hidden_states[-2],
        "texts": model.text_projection(states.pooler_output),
        "embedded": model.get_image_features(pictures.permute(0, 3, 1, 2)).pooler_output,
    }


def dinov2() -> tuple[Dinov2Model, dict[str, torch.Tensor]]:
    """A model, and inputs and results by name."""
    model, tensors = shaken(Dinov2Model(Dinov2Config(**DINOV2))), {}
    for name, size in SIZES.items():
        pictures = torch.randn(2, *size, 3)
        features = model(pictures.permute(0, 3, 1, 2)).pooler_output
        tensors |= {f"{name}.pictures": pictures, f"{name}.features": features}
    return model, tensors


def main() -> None:
    """Writes the files; the same ones every time."""
    for make in (clip, dinov2):
        torch.manual_seed(0)
        with torch.no_grad():
            model, tensors = make()
        directory = HERE / make.__name__
        model.save_pretrained(directory)
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(tensors, directory / "expected.safetensors")


if __name__ == "__main__":
    main()
