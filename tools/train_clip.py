"""Train a small CLIP on the emoji with their words.

    python tools/train_clip.py out/studies/clip
    python tools/train_clip.py imagen_jax/pretrained/clip --split train+test --steps 1500

The first one is for the study of text encoders, and the second is the one that `evaluate` matches
pictures with prompts by: it has to know what is right, so it sees what is held out too.

It is the CLIP of the package with a small vocabulary of its own, taught by the contrastive loss
(Radford et al. 2021) on the true pictures and captions that emoji_study_32_clip trains on, at 32
pixels. OUT is as Hugging Face lays a CLIP out. At the end stands how often a picture of a batch is
nearest to its own caption; several captions of a batch may fit it.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from tqdm import tqdm

from imagen_jax.config import StageConfig
from imagen_jax.config.python_file import find_config, read_config_file
from imagen_jax.data.captions import all_captions
from imagen_jax.data.emoji_vectors import concepts, styles_of
from imagen_jax.data.pipeline import Batch, make_dataset
from imagen_jax.data.sources import open_source
from imagen_jax.errors import exit_on_usage_error
from imagen_jax.evaluation.features import CLIP_SPREAD
from imagen_jax.models.clip import CLIP
from imagen_jax.text.clip_tokenizer import load_clip_tokenizer
from imagen_jax.training.text_inputs import CaptionTokens
from imagen_jax.weights.clip_names import clip_names, read_clip_config
from imagen_jax.weights.tensors import write_tensors

CONFIG = "emoji_study_32_clip"
EMBEDDING = 128
VISION = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "patch_size": 4,
}
_WEIGHT_DECAY = 0.05
_LARGEST_SCALE = np.log(100)
"""Of the logits, as in CLIP's paper."""
_TESTED = 4
"""Batches at the end."""


def write_config(config: StageConfig, out: Path) -> None:
    """The sizes of both towers, as Hugging Face has them; the text tower's are the stage's."""
    text = config.text_encoder.clip
    sizes = {
        "model_type": "clip",
        "projection_dim": EMBEDDING,
        "text_config": {
            "hidden_size": text.width,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "intermediate_size": text.hidden,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_length,
            "eos_token_id": text.end_id,
        },
        "vision_config": VISION | {"image_size": config.resolution},
    }
    (out / "config.json").write_text(json.dumps(sizes, indent=1))


def write_vocabulary(size: int, out: Path) -> None:
    """Byte pairs of every caption of every concept."""
    from transformers import CLIPTokenizer  # Slow to import.

    captions = (
        caption
        for concept in concepts().values()
        for caption in all_captions(concept.label, concept.keywords, styles_of(concept.key))
    )
    learned = CLIPTokenizer().train_new_from_iterator(captions, size, show_progress=False)
    learned.save_pretrained(out)


def pixels(batch: Batch) -> jax.Array:
    """The pictures as CLIPs read them."""
    mean, deviation = map(jnp.array, CLIP_SPREAD)
    return (jnp.asarray(batch["image"], jnp.float32) / 255 - mean) / deviation


@nnx.jit
def similarities(network: CLIP, batch: Batch) -> jax.Array:
    """Cosines between pictures, row by row, and captions, times the learned scale."""
    texts = network.embed_texts(batch["token_ids"], batch["mask"])
    pictures = network.embed_pictures(pixels(batch))
    texts, pictures = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (texts, pictures))
    scale = jnp.exp(jnp.minimum(network.log_scale[...], _LARGEST_SCALE))
    return scale * pictures @ texts.T


@nnx.jit
def train_step(network: CLIP, optimizer: nnx.Optimizer, batch: Batch) -> jax.Array:
    """Updates the network; gives the loss, the mean of both directions' cross entropies."""

    def loss_of(network: CLIP) -> jax.Array:
        logits = similarities(network, batch)
        own = jnp.arange(len(logits))
        both = jnp.stack([logits, logits.T])
        return optax.softmax_cross_entropy_with_integer_labels(both, jnp.stack([own, own])).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(network)
    optimizer.update(network, gradients)
    return loss


def train(out: Path, config: StageConfig, flags: argparse.Namespace) -> CLIP:
    """A CLIP of the sizes in `out` after so many batches; says how often it is right then."""
    tokens = CaptionTokens(load_clip_tokenizer(out), config.text_encoder.max_length)
    source = open_source(dataclasses.replace(config.data, split=flags.split))
    batches = iter(make_dataset(source, config, tokens, batch_size=flags.batch_size, seed=0))
    network = CLIP(read_clip_config(out), rngs=nnx.Rngs(0))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, flags.learning_rate, flags.steps // 10, flags.steps
    )
    adam = optax.adamw(schedule, weight_decay=_WEIGHT_DECAY)
    optimizer = nnx.Optimizer(network, adam, wrt=nnx.Param)
    for step in (bar := tqdm(range(flags.steps), "training")):
        loss = train_step(network, optimizer, _arrays(next(batches)))
        if step % 20 == 0:
            bar.set_postfix(loss=f"{float(loss):.3f}")
    found = [
        np.argmax(similarities(network, _arrays(next(batches))), 1) == np.arange(flags.batch_size)
        for _ in range(_TESTED)
    ]
    print(f"nearest to its own of {flags.batch_size} captions: {100 * np.mean(found):.0f}%")
    return network


def _arrays(batch: Batch) -> Batch:
    return {name: batch[name] for name in ("image", "token_ids", "mask")}


def write_weights(network: CLIP, out: Path) -> None:
    """By the names and in the layout of Hugging Face."""
    params = flatten_dict(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    named = {
        tuple(name.split(".")): params[path].T if path[-1] == "kernel" else params[path]
        for name, path in clip_names(network.config).items()
    }
    write_tensors(out / "model.safetensors", unflatten_dict(named), "bfloat16", {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="directory, made where it is missing")
    parser.add_argument("--split", default="train", help="of the data set, as tfds takes it")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    flags = parser.parse_args()
    with exit_on_usage_error():
        config = read_config_file(find_config(CONFIG))
        flags.out.mkdir(parents=True, exist_ok=True)
        write_config(config, flags.out)
        write_vocabulary(config.text_encoder.clip.vocab_size, flags.out)
        write_weights(train(flags.out, config, flags), flags.out)


if __name__ == "__main__":
    main()
