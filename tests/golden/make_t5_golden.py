"""Writes `tests/golden/t5` and `t5_v1_0`: tiny random T5 and what PyTorch makes of them.

    python tests/golden/make_t5_golden.py

Needs torch and transformers. `t5` is a T5 v1.1 encoder alone, `t5_v1_0` all of a T5 v1.0 with
its decoder. `config.json` and `model.safetensors` are as transformers saves them;
`expected.safetensors` holds three batches of the encoder as `<name>.token_ids`, `<name>.mask`
and `<name>.output`: without padding, with padding on the right, and with more tokens than
the farthest bucket of the relative positions begins at.
"""

from pathlib import Path

import safetensors.torch
import torch
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration

HERE = Path(__file__).parent
KINDS = {
    "t5": (T5EncoderModel, "gated-gelu"),
    "t5_v1_0": (T5ForConditionalGeneration, "relu"),
}
BATCHES = {"whole": (24, 24), "padded": (24, 9, 1), "long": (160, 131)}
"""Real tokens of each row; the longest one is the length of the batch."""


def tiny_model(kind: type, feed_forward: str) -> T5EncoderModel | T5ForConditionalGeneration:
    """A model whose norms and position biases are far from their starting values."""
    config = T5Config(
        vocab_size=96,
        d_model=32,
        d_kv=8,
        d_ff=40,
        num_layers=2,
        num_heads=3,
        feed_forward_proj=feed_forward,
    )
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "relative_attention_bias" in name:
                parameter.copy_(torch.randn_like(parameter))
    return model


def batch(lengths: tuple[int, ...], vocab_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask of rows with so many real tokens each; padding has id 0."""
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    token_ids = torch.randint(1, vocab_size, mask.shape) * mask
    return token_ids.to(torch.int32), mask


def main() -> None:
    """Writes the files; the same ones every time."""
    for directory, (kind, feed_forward) in KINDS.items():
        torch.manual_seed(0)
        write(HERE / directory, tiny_model(kind, feed_forward))


def write(directory: Path, model: T5EncoderModel | T5ForConditionalGeneration) -> None:
    model.save_pretrained(directory)
    tensors = {}
    for name, lengths in BATCHES.items():
        token_ids, mask = batch(lengths, model.config.vocab_size)
        with torch.no_grad():
            output = model.get_encoder()(input_ids=token_ids.long(), attention_mask=mask)
        tensors |= {
            f"{name}.token_ids": token_ids,
            f"{name}.mask": mask,
            f"{name}.output": output.last_hidden_state.contiguous(),
        }
    safetensors.torch.save_file(tensors, directory / "expected.safetensors")


if __name__ == "__main__":
    main()
