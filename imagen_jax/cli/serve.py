"""The command that serves the page."""

import dataclasses
from typing import Annotated

from tyro.conf import arg

from imagen_jax.cli.given import require_positive_flags
from imagen_jax.cli.per_stage import for_stages
from imagen_jax.cli.stage_flags import SHIPPED, StageFlags, stage_names
from imagen_jax.errors import UsageError
from imagen_jax.serve.limits import Limits


@dataclasses.dataclass(frozen=True)
class Serve:
    """Serve a page where prompts are tried in a browser; it needs the extra `ui`."""

    stages: Annotated[StageFlags, arg(name="")] = StageFlags()
    limits: Annotated[Limits, arg(name="")] = Limits()
    palette: Annotated[str, arg(metavar="FILE", help_behavior_hint="(default: none)")] = ""
    """A JSON file, as `sample` takes it, with the colours in which visitors draw maps of classes
    for stages that are shown them."""
    host: str = "127.0.0.1"
    """Name or address of this machine to listen at; 0.0.0.0 lets others reach the page, which asks
    for no password."""
    port: int = 7860
    """0 takes any that is free."""
    hosts: tuple[str, ...] = ()
    """Names by which browsers may call the server, such as pictures.example.org. Unsaid, a page
    that only this machine reaches takes this machine's names, and another one any."""
    allow_cpu: bool = False
    """Go on on the CPU where an accelerator was asked for that JAX cannot use."""

    def run(self) -> None:
        require_positive_flags(
            self.limits, *(field.name for field in dataclasses.fields(self.limits))
        )
        if self.stages.embeddings:
            raise UsageError("--embeddings holds prompts that are known; the page takes any.")
        from imagen_jax.cli.sample import open_stages
        from imagen_jax.parallel import distributed
        from imagen_jax.pipeline.cascade import Cascade
        from imagen_jax.serve.command import Given
        from imagen_jax.serve.run import serve

        distributed.require_accelerator(allow_cpu=self.allow_cpu)
        stages, _ = open_stages(self.stages)
        cascade = Cascade(stages)
        names = {name: getattr(self.stages, name) or SHIPPED for name in stage_names(self.stages)}
        adapters = {name: getattr(self.stages, f"{name}_adapters") for name in names}
        weights = for_stages("--weights", self.stages.weights, len(stages))
        given = Given(names, weights if self.stages.weights else (), self.palette, adapters)
        serve(cascade, given, self.limits, host=self.host, port=self.port, hosts=self.hosts)
