"""What a call of a cascade is given, checked."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from imagen_jax.config import SamplingConfig
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.editing import EditSettings
from imagen_jax.pipeline.prompts import PromptEmbeddings
from imagen_jax.text.tokenizer import one_line

Settings = TypeVar("Settings", SamplingConfig, EditSettings)


def checked_prompts(prompts: str | Sequence[str]) -> tuple[str, ...]:
    prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    if not prompts:
        raise UsageError('There is no prompt; give at least one, such as "a red apple".')
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"A prompt is {prompt!r}; it must be text that is not empty.")
    return tuple(map(one_line, prompts))


def check_numbers(*numbers: int) -> None:
    for number in numbers:
        if not isinstance(number, int) or number < 1:
            raise UsageError(
                f"A number of pictures or prompts is {number!r}; it must be a whole number from 1."
            )


def checked_seed(seed: int | Sequence[int], subjects: int, pictures: int) -> int | tuple[int, ...]:
    """One seed for all; or one for each of the subjects, or one for each of the pictures."""
    seeds = (seed,) if isinstance(seed, int) else tuple(seed)
    for one in seeds:
        if not isinstance(one, int) or not 0 <= one < 2**32:
            raise UsageError(f"The seed is {one!r}; it must lie between 0 and {2**32 - 1}.")
    if isinstance(seed, int):
        return seed
    if len(seeds) not in (subjects, pictures):
        raise UsageError(f"There are {len(seeds)} seeds; give one, or one for each of {pictures}.")
    return seeds


def checked_each(
    each: Sequence[Mapping[str, Any]] | None, subjects: int
) -> Sequence[Mapping[str, Any]]:
    """Settings of each subject's own; empty where there are none."""
    if each is None:
        return [{}] * subjects
    if len(each) != subjects:
        raise UsageError(
            f"each has {len(each)} entries; it must have one for each of {subjects} subjects."
        )
    for own in each:
        text = own.get("negative_prompt")
        if text is not None and not isinstance(text, str):
            raise UsageError(f"negative_prompt is {text!r}; it must be text.")
    return each


def check_embeddings(
    embeddings: Sequence[PromptEmbeddings | None], prompts: tuple[str, ...], stages: int
) -> None:
    """Raises a UsageError unless they are these prompts', as each stage reads them."""
    if len(embeddings) != stages:
        raise UsageError(
            f"prompt_embeds has {len(embeddings)} parts; it must have one for each of {stages} "
            "stages, as embed gives them."
        )
    for text in embeddings:
        if text is not None and text.prompts != prompts:
            raise UsageError(
                f"prompt_embeds is of the prompts {text.prompts!r}; the call is for {prompts!r}."
            )


def changed_settings(defaults: Sequence[Settings], settings: Mapping[str, Any]) -> list[Settings]:
    """What each stage samples or edits with.

    Args:
        defaults: of each stage.
        settings: field of `defaults` -> one value for all stages, or a list of one a stage; None
            leaves what is there.

    Raises:
        UsageError: there is no such field, or a value is out of its range.
    """
    names = [field.name for field in dataclasses.fields(defaults[0])]
    for name in settings:
        if name not in names:
            raise UsageError(f"{name!r} is no setting; there are {', '.join(names)}.")
    changes: list[dict[str, Any]] = [{} for _ in defaults]
    for name, value in settings.items():
        for change, own in zip(changes, _of_stages(name, value, len(changes)), strict=True):
            if own is not None:
                change[name] = own
    return [dataclasses.replace(d, **change) for d, change in zip(defaults, changes, strict=True)]


def _of_stages(name: str, value: Any, count: int) -> list[Any]:
    """One value a stage: a list has them, and anything else is that of all."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise UsageError(f"{name} has {len(value)} values; give one, or a list of {count}.")
    return value
