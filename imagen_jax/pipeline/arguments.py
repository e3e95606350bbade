"""What a call of a cascade is given, checked."""

import dataclasses
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

import numpy as np

from imagen_jax.config import SamplingConfig
from imagen_jax.errors import UsageError
from imagen_jax.pipeline.editing import EditSettings
from imagen_jax.pipeline.prompts import PromptEmbeddings
from imagen_jax.text.tokenizer import one_line

Settings = TypeVar("Settings", SamplingConfig, EditSettings)
_SHARE = 0.5
"""Of a positive prompt."""
_TOO_LARGE = 2**63
"""Of a whole number."""
_KINDS = {
    str: (str, "text", "texts"),
    int: (numbers.Integral, "a whole number", "whole numbers"),
    float: (numbers.Real, "a number", "numbers"),
}
"""Type of a setting's value -> what another one must be, and what a tuple of it holds."""


def checked_prompts(prompts: str | Sequence[str]) -> tuple[str, ...]:
    try:
        prompts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    except TypeError as error:
        raise UsageError(f"prompts is {prompts!r}; it must be text, or a list of texts.") from error
    if not prompts:
        raise UsageError('There is no prompt; give at least one, such as "a red apple".')
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"A prompt is {prompt!r}; it must be text that is not empty.")
    return tuple(map(one_line, prompts))


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of any type, be it an array of one."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool | np.bool_)


def check_callback(callback: Any) -> None:
    """Raises a UsageError for what cannot be called."""
    if callback is not None and not callable(callback):
        raise UsageError(f"callback is {callback!r}; it must be a function of its progress.")


def check_numbers(*counts: int) -> None:
    for number in counts:
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise UsageError(
                f"A number of pictures or prompts is {number!r}; it must be a whole number from 1."
            )


def checked_seed(seed: int | Sequence[int], subjects: int, pictures: int) -> int | tuple[int, ...]:
    """One seed for all; or one for each of the subjects, or one for each of the pictures."""
    try:
        seeds, alone = tuple(seed), False
    except TypeError:
        seeds, alone = (seed,), True
    for one in seeds:
        if not is_whole(one) or not 0 <= operator.index(one) < 2**32:
            raise UsageError(
                f"The seed is {one!r}; it must be a whole number between 0 and {2**32 - 1}."
            )
    seeds = tuple(map(operator.index, seeds))
    if alone:
        return seeds[0]
    if len(seeds) not in (subjects, pictures):
        raise UsageError(f"There are {len(seeds)} seeds; give one, or one for each of {pictures}.")
    return seeds


def checked_each(
    each: Iterable[Mapping[str, Any]] | None, subjects: int
) -> Sequence[Mapping[str, Any]]:
    """Settings of each subject's own; empty where there are none."""
    if each is None:
        return [{}] * subjects
    each = _listed("each", each)
    if len(each) != subjects:
        raise UsageError(
            f"each has {len(each)} entries; it must have one for each of {subjects} subjects."
        )
    for own in each:
        if not isinstance(own, Mapping):
            raise UsageError(f"each has {own!r}; it must be settings by name.")
        for name in ("negative_prompt", "positive_prompt"):
            if own.get(name) is not None and not isinstance(own[name], str):
                raise UsageError(f"{name} is {own[name]!r}; it must be text.")
    return [{name: _plain(value) for name, value in own.items()} for own in each]


def _plain(value: Any) -> Any:
    """Numbers of numpy's as Python's own: a manifest has no others."""
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def checked_shares(share: Any, stages: int) -> list[float]:
    """Of a positive prompt, in each stage."""
    shares = [_SHARE if x is None else x for x in _of_stages("positive_share", share, stages)]
    for one in shares:
        if not isinstance(one, numbers.Real) or isinstance(one, bool) or not 0 <= one <= 1:
            raise UsageError(f"positive_share is {one!r}; it must lie between 0 and 1.")
    return list(map(float, shares))


def _listed(name: str, values: Any) -> tuple[Any, ...]:
    """What may be any iterable, to be counted and read more than once."""
    try:
        return tuple(values)
    except TypeError:
        raise UsageError(f"{name} is {values!r}; it must be a list.") from None


def checked_embeddings(
    embeddings: Iterable[PromptEmbeddings | None],
    prompts: tuple[str, ...],
    read_text: Sequence[bool],
) -> tuple[PromptEmbeddings | None, ...]:
    """Those of each stage.

    Args:
        read_text: whether each stage does.

    Raises:
        UsageError: they are not these prompts', as each stage reads them.
    """
    embeddings = _listed("prompt_embeds", embeddings)
    if len(embeddings) != len(read_text):
        raise UsageError(
            f"prompt_embeds has {len(embeddings)} parts; it must have one for each of "
            f"{len(read_text)} stages, as embed gives them."
        )
    for text, reads in zip(embeddings, read_text, strict=True):
        if not isinstance(text, PromptEmbeddings) and (text is not None or reads):
            raise UsageError("prompt_embeds holds something else than what embed gives.")
        if text is not None and text.prompts != prompts:
            raise UsageError(
                f"prompt_embeds is of the prompts {text.prompts!r}; the call is for {prompts!r}."
            )
    return embeddings


def changed_settings(defaults: Sequence[Settings], settings: Mapping[str, Any]) -> list[Settings]:
    """What each stage samples or edits with.

    Args:
        defaults: of each stage.
        settings: field of `defaults` -> one value for all stages, or a list of one a stage; None
            leaves what is there. Another `num_steps` alone leaves no `timesteps`.

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
                change[name] = _of_kind(defaults[0], name, own)
    for change, default in zip(changes, defaults, strict=True):
        if change.get("num_steps") not in (None, getattr(default, "num_steps", None)):
            change.setdefault("timesteps", ())
    return [dataclasses.replace(d, **change) for d, change in zip(defaults, changes, strict=True)]


def _of_kind(config: Settings, name: str, value: Any) -> Any:
    """A value as its field has it: a number of any type as Python's own.

    Raises:
        UsageError: it is of another kind than the field.
    """
    if isinstance(config, EditSettings):
        return value  # It checks its own.
    (of,) = (field.type for field in dataclasses.fields(config) if field.name == name)
    many = get_origin(of) is tuple
    # Of a choice among texts these are the texts, and of what may be None that too.
    kind = next((x for x in (int, float) if x is of or x in get_args(of)), str)
    wanted, one, several = _KINDS[kind]
    values = value if many and isinstance(value, tuple) else (value,)
    if any(isinstance(x, int) and abs(x) >= _TOO_LARGE for x in values):
        raise UsageError(f"{name} is a number of more than 63 bits; no setting is so large.")
    if isinstance(value, tuple) != many or not all(_is_a(wanted, x) for x in values):
        must = f"a tuple of {several}" if many else one
        raise UsageError(f"{name} is {value!r}; it must be {must}.")
    return tuple(map(kind, value)) if many else kind(value)


def _is_a(wanted: type, value: Any) -> bool:
    return isinstance(value, wanted) and not isinstance(value, bool)


def _of_stages(name: str, value: Any, count: int) -> list[Any]:
    """One value a stage: a list has them, and anything else is that of all."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise UsageError(f"{name} has {len(value)} values; give one, or a list of {count}.")
    return value
