"""Training a low-rank adapter: the networks are fixed, and what is added to them is trained."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh

from imagen_jax.config import StageConfig
from imagen_jax.networks import Networks, Params, abstract_adapted, with_adapter
from imagen_jax.parallel import mesh as meshes
from imagen_jax.storage.files import AnyPath
from imagen_jax.storage.hub import stage_path
from imagen_jax.stored.adapters import check_account, fits_of
from imagen_jax.stored.stages import open_frozen_encoder, open_stage
from imagen_jax.training.alike import READ, SEEN, check_alike
from imagen_jax.training.objective import Metrics, Objective
from imagen_jax.training.start import from_stage


def of_adapter(objective: Objective) -> Objective:
    """The objective as a function of an adapter; what it adapts stands in `frozen`."""

    @functools.wraps(objective)
    def of(
        config: StageConfig, networks: Networks, params: Params, frozen: Params, *told: Any
    ) -> tuple[jax.Array, Metrics]:
        return objective(config, networks, *with_adapter(config, params, frozen), *told)

    return of


def load_adapted(config: StageConfig, mesh: Mesh) -> Params:
    """The U-Net of `adapter.base`, on the mesh.

    Raises:
        UsageError: it is no stage, or one of another network than the config's.
    """
    abstract = {"unet": abstract_adapted(config)["unet"]}
    abstract = meshes.with_shardings(abstract, meshes.parameter_shardings(abstract, mesh))
    return from_stage(config, abstract, stage_path(config.adapter.base), None, "adapter.base")


def account_of_adapted(config: StageConfig, workdir: AnyPath) -> dict[str, str]:
    """What the config's adapter is trained beside: network -> fingerprint.

    Raises:
        UsageError: that of the training directory was trained beside other weights so far, or the
            stage is shown, reads or predicts something else than the config says.
    """
    base = open_stage(stage_path(config.adapter.base), needs_encoder=False)
    names = (*SEEN, *READ, "diffusion.prediction")
    check_alike(base.config, config, f"adapter.base {config.adapter.base}", names)
    networks = {"unet": base.unet}
    if config.adapts_text_encoder:
        networks["text_encoder"] = open_frozen_encoder(config, workdir)
    fits = fits_of(config, networks)
    check_account(workdir, fits)
    return fits
