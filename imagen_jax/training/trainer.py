"""A stage on a mesh: where its state lies, and its compiled step."""

import functools

import jax

from imagen_jax.checkpoints.state import TrainState, first_state, init_state
from imagen_jax.config import StageConfig
from imagen_jax.data.pipeline import ReadCaptions
from imagen_jax.data.records import Source
from imagen_jax.errors import UsageError
from imagen_jax.networks import Params, build_networks, with_adapter
from imagen_jax.parallel import mesh as meshes
from imagen_jax.storage.files import AnyPath
from imagen_jax.stored.stages import load_frozen_encoder
from imagen_jax.training.adapting import load_adapted, of_adapter
from imagen_jax.training.evaluation import HeldOutLoss
from imagen_jax.training.grids import SampleGrid
from imagen_jax.training.objective import Objective
from imagen_jax.training.optim import make_optimizer
from imagen_jax.training.painted import Measuring, PaintedFigures
from imagen_jax.training.speed import Work, step_flops
from imagen_jax.training.start import abstract_state
from imagen_jax.training.step import train_step
from imagen_jax.training.teachers import load_teacher, own_objective


class Trainer:
    """A stage on a mesh: where its state lies, and its compiled step."""

    def __init__(
        self, config: StageConfig, mesh: jax.sharding.Mesh, objective: Objective | None = None
    ):
        """`objective`: None takes the config's own."""
        training = config.training
        _check_trainable(config)
        meshes.check_batch_size(training.batch_size // training.accumulation_steps, mesh)
        for height, _ in config.training_sizes:
            meshes.check_height(height // config.upscale, mesh)
        self.config, self.mesh = config, mesh
        gather = functools.partial(meshes.gather_parameters, mesh=mesh)
        objective = objective or own_objective(config, gather)
        self.objective = of_adapter(objective) if config.adapter.rank else objective
        self.networks = build_networks(config, gather)
        optimizer = make_optimizer(config.optimizer)
        self.abstract_state = abstract_state(config, mesh)
        self.shardings: TrainState = jax.tree.map(lambda x: x.sharding, self.abstract_state)
        # Each device makes its own shards: no device ever holds the whole model.
        init = functools.partial(init_state, config, optimizer)
        self.init = jax.jit(init, out_shardings=self.shardings)
        start = functools.partial(first_state, config, optimizer)
        self.start_from = jax.jit(start, out_shardings=self.shardings, donate_argnums=0)
        self._add = jax.jit(functools.partial(with_adapter, config))
        self.step = jax.jit(
            functools.partial(
                train_step, config, self.networks, self.objective, optimizer, self.shardings
            ),
            out_shardings=(self.shardings, meshes.replicated(mesh)),
            donate_argnums=0,
        )

    def load_frozen(self, workdir: AnyPath, read: ReadCaptions | None) -> Params:
        """What the step needs but does not train, on the mesh; `read`: of captions."""
        frozen = load_teacher(self.config, self.mesh)
        if self.config.adapter.rank:
            frozen["unet"] = load_adapted(self.config, self.mesh)["unet"]
        if self.config.runs_frozen_encoder:
            frozen["text_encoder"] = load_frozen_encoder(self.config, workdir, self.mesh)
        if read is not None and self.config.text_encoder.null == "empty":
            everywhere = meshes.replicated(self.mesh)
            embed = jax.jit(self.networks.text_of, out_shardings=everywhere)
            empty = read([""])
            empty = meshes.place_parameters(empty, dict.fromkeys(empty, everywhere))
            frozen["null_text"] = (embed(frozen, empty), empty["mask"])
        return frozen

    def whole(self, params: Params, frozen: Params) -> Params:
        """All that a picture is painted with: of an adapter, the networks that it changes."""
        if self.config.adapter.rank:
            params, frozen = self._add(params, frozen)
        return params | frozen

    def work(self, frozen: Params) -> Work:
        """What a step does, for figures of speed."""
        params = self.abstract_state.params
        of = (self.config, self.networks, self.objective, params, frozen)
        flops = functools.partial(step_flops, *of)
        return Work(
            pictures=self.config.training.batch_size,
            flops=functools.cache(flops),
            chips=self.mesh.size,
            kind=self.mesh.devices.flat[0].device_kind,
        )

    def held_out_loss(self, read: ReadCaptions | None, source: Source) -> HeldOutLoss:
        return HeldOutLoss(self.config, self.networks, self.objective, read, source, self.mesh)

    def sample_grid(self, read: ReadCaptions | None, source: Source) -> SampleGrid:
        everywhere = meshes.replicated(self.mesh)
        return SampleGrid(self.config, self.networks, read, source, everywhere)

    def painted_figures(
        self, read: ReadCaptions | None, source: Source, measuring: Measuring
    ) -> PaintedFigures:
        return PaintedFigures(self.config, self.networks, read, source, self.mesh, measuring)


def _check_trainable(config: StageConfig) -> None:
    schedule, encoder = config.diffusion.schedule, config.text_encoder
    if config.unet.variant.predicts_variance and schedule != "cosine_chain":
        raise UsageError(
            f"diffusion.schedule is {schedule!r} and unet.variant.predicts_variance is on; the "
            "loss of a variance is one of the steps of 'cosine_chain'."
        )
    if encoder.train and encoder.null == "empty":
        raise UsageError(
            "text_encoder.null is 'empty' and text_encoder.train is on; the empty caption is "
            "embedded once, by an encoder that does not change."
        )
