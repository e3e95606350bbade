"""Weights, training directories, embeddings, and pictures that were painted."""

import contextlib
import functools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from attacks import mutations as m
from attacks.kind import GOLDEN, Kind, Read, digest
from imagen_jax.checkpoints.checkpoint import Checkpoints
from imagen_jax.checkpoints.directory import claim_directory, read_config
from imagen_jax.checkpoints.state import TrainState
from imagen_jax.config import (
    DataConfig,
    MeshConfig,
    OptimizerConfig,
    StageConfig,
    T5Config,
    TextEncoderConfig,
    TrainingConfig,
    UNetConfig,
)
from imagen_jax.embedding.run import Work, embed
from imagen_jax.networks import abstract_params
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline.painting import SampledStage
from imagen_jax.pipeline.prompts import PromptEmbeddings
from imagen_jax.pipeline.results import MANIFEST, Results
from imagen_jax.pipeline.subjects import StageInputs
from imagen_jax.stored.stages import load_weights, open_stage
from imagen_jax.text.cache import EmbeddingCache
from imagen_jax.training.optim import make_optimizer
from imagen_jax.training.start import abstract_state
from imagen_jax.weights.deepfloyd_if import open_unet
from imagen_jax.weights.deepfloyd_stage import convert_deepfloyd_if
from imagen_jax.weights.stage_file import save_stage_file
from imagen_jax.weights.t5_names import convert_t5

CONFIG = StageConfig(
    name="tiny",
    resolution=16,
    unet=UNetConfig(
        embed_dim=8, channel_mult=(1,), num_res_blocks=(1,), attention_resolutions=(), head_dim=8,
        patch_size=2,
    ),
    text_encoder=TextEncoderConfig(
        t5=T5Config(vocab_size=2048, d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=16),
        max_length=8, train=True,
    ),
    optimizer=OptimizerConfig(name="adam", learning_rate=1e-3, warmup_steps=0),
    training=TrainingConfig(batch_size=4, num_steps=4, sample_every=0),
)  # fmt: skip
_STAGE, _OUT = "stage.safetensors", "out.safetensors"
_PROMPTS = ("a red apple", "two green dragons", "pizza")
_EVERYTHING = ("**/*",)
_FILES = (m.remove, m.empty, m.swap, m.make_directory, m.remove_directory)


def of_tree(tree: Any, name: str = "") -> Read:
    return {
        f"{name}{jax.tree_util.keystr(path)}": digest(np.asarray(x))
        for path, x in jax.tree.leaves_with_path(tree)
    }


def random_params(seed: int) -> Any:
    rng = np.random.default_rng(seed)

    def draw(x: jax.ShapeDtypeStruct) -> np.ndarray:
        return (rng.normal(size=x.shape) / math.prod(x.shape[:-1]) ** 0.5).astype(np.float32)

    return jax.tree.map(draw, abstract_params(CONFIG))


# Training directories.

_STEPS = (2, 4)


def make_directory(directory: Path) -> None:
    """Two checkpoints of other numbers."""
    claim_directory(directory, CONFIG)
    with contextlib.closing(Checkpoints(directory, keep=3)) as checkpoints:
        for step in _STEPS:
            params = random_params(step)
            optimizer = make_optimizer(CONFIG.optimizer).init(params)
            ema = jax.tree.map(lambda x: x + 1, params)
            state = TrainState(np.int32(step), params, ema, optimizer)
            checkpoints.save(jax.tree.map(jnp.asarray, state), CONFIG, pictures=4 * step)


@functools.cache
def _wanted() -> dict[str, Any]:
    abstract = abstract_state(CONFIG, make_mesh(MeshConfig()))
    return {name: getattr(abstract, name) for name in ("params", "ema", "opt_state")}


def read_checkpoint(directory: Path) -> Read:
    """As a run that goes on reads it."""
    with contextlib.closing(Checkpoints(directory)) as checkpoints:
        restored = checkpoints.restore(lambda _: _wanted())
    about = {"step": str(restored.step), "pictures": str(restored.about.pictures)}
    return about | of_tree(restored.items)


def each_checkpoint(directory: Path) -> list[Read]:
    found = [read_checkpoint(directory)]
    shutil.rmtree(directory / "checkpoints" / str(_STEPS[1]))
    return [*found, read_checkpoint(directory)]


def make_config(directory: Path) -> None:
    claim_directory(directory, CONFIG)


def read_directory_config(directory: Path) -> Read:
    return {"config": digest(read_config(directory))}


# Exported stages, and what Hugging Face stores.


def make_stage(directory: Path) -> None:
    save_stage_file(directory / _STAGE, CONFIG, random_params(0), "float32")


def read_stage(directory: Path) -> Read:
    stage = load_weights(directory / _STAGE)
    return {"config": digest(stage.config)} | of_tree(stage.params)


def copy_of(*parts: str) -> Callable[[Path], None]:
    def make(directory: Path) -> None:
        shutil.copytree(GOLDEN.joinpath(*parts), directory, dirs_exist_ok=True)

    return make


