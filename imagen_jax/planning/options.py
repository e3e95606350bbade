"""The flags that train.py and sample.py share for compiling without a TPU. No JAX here."""

import dataclasses
from pathlib import Path

from imagen_jax.errors import UsageError
from imagen_jax.planning import topology
from imagen_jax.storage.files import check_writable


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileOptions:
    compile_only: bool = False
    """Compile for the TPUs of --topology, which need not be there, and say what that takes."""
    topology: str = ""
    """Chips to compile for, such as v5e:16x16."""
    num_slices: int = 1
    """Slices of that topology, joined by the data-centre network."""
    quick: bool = False
    """Let the compiler be content with slower code for convolutions: done much sooner, with the
    same memory, work and collectives, but fewer bytes of code."""
    json: Path | None = None
    """File for the report of --compile-only."""

    def prepare(self) -> None:
        """Checks the flags and sets this process up; call it before JAX starts.

        Raises:
            UsageError: an unknown topology, no slice, no compiler, a --json that cannot be
                written, or flags that do nothing.
        """
        if self.compile_only:
            self._check_json()
            topology.check_topology(self.topology, self.num_slices)
            topology.use_compiler_alone()
        elif self != type(self)():
            raise UsageError(
                "--topology, --num-slices, --quick and --json belong to --compile-only, which is "
                "missing."
            )

    def _check_json(self) -> None:
        """Before minutes of compiling."""
        if self.json is None:
            return
        if self.json.is_dir():
            raise UsageError(f"--json is {self.json}, which is a directory; name a file.")
        check_writable(self.json.parent, f"--json is {self.json}")
