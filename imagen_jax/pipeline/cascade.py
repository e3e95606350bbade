"""A cascade to hold and to call: prompts in, pictures out."""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from jax.sharding import Mesh

from imagen_jax.config import MeshConfig
from imagen_jax.errors import UsageError
from imagen_jax.parallel import distributed
from imagen_jax.parallel import mesh as meshes
from imagen_jax.pipeline import painting
from imagen_jax.pipeline.arguments import (
    check_callback,
    check_numbers,
    checked_each,
    checked_embeddings,
    checked_prompts,
    checked_seed,
    is_whole,
)
from imagen_jax.pipeline.callbacks import Callback, Listener, both
from imagen_jax.pipeline.given import listed_noise
from imagen_jax.pipeline.memory import Keep, bytes_of_all, default_keep
from imagen_jax.pipeline.painting import Keeper, LeadersKeeper, Painted, SampledStage
from imagen_jax.pipeline.pictures import Pictures
from imagen_jax.pipeline.previews import Previews
from imagen_jax.pipeline.prompts import PromptEmbeddings, TextEncoders
from imagen_jax.pipeline.request import Call, Cast, Request, Texts, make_request
from imagen_jax.pipeline.results import Results, picture_names
from imagen_jax.pipeline.stage import Stage
from imagen_jax.pipeline.steps import sampled_stages
from imagen_jax.pipeline.subjects import Subjects
from imagen_jax.pipeline.words import WordMaps, word_maps
from imagen_jax.progress import StepBar
from imagen_jax.storage.files import AnyPath, to_path
from imagen_jax.stored.stages import StoredStage


