"""What the file of a picture or of a sheet says of it: how it was made, as JSON in a text of the
PNG."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import imagen_jax

KEY = "imagen-jax"
"""The text's keyword in the file."""
_OF_THE_RUN = ("seed", "num_images", "batch_size", "split_height", "devices", "arguments")
"""Of a manifest, what no picture depends on, and the seed, which may be one for each picture."""
_OF_SUBJECTS = ("classes", "numbers", "pictures_sha256", "each")
"""Of a manifest, what has an entry for each subject, or one for all."""


def inscription(
    settings: Mapping[str, Any],
    prompt: str,
    row: int,
    stages: Sequence[Mapping[str, Any]],
    subjects: int,
) -> str:
    """What is written into a picture: the same text whenever the same picture is made.

    Args:
        settings: of the run, as its manifest has them.
        prompt: of the picture.
        row: of the picture among all of the run.
        stages: those that made it, from the base up, as the manifest describes them.
        subjects: how many the run has.
    """
    subject, picture = divmod(row, settings["num_images"])
    seed = settings["seed"]
    if not isinstance(seed, int):
        of_subject = len(seed) == subjects
        seed, picture = (seed[subject], picture) if of_subject else (seed[row], 0)
    told = {name: value for name, value in settings.items() if name not in _OF_THE_RUN}
    told |= {name: _own(told[name], subject) for name in _OF_SUBJECTS if name in told}
    account = {
        "version": imagen_jax.__version__,
        "prompt": prompt,
        "seed": seed,
        "picture": picture,
        **told,
        "stages": list(stages),
    }
    return json.dumps(account)


def inscription_of_sheet(
    settings: Mapping[str, Any], prompts: Sequence[str], stages: Sequence[Mapping[str, Any]]
) -> str:
    """What is written into a sheet of all pictures of a run; arguments as of `inscription`.

    Args:
        prompts: of all subjects.
    """
    told = {name: value for name, value in settings.items() if name not in _OF_THE_RUN}
    account = {
        "version": imagen_jax.__version__,
        "prompts": list(prompts),
        "seed": settings["seed"],
        "num_images": settings["num_images"],
        **told,
        "stages": list(stages),
    }
    return json.dumps(account)


def _own(value: Any, subject: int) -> Any:
    if isinstance(value, Mapping):
        return {name: _own(part, subject) for name, part in value.items()}
    return value[subject if len(value) > 1 else 0]
