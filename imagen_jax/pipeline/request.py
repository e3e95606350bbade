"""A call of a cascade: what it is given, checked, and what the manifest says of it."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from imagen_jax.errors import UsageError
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline import painting
from imagen_jax.pipeline.arguments import (
    check_numbers,
    checked_each,
    checked_embeddings,
    checked_seed,
    checked_shares,
)
from imagen_jax.pipeline.editing import edit_of
from imagen_jax.pipeline.given import Noise, digest_of, read_noise
from imagen_jax.pipeline.interpolation import Seed, interpolated, seeds_between, shares
from imagen_jax.pipeline.painting import Painted, SampledStage
from imagen_jax.pipeline.prompts import PromptEmbeddings
from imagen_jax.pipeline.steps import (
    check_picture_guidance,
    check_tile,
    picture_to_enlarge,
    sampled_stages,
)
from imagen_jax.pipeline.subjects import StageInputs, Subjects, stage_inputs
from imagen_jax.stored.stages import StoredStage

Texts = list[PromptEmbeddings | None]
"""The prompts as each stage reads them, None for one that reads no text."""
_NO_SETTINGS = ("seed", "negative_prompt", "positive_prompt", "positive_share")
"""What a subject may have of its own beside settings of stages."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Subjects that are painted in the same way.

    Attributes:
        rows: numbers of their pictures in the call.
        noise: what the first stage begins with, as `painting.paint` takes it.
    """

    rows: list[int]
    seed: Seed
    steps: list[SampledStage]
    inputs: list[StageInputs]
    noise: Noise | None = None

    def num_steps(self, stage: int, batch_size: int, mesh: Mesh) -> int:
        """Of all batches of a stage together."""
        batches = meshes.batch_starts(len(self.rows), batch_size, mesh)
        return len(batches) * self.steps[stage].num_steps


@dataclasses.dataclass(frozen=True)
class Request:
    """A call of a cascade.

    Attributes:
        steps, inputs: of all subjects, with the settings of the call.
        account: what the manifest says of it.
        parts: of the work, each subject in one of them.
        low_res: what a first super-resolution stage enlarges.
    """

    subjects: Subjects
    num_images: int
    batch_size: int
    steps: list[SampledStage]
    inputs: list[StageInputs]
    account: dict[str, Any]
    parts: list[Part]
    low_res: UInt8[np.ndarray, "height width 3"] | None = None

    def together(self, painted: Sequence[Painted]) -> Painted:
        """What a stage painted of all parts, in the order of the call."""
        if len(painted) == 1:
            return painted[0]
        order = np.argsort([row for part in self.parts for row in part.rows])
        pictures = np.concatenate([one.pictures for one in painted])
        return Painted(pictures[order], painted[0].unet_sha256)


@dataclasses.dataclass(frozen=True)
class Cast:
    """What a call is made of: stages, where they run, and what reads prompts for them.

    Attributes:
        embed: (prompts, batch_size=) -> what each stage reads.
        without_prompt: (batch_size) -> the same of no prompt.
    """

    stages: Sequence[StoredStage]
    mesh: Mesh
    embed: Callable[..., Texts]
    without_prompt: Callable[[int], Texts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of a call beside its subjects.

    Attributes:
        num_images, seed, batch_size, size, aspect: as `Cascade` takes them.
        tile: side of the tiles by which super-resolution stages denoise larger pictures.
        image, mask, extend: what every stage edits, as `edit_of` takes it, or what a first
            super-resolution stage enlarges; prompts may then be missing.
        palette: what the colours of maps of classes mean, as `maps.read_palette` takes it.
        init_noise: what the first stage begins with, as `read_noise` takes it.
        negative_prompt: takes the place of the null text, away from which guidance leads.
        positive_prompt: another text beside the prompt: of what is predicted with text it has
            the share `positive_share`, one value or a list of one a stage.
        interpolate: so many pictures from one prompt to a second one, or to the seed `to_seed`.
        prompt_embeds: what `embed` gave for these prompts: no text encoder is run for them.
        each: what each subject has in place of the call's: a seed, a negative or positive prompt,
            a share, and `settings`.
        settings: fields of `SamplingConfig` and `EditSettings`.
    """

    num_images: int = 1
    seed: Any = 0
    batch_size: int = 4
    size: Sequence[int] | str | None = None
    aspect: str | None = None
    tile: int | None = None
    image: Any = None
    mask: Any = None
    extend: Mapping[str, int] | None = None
    palette: Any = None
    init_noise: Any = None
    negative_prompt: str | None = None
    positive_prompt: str | None = None
    positive_share: float | list[float | None] | None = None
    interpolate: int | None = None
    to_seed: int | None = None
    prompt_embeds: Iterable[PromptEmbeddings | None] | None = None
    each: Iterable[Mapping[str, Any]] | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Call":
        """Arguments by name; what is none of them is a setting."""
        names = {field.name for field in dataclasses.fields(cls)} - {"settings"}
        own = {name: value for name, value in options.items() if name in names}
        return cls(**own, settings={n: v for n, v in options.items() if n not in names})


