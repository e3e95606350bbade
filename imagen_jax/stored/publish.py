"""A stage on Hugging Face's hub: its file, and a card that says what it is and how to use it."""

import dataclasses
import math
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagen_jax
from imagen_jax.config import StageConfig
from imagen_jax.config.choices import Dtype, Weights
from imagen_jax.errors import UsageError
from imagen_jax.storage.files import AnyPath, LocalFile
from imagen_jax.storage.hub import STAGE_FILE, reporting, repository
from imagen_jax.stored.stages import held_weights, load_weights
from imagen_jax.weights.stage_file import open_stage_file, read_weights, save_stage_file

_CARD = "README.md"
_PLACES = ("source", "tokenizer")
"""Fields of a text encoder that name where it is."""


@dataclasses.dataclass(frozen=True)
class Publication:
    """What is published, and how.

    Attributes:
        repo: owner/name.
        private: whether a new repository is; one that is there must be so.
        licence: an identifier of the hub, such as apache-2.0.
        card: text instead of one that is written here; None keeps one that is there.
        weights: of a training directory; a file must hold them.
        dtype: of a training directory; a file is published as it is.
    """

    repo: str
    private: bool = False
    licence: str = "other"
    card: str | None = None
    weights: Weights | None = None
    dtype: Dtype = "bfloat16"


def publish(path: AnyPath, publication: Publication) -> str:
    """Uploads a stage in one commit; returns the address of its page.

    Args:
        path: a training directory or an exported file.

    Raises:
        UsageError: there is no stage, it names directories of this machine, the hub refuses it, or
            what is to be private is public.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    repo = repository(publication.repo)
    with tempfile.TemporaryDirectory() as directory:
        file = _stage_file(path, publication, Path(directory))
        config, _ = open_stage_file(file)
        _check_places(config, file)
        text = card(file, publication) if publication.card is None else publication.card
        with reporting(f"hf://{repo}"):
            api = HfApi(library_name="imagen-jax", library_version=imagen_jax.__version__)
            url = api.create_repo(repo, private=publication.private, exist_ok=True)
            if publication.private and api.repo_info(repo).private is False:
                raise UsageError(
                    f"hf://{repo} is there already, and public; make it private on its page, or "
                    "leave --private out, which is of a new repository."
                )
            parts: dict[str, Any] = {STAGE_FILE: file}
            if publication.card is not None or not api.file_exists(repo, _CARD):
                parts[_CARD] = text.encode()
            operations = [CommitOperationAdd(name, content) for name, content in parts.items()]
            api.create_commit(repo, operations, commit_message=f"Publish {config.name}")
    return str(url)


def card(file: Path, publication: Publication) -> str:
    """The card of an exported stage, in Markdown under the hub's header."""
    config, tensors = open_stage_file(file)
    does = f"paints {config.resolution}x{config.resolution} pixels"
    does += f" from {config.low_resolution}" if config.low_resolution else ""
    count = sum(math.prod(tensor.shape) for tensor in tensors.values())
    table = "\n".join(f"| {name} | {value} |" for name, value in _facts(config, file, count))
    tags = "".join(f"- {tag}\n" for tag in ("imagen", "jax", "diffusion"))
    task = "pipeline_tag: text-to-image\n" if config.conditions.text else ""
    return (
        f"---\nlicense: {publication.licence}\nlibrary_name: imagen-jax\n{task}tags:\n{tags}---\n"
        f"# {config.name}\n\n"
        f"A stage of a cascade after the Imagen paper (arXiv:2205.11487), in JAX. It {does}.\n\n"
        f"```python\n{_usage(config, publication.repo)}\n```\n\n"
        f"| what | value |\n|---|---|\n{table}\n\n"
        "What it was trained on, what it can do and what it must not be used for: to be written by "
        "who published it.\n"
    )


def _usage(config: StageConfig, repo: str) -> str:
    name = "base" if config.low_resolution is None else f"sr{config.resolution}"
    if name not in ("base", "sr256", "sr1024"):
        return f'import imagen_jax\n\nstage = imagen_jax.load_stage("hf://{repo}")'
    return f'import imagen_jax\n\ncascade = imagen_jax.load_cascade({name}="hf://{repo}")'


def _facts(config: StageConfig, file: Path, count: int) -> Iterator[tuple[str, object]]:
    yield "network", type(config.unet).__name__.removesuffix("Config")
    yield "parameters in the file", f"{count:,}"
    yield "weights", read_weights(file)
    yield "sampler", f"{config.sampling.sampler}, {config.sampling.num_steps} steps"
    yield "guidance", config.sampling.guidance_scale
    if config.conditions.text:
        yield "text encoder", config.text_encoder.source or "in the file"
        yield "tokenizer", config.text_encoder.tokenizer
    yield "written by", f"imagen-jax {imagen_jax.__version__}"


def _stage_file(path: AnyPath, publication: Publication, directory: Path) -> Path:
    """The stage as a file on this machine."""
    if path.is_file():
        held_weights(path, publication.weights)
        if isinstance(path, Path):
            return path
        copy = directory / STAGE_FILE
        shutil.copyfile(LocalFile(path).path, copy)
        return copy
    stage = load_weights(path, publication.weights)
    file = directory / STAGE_FILE
    said = (stage.weights, stage.tokenizer)
    save_stage_file(file, stage.config, stage.params, publication.dtype, *said)
    return file


def _check_places(config: StageConfig, file: Path) -> None:
    """Raises a UsageError where the header names what nobody else has."""
    for name in _PLACES:
        place = getattr(config.text_encoder, name)
        if config.conditions.text and Path(place).is_absolute():
            raise UsageError(
                f"{file} names its text_encoder.{name} as {place}, which only this machine has; "
                "name it by a relative path, as the configs do, or by hf://owner/name."
            )