def make_t5_shards(directory: Path) -> None:
    """The golden T5 in two files with an index."""
    copy_of("t5")(directory)
    tensors = safetensors.numpy.load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    places = {name: f"{number % 2}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        held = {name: tensors[name] for name in tensors if places[name] == file}
        safetensors.numpy.save_file(held, directory / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def read_t5(directory: Path) -> Read:
    out = directory.with_name(_OUT)
    out.unlink(missing_ok=True)
    convert_t5(directory, out, "float32")
    return {"t5": digest(out.read_bytes())}


def read_unet(directory: Path) -> Read:
    config, params = open_unet(directory)
    leaves = jax.tree.leaves_with_path(params)
    return {"config": digest(config)} | {
        jax.tree_util.keystr(path): digest(x.whole("float32")) for path, x in leaves
    }


def read_pipeline(directory: Path) -> Read:
    out = directory.with_name(_OUT)
    out.unlink(missing_ok=True)
    convert_deepfloyd_if(directory, out, "float32", directory)
    return {}


# Embeddings.


def make_embeddings(directory: Path) -> None:
    stage, prompts = directory / _STAGE, directory / "prompts.txt"
    make_stage(directory)
    prompts.write_text("\n".join(_PROMPTS))
    config = open_stage(stage).config
    data = DataConfig(source=f"prompts:{prompts}")
    work = Work(
        config=config, data=data, encoder=open_stage(stage).text_encoder, batch_tokens=64,
        captions_per_shard=2,
    )  # fmt: skip
    with contextlib.redirect_stdout(None):
        embed(work, directory / "embeddings")


def read_embeddings(directory: Path) -> Read:
    cache = EmbeddingCache(directory / "embeddings")
    read = {}
    for prompt in _PROMPTS:
        found = cache([prompt])
        read[prompt] = digest(found["text"].view(np.uint16), found["mask"])
    return read


# Pictures that were painted.


@functools.cache
def _steps(directory: Path) -> list[SampledStage]:
    make_stage(directory)
    stage = open_stage(directory / _STAGE)
    return [SampledStage(stage, stage.config.sampling)]


def _results(directory: Path, resume: bool) -> Results:
    text = np.zeros((len(_PROMPTS), 2, 4), np.float32)
    embedded = PromptEmbeddings(text, np.ones((len(_PROMPTS), 2), bool), None, "e", _PROMPTS)
    settings = {"seed": 3, "num_images": 2, "batch_size": 2}
    steps = _steps(directory.parent)
    inputs = [StageInputs.prompts(embedded)]
    results = Results(directory / "out", _PROMPTS, settings, steps, inputs, resume=resume)
    results.begin("weights")
    return results


def make_results(directory: Path) -> None:
    rng, results = np.random.default_rng(0), _results(directory, resume=False)
    results.keep(range(6), rng.integers(0, 256, (6, 16, 16, 3)).astype(np.uint8))


def read_results(directory: Path) -> Read:
    results = _results(directory, resume=True)
    rows = {row: results.find(range(row, row + 1)) for row in range(6)}
    return {str(row): digest(found) for row, found in rows.items() if found is not None}


_JSON = (m.as_json, m.as_json, m.as_text)

KINDS: dict[str, Kind] = {
    "config.json": Kind(make_config, read_directory_config, ("config.json",), (*_JSON, m.as_bytes),
                        exact=True),
    "config.json, sealed anew": Kind(
        make_config, read_directory_config, ("config.json",), (m.as_sealed_json,)
    ),
    "checkpoint": Kind(
        make_directory, read_checkpoint, ("checkpoints/**/*",),
        (m.as_bytes, m.as_bytes, m.as_json, *_FILES), exact=True, expected=each_checkpoint,
    ),
    "exported stage": Kind(
        make_stage, read_stage, (_STAGE,), (m.as_bytes, m.flip_bit, m.flip_bit, m.empty), exact=True
    ),
    "exported stage's header": Kind(
        make_stage, read_stage, (_STAGE,), (m.as_safetensors_header,)
    ),
    "T5 config.json": Kind(copy_of("t5"), read_t5, ("config.json",), (*_JSON, m.make_loop, m.empty),
                           writes=(_OUT,)),
    "T5 index.json": Kind(
        make_t5_shards, read_t5, ("*.index.json",), _JSON, exact=True, writes=(_OUT,)
    ),
    "T5 weights": Kind(
        copy_of("t5"), read_t5, ("model.safetensors",),
        (m.as_bytes, m.as_safetensors_header, *_FILES),
        writes=(_OUT,),
    ),
    "DeepFloyd config.json": Kind(
        copy_of("deepfloyd_if", "stage_2", "unet"), read_unet, ("config.json",), _JSON
    ),
    "DeepFloyd index.json": Kind(
        copy_of("deepfloyd_if", "stage_2", "unet"), read_unet, ("*.index*.json",), _JSON, exact=True
    ),
    "DeepFloyd pipeline": Kind(
        copy_of("deepfloyd_if", "stage_1"), read_pipeline,
        ("*.json", "scheduler/*", "text_encoder/*.json"), (m.as_json, m.as_text, *_FILES),
        writes=(_OUT,),
    ),
    "embeddings": Kind(
        make_embeddings, read_embeddings, ("embeddings/**/*",),
        (m.as_bytes, m.as_bytes, m.as_json, *_FILES), exact=True,
    ),
    "embeddings' metadata, unsealed": Kind(
        make_embeddings, read_embeddings, ("embeddings/metadata.json",), (m.as_unsealed_json,)
    ),
    "manifest.json": Kind(
        make_results, read_results, (f"out/{MANIFEST}",), (*_JSON, m.as_bytes), exact=True,
        may_lack=True,
    ),
    "pictures to go on with": Kind(
        make_results, read_results, ("out/*.png",), (m.as_bytes, *_FILES[:4]), exact=True,
        may_lack=True,
    ),
}  # fmt: skip
