"""Embeddings of prompts by the CLIP that pictures are measured by."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float

from imagen_jax.arrays import Embedding, TextMask, TokenIds
from imagen_jax.config.encoders import CLIPConfig
from imagen_jax.errors import UsageError
from imagen_jax.evaluation.features import FeatureNetwork
from imagen_jax.models.clip import CLIP
from imagen_jax.networks import Params
from imagen_jax.parallel import mesh as meshes
from imagen_jax.text.clip_tokenizer import load_clip_tokenizer
from imagen_jax.text.tokenizer import Tokenizer
from imagen_jax.weights.clip_names import read_clip_config


def open_text_side(directory: Path) -> tuple[CLIPConfig, Tokenizer]:
    """What a CLIP's directory says of how it reads texts.

    Raises:
        UsageError: the directory holds no tokenizer of this CLIP.
    """
    config, tokenizer = read_clip_config(directory), load_clip_tokenizer(directory)
    if (tokenizer.vocab_size, tokenizer.end_id) != (config.text.vocab_size, config.text.end_id):
        raise UsageError(
            f"The tokenizer in {directory} has {tokenizer.vocab_size} pieces and ends texts with "
            f"{tokenizer.end_id}; the network beside it reads {config.text.vocab_size} and "
            f"{config.text.end_id}."
        )
    return config, tokenizer


def embed_texts(
    network: FeatureNetwork, directory: Path, texts: Sequence[str], *, batch_size: int
) -> Float[np.ndarray, "texts embedding"]:
    """Embeddings of texts, float32, row for row.

    Args:
        network: opened from `directory`, which holds its tokenizer too.
        batch_size: rounded up to a multiple of the devices.

    Raises:
        UsageError: as `open_text_side`, or a text is blank.
    """
    config, tokenizer = open_text_side(directory)
    graph = nnx.graphdef(nnx.eval_shape(lambda: CLIP(config, rngs=nnx.Rngs(0))))
    gather = functools.partial(meshes.gather_parameters, mesh=network.mesh, dtype="float32")
    rows = meshes.batch_sharding(network.mesh)

    @functools.partial(jax.jit, out_shardings=rows)
    def run(params: Params, token_ids: TokenIds, mask: TextMask) -> Embedding:
        with jax.default_matmul_precision("highest"):
            return nnx.merge(graph, params).embed_texts(token_ids, mask, gather=gather)

    parts, embedded = meshes.batch_parts(network.mesh), []
    size = -(-min(batch_size, len(texts)) // parts) * parts
    for first in range(0, len(texts), size):
        batch = list(texts[first : first + size])
        filled = [*batch, *batch[:1] * (size - len(batch))]  # One program serves all batches.
        placed = jax.device_put(tokenizer(filled, config.text.max_length), rows)
        embedded.append(np.asarray(run(network.params, *placed))[: len(batch)])
    return np.concatenate(embedded)
