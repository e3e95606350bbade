"""Tuning: the settings that suit a trained stage best, at so many evaluations of its network.

Nothing is trained. One setting after another is varied, the best of each is kept, and only what
training sees is looked at; what is held out tells afterwards how good the choice was.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, get_args

from imagen_jax.config import SamplingConfig, StageConfig
from imagen_jax.config.choices import SamplerName, Spacing, Thresholding
from imagen_jax.diffusion import chain, samplers
from imagen_jax.errors import UsageError

Figures = tuple[float, float]
"""How well pictures fit their prompts, and how far they are from true ones."""
_INTERVALS = ((0.0, 1.0), (0.0, 0.8), (0.2, 1.0), (0.2, 0.8))
"""Times at which guidance is on."""


@dataclasses.dataclass(frozen=True)
class Tried:
    """Settings that were measured."""

    settings: SamplingConfig
    figures: Figures

    @property
    def rank(self) -> tuple[float, float]:
        """More is better: the fit, and of equal ones the distance."""
        return self.figures[0], -self.figures[1]


def evaluations_a_step(config: StageConfig, settings: SamplingConfig) -> int:
    """How many times a picture goes through the network in one step."""
    by_two = config.conditions.can_be_dropped and config.conditions.guidance is None
    by_text = by_two and settings.guides
    by_pictures = config.conditions.can_hide and settings.picture_guidance_scale != 1
    return (1 + by_text + by_pictures) * (2 if settings.sampler == "heun" else 1)


def within(config: StageConfig, settings: SamplingConfig, budget: int) -> SamplingConfig:
    """The settings with as many steps as the budget allows.

    Raises:
        UsageError: it allows none, or the stage is a student, whose steps are what it learned.
    """
    if config.distillation.steps is not None:
        raise UsageError(
            f"{config.name!r} was distilled to {config.distillation.steps} steps; there is nothing "
            "to choose."
        )
    steps = budget // evaluations_a_step(config, settings)
    if steps < 1:
        raise UsageError(
            f"--budget is {budget}; one step of {settings.sampler} takes "
            f"{evaluations_a_step(config, settings)} evaluations."
        )
    own = settings.timesteps if len(settings.timesteps) == steps else ()
    return dataclasses.replace(settings, num_steps=steps, timesteps=own)


def tune(
    config: StageConfig,
    budget: int,
    measure: Callable[[SamplingConfig], Figures],
    trials: int = 0,
) -> list[Tried]:
    """Everything that was tried, the stage's own settings first and the best ones last.

    Args:
        budget: evaluations of the network a picture.
        trials: times that are no spacing's and are measured, at most.

    Raises:
        UsageError: as `within`.
    """
    own = within(config, config.sampling, budget)
    best = Tried(own, measure(own))
    tried = [best]
    for vary in (_samplers, _spacings, _intervals, _thresholdings):
        for settings in vary(config, best.settings):
            if evaluations_a_step(config, settings) > budget:
                continue
            settings = within(config, settings, budget)
            if all(settings != one.settings for one in tried):
                tried.append(Tried(settings, measure(settings)))
        best = max(tried, key=lambda one: one.rank)  # The first of equal ones.
    moved = _moved_times(config, best, measure, trials)
    tried += moved
    best = max([best, *moved], key=lambda one: one.rank)
    return [*(one for one in tried if one is not best), best]


def _moved_times(
    config: StageConfig, best: Tried, measure: Callable[[SamplingConfig], Figures], trials: int
) -> list[Tried]:
    """What coordinate search has tried, from the times of `best` on.

    Each time but the first, which is noise, goes part of the way to the one before it, then to the
    one after it, and stays where that is better. The part is a half, and halves where a round over
    all times finds nothing better; where no time moves any more the search ends.
    """
    steps, share, tried = _timesteps(config, best.settings), 0.5, []
    while steps and share > 1 / chain.STEPS:
        before = best
        for place in range(1, len(steps)):
            for moved in _moves(steps, place, share):
                settings = dataclasses.replace(best.settings, spacing="even", timesteps=moved)
                if any(settings == one.settings for one in tried):
                    continue
                if len(tried) == trials:
                    return tried
                tried.append(Tried(settings, measure(settings)))
                if tried[-1].rank > best.rank:
                    best, steps = tried[-1], moved
        share = share if best is not before else share / 2
    return tried


def _timesteps(config: StageConfig, settings: SamplingConfig) -> tuple[int, ...]:
    """The times of settings as steps of a chain; none where they are too many for one."""
    of = (settings.num_steps, settings.spacing, settings.timesteps)
    if settings.num_steps > chain.STEPS:
        return ()
    times = samplers.times(config.diffusion.schedule, *of)
    return tuple(round(float(t) * chain.STEPS) - 1 for t in times)


def _moves(steps: tuple[int, ...], place: int, share: float) -> Iterator[tuple[int, ...]]:
    """The steps with one of them part of the way nearer to each of its neighbours."""
    own, after = steps[place], [*steps, -1][place + 1]
    for gap in (steps[place - 1] - own, after - own):
        if change := int(gap * share):
            yield (*steps[:place], own + change, *steps[place + 1 :])


def _samplers(config: StageConfig, best: SamplingConfig) -> Iterator[SamplingConfig]:
    return _values(best, "sampler", get_args(SamplerName))


def _spacings(config: StageConfig, best: SamplingConfig) -> Iterator[SamplingConfig]:
    on_chain = config.diffusion.schedule == "cosine_chain"
    evenly = dataclasses.replace(best, timesteps=())
    return _values(evenly, "spacing", get_args(Spacing) if on_chain else ("even",))


def _intervals(config: StageConfig, best: SamplingConfig) -> Iterator[SamplingConfig]:
    by_two = config.conditions.can_be_dropped and config.conditions.guidance is None
    return _values(best, "guidance_interval", _INTERVALS if by_two and best.guides else ())


def _thresholdings(config: StageConfig, best: SamplingConfig) -> Iterator[SamplingConfig]:
    return _values(best, "thresholding", get_args(Thresholding))


def _values(best: SamplingConfig, name: str, values: tuple[Any, ...]) -> Iterator[SamplingConfig]:
    renoising = {"renoising": "guided"} if name == "sampler" else {}
    for value in values:
        yield dataclasses.replace(best, **renoising, **{name: value})