class Cascade:
    """Stages in a row, from the base up; loaded and compiled when first needed.

    A second call reads nothing and compiles nothing, as long as the batch size, the size, the
    sampler and the numbers of steps are those of a call before and `keep` is `all`.
    """

    def __init__(
        self,
        stages: Sequence[StoredStage],
        *,
        mesh: Mesh | None = None,
        keep: Keep | None = None,
        stored_prompts: Callable[[Sequence[str]], Texts] | None = None,
    ):
        """Reads no weights yet.

        Args:
            stages: each takes what the one before paints.
            mesh: None for all devices, each with pictures of its own.
            keep: `all` holds every network once it is loaded, `one` has one in memory at a time;
                None takes `all` where all fit into half of the devices' memory; calls for
                pictures that are larger than those trained on leave less for them.
            stored_prompts: gives prompts that were embedded before, as `prompts.read_prompts` reads
                them for each stage; None runs the stages' text encoders.

        Raises:
            UsageError: a stage does not take what the one before paints, or `keep` or `mesh` is
                something else.
        """
        if keep not in (None, *get_args(Keep)):
            raise UsageError(f"keep is {keep!r}; it must be {' or '.join(get_args(Keep))}.")
        if not isinstance(mesh, Mesh | None):
            raise UsageError(f"mesh is {mesh!r}; it must be a mesh of JAX.")
        self.mesh = meshes.make_mesh(MeshConfig()) if mesh is None else mesh
        self._keep = keep
        self.keep = keep or default_keep(stages, self.mesh)
        held = bytes_of_all(stages, self.mesh) if self.keep == "all" else 0
        self.stages = [Stage(stage, self.mesh, held) for stage in stages]
        self._text_encoders = TextEncoders(stages, self.mesh, held=self.keep == "all")
        self._stored_prompts = stored_prompts
        painting.check_order(sampled_stages(stages, {}), self.mesh, given=True)

    def __call__(
        self,
        prompts: str | Sequence[str] = (),
        *,
        classes: int | Sequence[int] = (),
        pictures: Mapping[str, Any] | None = None,
        numbers: Mapping[str, Any] | None = None,
        num_images: int = 1,
        seed: int | Sequence[int] = 0,
        batch_size: int = 4,
        size: Sequence[int] | str | None = None,
        aspect: str | None = None,
        callback: Callback | None = None,
        progress: bool = True,
        **options: Any,
    ) -> Pictures:
        """Paints the prompts, or whatever else the stages are told; without any, one subject.

        Picture i of a prompt depends on the prompt, the seed and i alone.

        Args:
            prompts: one or several, where a stage reads text.
            classes: one or several, where a stage has classes; beside prompts one for each.
            pictures, numbers: name -> what stages that are told it get, as `Subjects` takes it:
                files, PIL images or arrays, such as {"sketch": "lines.png"}.
            num_images: pictures of each prompt.
            seed: of all pictures; or one for each subject, or one for each picture.
            batch_size: pictures at once.
            size: (height, width) of the base's pictures; the stages after it enlarge them.
            aspect: width : height of the pictures, such as "3:2", instead of their size.
            callback: hears of every step; a picture a step is fetched from the devices for it. What
                it raises ends the call after that step. Of several processes all must have one,
                or none, and what one raises all must raise.
            progress: shows a bar of each stage's steps.
            options: any other field of `request.Call`, such as negative_prompt or image; of
                `SamplingConfig`, such as num_steps; or beside an image of `EditSettings`, such as
                strength. A setting is one value, or a list of one a stage; unsaid, a stage's
                config decides.

        Raises:
            UsageError: a value is out of its range, or what is said is not what the stages take.
        """
        check_callback(callback)
        subjects = Subjects.of(prompts, classes, pictures, numbers)
        request = self._request(
            subjects,
            num_images=num_images,
            seed=seed,
            batch_size=batch_size,
            size=size,
            aspect=aspect,
            **options,
        )
        painted = list(self._paint(request, Keeper(), callback, progress))
        return Pictures.of(request, painted)

    def write(
        self,
        directory: str | Path,
        prompts: str | Sequence[str] = (),
        *,
        classes: int | Sequence[int] = (),
        pictures: Mapping[str, Any] | None = None,
        numbers: Mapping[str, Any] | None = None,
        resume: bool = False,
        like: AnyPath | str | None = None,
        arguments: Sequence[str] = (),
        preview: bool = False,
        callback: Callback | None = None,
        progress: bool = True,
        **options: Any,
    ) -> list[Path]:
        """Paints into a directory: each batch is written before the next one starts.

        On several processes the first one writes.

        Args:
            directory: for the pictures of every stage, a contact sheet and manifest.json.
            resume: goes on where a call with the same arguments was stopped.
            like: manifest.json of a call whose pictures these must be.
            arguments: of the command line, for the manifest.
            preview: writes a GIF beside each picture, of the estimates that it came from.
            prompts, classes, pictures, numbers, callback, progress, options: as a call takes them.

        Returns:
            The files of the last stage's pictures.

        Raises:
            UsageError: as a call, or a file cannot be written, or what is there is of another run.
        """
        check_callback(callback)
        request = self._request(Subjects.of(prompts, classes, pictures, numbers), **options)
        results = distributed.leader_does(
            lambda: Results(
                Path(directory),
                request.subjects.names,
                request.account | ({"arguments": list(arguments)} if arguments else {}),
                request.steps,
                request.inputs,
                resume=resume,
                like=None if like is None else to_path(str(like)),
            )
        )
        if preview:
            names = picture_names(request.subjects.names, request.num_images, request.steps)
            callback = both(Previews(Path(directory), names), callback)
        for painted in self._paint(request, LeadersKeeper(results), callback, progress):
            last = painted.pictures
        return distributed.leader_does(lambda: results.finish(last)) or []

    def stream(
        self,
        prompts: str | Sequence[str] = (),
        *,
        classes: int | Sequence[int] = (),
        pictures: Mapping[str, Any] | None = None,
        numbers: Mapping[str, Any] | None = None,
        chunk: int = 64,
        num_images: int = 1,
        seed: int | Sequence[int] = 0,
        prompt_embeds: Iterable[PromptEmbeddings | None] | None = None,
        each: Iterable[Mapping[str, Any]] | None = None,
        init_noise: Any = None,
        **options: Any,
    ) -> Iterator[Pictures]:
        """The pictures of any number of prompts or other subjects, `chunk` of them at a time.

        They are those of one call with all of them; no more than a chunk is in memory. Where `keep`
        is `one`, every chunk reads the weights anew. Other arguments are as a call takes them.
        """
        subjects = Subjects.of(prompts, classes, pictures, numbers)
        check_numbers(chunk, num_images)
        if options.get("interpolate") is not None:
            raise UsageError("stream takes no interpolate; a call paints the whole way.")
        seed = checked_seed(seed, subjects.count, subjects.count * num_images)
        noise = listed_noise(init_noise, subjects.count * num_images)
        texts, own_settings = None, None if each is None else checked_each(each, subjects.count)
        if prompt_embeds is not None and subjects.prompts:
            reads = [stage.config.conditions.text for stage in self.stages]
            texts = checked_embeddings(prompt_embeds, subjects.prompts, reads)
        a_subject = 1 if isinstance(seed, int) or len(seed) == subjects.count else num_images
        for first in range(0, subjects.count, chunk):
            part = slice(first, first + chunk)
            own = slice(first * a_subject, (first + chunk) * a_subject)
            rows = slice(first * num_images, (first + chunk) * num_images)
            yield self(
                **subjects.of_subjects(part),
                num_images=num_images,
                seed=seed if isinstance(seed, int) else seed[own],
                prompt_embeds=texts and [text and text.of(part) for text in texts],
                each=own_settings and own_settings[part],
                init_noise=noise if noise is None or len(noise) == 1 else noise[rows],
                **options,
            )

    def word_maps(
        self, pictures: Pictures, *, stage: int = 0, time: float = 0.5, seed: int = 0
    ) -> WordMaps:
        """Which words of its prompt each place of a stage's pictures attends to.

        The pictures are noised, and the network looks at them once.

        Args:
            pictures: that this cascade painted.
            stage: index of the stage, from the base up.
            time: how much noise, from 0, the picture, to 1.
            seed: of the noise.

        Raises:
            UsageError: there is no such stage, it reads no text, or a value is out of range.
        """
        if not is_whole(stage) or not 0 <= stage < len(self.stages):
            raise UsageError(f"stage is {stage!r}; this cascade has {len(self.stages)}, from 0.")
        return word_maps(self.stages[stage], pictures, stage, time, seed)

    def embed(
        self, prompts: str | Sequence[str], *, batch_size: int = 4
    ) -> list[PromptEmbeddings | None]:
        """The prompts as each stage reads them, for calls with `prompt_embeds`.

        Raises:
            UsageError: a stage cannot read a prompt.
        """
        check_numbers(batch_size)
        prompts = checked_prompts(prompts)
        if self._stored_prompts is not None:
            return self._stored_prompts(prompts)[: len(self.stages)]
        return self._text_encoders(prompts, batch_size)

    def first(self, count: int) -> "Cascade":
        """The cascade that ends after `count` stages; both share what is loaded and compiled.

        Raises:
            UsageError: there are not so many.
        """
        if not is_whole(count) or not 1 <= count <= len(self.stages):
            raise UsageError(f"A cascade of {len(self.stages)} stages has no first {count!r}.")
        part = copy.copy(self)
        part.stages = self.stages[:count]
        part._text_encoders = self._text_encoders.first(count)
        return part

    def release(self) -> None:
        """Frees the devices' memory; a later call reads weights again and compiles nothing anew."""
        self._text_encoders.release()
        for stage in self.stages:
            stage.release()

    def _request(self, subjects: Subjects, **options: Any) -> Request:
        """A call's arguments, checked, and its prompts embedded."""
        stored = [stage.stored for stage in self.stages]
        cast = Cast(stored, self.mesh, self.embed, self._text_encoders.without_prompt)
        return make_request(cast, subjects, Call.of(options))

    def _warn_of_unknown_words(self, prompts: Sequence[str]) -> None:
        """Of prompts that say nothing to the first stage, as far as its words are known."""
        first = self.stages[0].stored
        words = first.vocabulary
        if words and (told := words.warning(prompts, first.config.name)):
            warnings.warn(told, stacklevel=4)

    def _keep_for(self, steps: Sequence[SampledStage]) -> Keep:
        height, width = steps[0].size
        enlargement = height * width / steps[0].side ** 2
        stored = [step.stage for step in steps]
        return self._keep or default_keep(stored, self.mesh, enlargement)

    def _paint(
        self, request: Request, keeper: Keeper, callback: Callback | None, progress: bool
    ) -> Iterator[Painted]:
        """What each stage paints of all parts, in turn."""
        self._warn_of_unknown_words(request.subjects.prompts)
        keep, shown = self._keep_for(request.steps), progress and distributed.leads()
        if keep == "one":
            self.release()
        listeners = [
            Listener(callback, p.steps, p.rows) if callback else None for p in request.parts
        ]
        runs = [
            painting.paint(
                self.stages,
                part.steps,
                part.inputs,
                seed=part.seed,
                num_images=request.num_images,
                batch_size=request.batch_size,
                low_res=request.low_res,
                noise=part.noise,
                keeper=painting.PartKeeper(keeper, part.rows, begins=part is request.parts[0]),
                on_step=(lambda _: bar.step()) if shown else None,
                on_estimate=listener,
            )
            for part, listener in zip(request.parts, listeners, strict=True)
        ]
        for number, (stage, step) in enumerate(zip(self.stages, request.steps, strict=True)):
            total = sum(p.num_steps(number, request.batch_size, self.mesh) for p in request.parts)
            painted = []
            with StepBar(total, f"{step.side} pixels", disable=not shown) as bar:
                for run, listener in zip(runs, listeners, strict=True):
                    if listener is not None:
                        listener.stage = number
                    painted.append(next(run))
            yield request.together(painted)
            if keep == "one":
                stage.release()
