"""What `train` says of configs: the list of them, and of one what matters first. No JAX here."""

import operator
import re
from pathlib import Path

from imagen_jax.config import StageConfig
from imagen_jax.config.python_file import config_docstring, known_configs

_FIRST = {
    "data.source": "the pictures; folder:DIR for your own",
    "training.num_steps": "how long",
    "training.batch_size": "pictures of one step",
    "optimizer.learning_rate": "how far a step goes",
    "training.checkpoint_every": "steps from one checkpoint to the next",
    "training.sample_every": "steps from one sheet of samples to the next; 0 for none",
    "training.sample_prompts": "what they show",
    "text_encoder.source": "weights of a text encoder that is not trained here",
}
"""Beside --workdir and --init-from, which are no fields of the config."""
_T5 = re.compile(r"(?:.*/)?(t5-v1_1-(?:small|base|large|xl|xxl))")
_CLIP = re.compile(r"(?:.*/)?clip-l14")
_DEEPFLOYD = re.compile(r"((?:.*/)?(IF-I-(?:M|L|XL)-v1\.0))/text_encoder")
_LONGEST = 40
"""Characters of a value that are shown."""


def list_configs() -> str:
    """Names and first lines of all configs."""
    known = known_configs()
    width = max(map(len, known), default=0)
    lines = [f"  {name:{width}}  {text.partition(chr(10))[0]}" for name, text in known.items()]
    return "\n".join(["Configs:", *lines])


def describe(path: Path, config: StageConfig) -> str:
    """What is said of a config above its fields."""
    parts = [config_docstring(path), first_fields(config), encoder_download(config)]
    return "\n\n".join(part for part in parts if part)


def first_fields(config: StageConfig) -> str:
    """The ten flags that matter first, with what they are in this config."""
    lines = [("--workdir DIR", "", "where the run is kept; it must be given")]
    for field, meaning in _FIRST.items():
        value = operator.attrgetter(field)(config)
        shown = " ".join(map(repr, value)) if isinstance(value, tuple) else str(value)
        shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
        lines.append((f"--{field.replace('_', '-')}", f" (here: {shown or 'none'})", meaning))
    lines.append(("--init-from STAGE", "", "a trained stage to start from"))
    rows = [f"    {flag:28}{meaning}{shown}" for flag, shown, meaning in lines]
    return "\n".join(["The flags that matter first:", "", *rows])


def encoder_download(config: StageConfig) -> str:
    """How to get a config's pretrained text encoder; empty where it names none of the published.

    They are Google's T5 v1.1, in PyTorch's files, the T5-XXL of DeepFloyd IF's pipelines, and
    OpenAI's CLIP.
    """
    source, kind = config.text_encoder.source, "T5"
    if found := _T5.fullmatch(source):
        command = f"hf download google/{found[1]} --local-dir {source}"
        files = '"*.json" "spiece.model" "pytorch_model*"'
        needs = "Its weights are .bin files, which are read by PyTorch: pip install torch."
    elif found := _DEEPFLOYD.fullmatch(source):
        command = f"hf download DeepFloyd/{found[2]} --local-dir {found[1]}"
        files = '"text_encoder/*.json" "text_encoder/model-*.safetensors" "tokenizer/*"'
        needs = "First agree to its licence on its page, and log in: hf auth login."
    elif _CLIP.fullmatch(source):
        kind = "CLIP"
        command = f"hf download openai/clip-vit-large-patch14 --local-dir {source}"
        files = '"*.json" "merges.txt" "model.safetensors"'
        needs = "The vision tower is in the file too and is left out."
    else:
        return ""
    return (
        f"The text encoder and its tokenizer are {kind}'s, which you download to {source}:\n\n"
        f"    {command} \\\n        --include {files}\n\n{needs} docs/weights.md says more. "
        "--text-encoder.source and --text-encoder.tokenizer name another place."
    )