class _Making:
    """A request on its way."""

    def __init__(self, cast: Cast, subjects: Subjects, call: Call):
        check_numbers(call.num_images, call.batch_size)
        subjects, call = _between(subjects.read(cast.stages, call.palette), call)
        self.cast, self.subjects, self.call = cast, subjects, call
        self._prompts: dict[str, Texts] = {}
        self.edit = edit_of(call.image, call.mask, call.extend)
        self.each = checked_each(call.each, subjects.count)
        self.steps = self._steps({})
        self._check()
        self.seed = self._seed()
        self.between = seeds_between(self.seed, call.to_seed, call.interpolate, call.init_noise)
        pictures = subjects.count * call.num_images
        self.noise = read_noise(call.init_noise, self.steps[0].size, pictures)

    def request(self) -> Request:
        """The same, once the prompts are embedded."""
        ways = [(self._steps(own), own, members) for own, members in _grouped(self.each)]
        for steps, _, _ in ways:
            check_picture_guidance(steps)
        sizes = [step.size for step in self.steps]
        inputs = stage_inputs(self.subjects, self.cast.stages, self._texts(), sizes, self.edit)
        parts = [self._part(inputs, *way) for way in ways]
        return Request(
            self.subjects,
            self.call.num_images,
            self.call.batch_size,
            self.steps,
            inputs,
            self._account(),
            parts,
            picture_to_enlarge(self.steps, self.edit),
        )

    def _steps(self, own: Mapping[str, Any]) -> list[SampledStage]:
        """How the stages paint with settings of some subjects' own."""
        stages, call = self.cast.stages, self.call
        settings = call.settings | {n: x for n, x in own.items() if n not in _NO_SETTINGS}
        check_tile(call.tile, [x.config for x in stages], self.cast.mesh.shape["spatial"])
        return sampled_stages(stages, settings, call.size, call.aspect, self.edit, call.tile)

    def _check(self) -> None:
        given, stages = self.edit is not None, self.cast.stages
        painting.check_order(self.steps, self.cast.mesh, given=given)
        self.subjects.check(stages, [step.size for step in self.steps], given=given)
        reads_text = any(stage.config.conditions.text for stage in stages)
        for own in self.each:
            for name in ("negative_prompt", "positive_prompt"):
                if self._of(own, name) is not None and not reads_text:
                    raise UsageError(f"{name} is {self._of(own, name)!r}, but no stage reads text.")
            self._check_leads_away(own)
            self._shares(own)

    def _check_leads_away(self, own: Mapping[str, Any]) -> None:
        """A stage that takes the guidance weight leads away from the null text it learned."""
        negative = self._of(own, "negative_prompt")
        for stage in self.cast.stages if negative is not None else ():
            if stage.config.conditions.guidance is not None:
                raise UsageError(
                    f"negative_prompt is {negative!r}, but {stage.origin} takes the guidance "
                    "weight as an input; it knows no text to lead away from but the null text."
                )

    def _of(self, own: Mapping[str, Any], name: str) -> Any:
        """An argument of the call, or what some subjects have in its place."""
        return own.get(name, getattr(self.call, name))

    def _shares(self, own: Mapping[str, Any]) -> list[float]:
        """Of the positive prompt, in each stage."""
        share, text = self._of(own, "positive_share"), self._of(own, "positive_prompt")
        if share is not None and text is None:
            raise UsageError(f"positive_share is {share!r}, but there is no positive_prompt.")
        return checked_shares(share, len(self.cast.stages))

    def _seed(self) -> int | tuple[int, ...]:
        count, seed = self.subjects.count, self.call.seed
        seed = checked_seed(seed, count, count * self.call.num_images)
        if not any("seed" in own for own in self.each):
            return seed
        if not isinstance(seed, int):
            raise UsageError("There are seeds and seeds of each; give one of them.")
        return checked_seed([own.get("seed", seed) for own in self.each], count, count)

    def _texts(self) -> Texts:
        prompts, call = self.subjects.prompts, self.call
        if not prompts:
            return self.cast.without_prompt(call.batch_size)
        if call.prompt_embeds is not None:
            reads = [stage.config.conditions.text for stage in self.cast.stages]
            return list(checked_embeddings(call.prompt_embeds, prompts, reads))
        return self.cast.embed(prompts, batch_size=call.batch_size)

    def _part(
        self,
        inputs: list[StageInputs],
        steps: list[SampledStage],
        own: Mapping[str, Any],
        members: list[int],
    ) -> Part:
        number, noise = self.call.num_images, self.noise
        rows = [number * member + picture for member in members for picture in range(number)]
        if noise is not None and len(noise) > 1:
            noise = noise[rows]
        inputs = [one.of(members) for one in inputs]
        negative, positive = (self._of(own, f"{kind}_prompt") for kind in ("negative", "positive"))
        if negative is not None:
            texts = self._embedded(negative)
            inputs = [x.away_from(text) for x, text in zip(inputs, texts, strict=True)]
        if positive is not None:
            of_stages = zip(inputs, self._embedded(positive), self._shares(own), strict=True)
            inputs = [x.towards(text, share) for x, text, share in of_stages]
        return Part(rows, self._seed_of(members, rows), steps, inputs, noise)

    def _seed_of(self, members: list[int], rows: list[int]) -> Seed:
        """That of a part, whose subjects and pictures have these numbers."""
        if self.between is not None:
            return self.between.of(rows)
        if isinstance(self.seed, int):
            return self.seed
        own = members if len(self.seed) == self.subjects.count else rows
        return tuple(self.seed[i] for i in own)

    def _embedded(self, prompt: str) -> Texts:
        """One prompt as each stage reads it; it is embedded once for all parts.

        Raises:
            UsageError: it is no text, or a stage cannot read it.
        """
        if not isinstance(prompt, str):
            raise UsageError(f"A negative or positive prompt is {prompt!r}; it must be text.")
        if prompt not in self._prompts:
            self._prompts[prompt] = self.cast.embed([prompt], batch_size=1)
        return self._prompts[prompt]

    def _account(self) -> dict[str, Any]:
        mesh, call = self.cast.mesh, self.call
        pictures = self.subjects.count * call.num_images
        said = {
            "seed": self.seed,
            "num_images": call.num_images,
            "batch_size": meshes.batch_starts(pictures, call.batch_size, mesh).step,
            "split_height": mesh.shape["spatial"],
            "devices": mesh.size,
            **self.subjects.described(),
            **(self.edit.said if self.edit else {}),
        }
        if call.negative_prompt is not None:
            said["negative_prompt"] = call.negative_prompt
        if call.positive_prompt is not None:
            said["positive_prompt"] = call.positive_prompt
            said["positive_share"] = self._shares({})
        if call.interpolate is not None:
            said["interpolate"] = call.interpolate
            if call.to_seed is not None:
                said["to_seed"] = call.to_seed
        if any(self.each):
            said["each"] = [dict(own) for own in self.each]
        if self.noise is not None:
            said["init_noise"] = digest_of(self.noise)
        return said


def make_request(cast: Cast, subjects: Subjects, call: Call) -> Request:
    """A call's arguments, checked, and its prompts embedded.

    Raises:
        UsageError: a value is out of its range, or what is said is not what the stages take.
    """
    return _Making(cast, subjects, call).request()


def _between(subjects: Subjects, call: Call) -> tuple[Subjects, Call]:
    """The subjects of an interpolation and their shares, if it is one."""
    count = call.interpolate
    if count is None:
        return subjects, call
    if call.prompt_embeds is not None:
        raise UsageError("interpolate takes no prompt_embeds.")
    way = interpolated(subjects, count, call.num_images, has_seeds=call.to_seed is not None)
    if subjects.count == 1:
        return way, call
    if call.positive_prompt is not None or call.each is not None:
        raise UsageError("interpolate takes neither a positive prompt nor settings of each prompt.")
    each = [{"positive_share": share} for share in shares(count)]
    return way, dataclasses.replace(call, positive_prompt=subjects.prompts[1], each=each)


def _grouped(each: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], list[int]]]:
    """Settings, and the numbers of the subjects that have them; a seed is none of them."""
    groups: dict[str, tuple[Mapping[str, Any], list[int]]] = {}
    for number, own in enumerate(each):
        key = repr(sorted((name, x) for name, x in own.items() if name != "seed"))
        groups.setdefault(key, (own, []))[1].append(number)
    return list(groups.values())
