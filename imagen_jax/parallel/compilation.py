"""Compiled programs kept on disk, so that the second run of a command need not compile; and what
the compiler says meanwhile. No JAX is imported here: it reads these variables when it is.

They are kept in $IMAGEN_CACHE_DIR, else $XDG_CACHE_HOME/imagen_jax/jax, else
~/.cache/imagen_jax/jax, one directory for each type of processor and version of jaxlib: a program
of another processor may hold instructions that this one does not have. IMAGEN_CACHE_DIR=off keeps
none, and JAX_COMPILATION_CACHE_DIR, JAX's own variable, is left as it is.
"""

import hashlib
import importlib.metadata
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import MutableMapping
from pathlib import Path

from imagen_jax.parallel.machine import Machine

_MOST_BYTES = 2**31
"""All that one directory may hold; JAX removes what was not used for longest."""
_CPU_LINES = ("vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU ")
"""What /proc/cpuinfo begins the lines with that tell types of processors apart."""
_ONLY_FATAL = "3"


def prepare(environ: MutableMapping[str, str] | None = None, *, announce: bool = False) -> None:
    """Sets the variables that the commands want, where the user has not; before JAX is imported.

    With `announce` it says on stderr that nothing is kept yet, so that compiling takes its time.

    On a machine without an accelerator XLA's own log is silent up to fatal errors: what it calls
    errors there are alarms of slow compilation, and what fails is raised besides.
    """
    environ = os.environ if environ is None else environ
    machine = Machine.here()
    if not (machine.tpu or machine.gpu):
        environ.setdefault("TF_CPP_MIN_LOG_LEVEL", _ONLY_FATAL)
    # A full disk or a damaged file costs a compilation, and no more.
    warnings.filterwarnings("ignore", "Error .* persistent compilation cache")
    if "JAX_COMPILATION_CACHE_DIR" in environ:
        return
    directory = cache_directory(environ)
    if directory is not None and _can_be_written(directory):
        environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
        environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(_MOST_BYTES))
        # The many small programs around the networks take two seconds to compile, and little room.
        environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        if announce and not any(directory.iterdir()):
            print(
                "The networks are compiled for this machine first, which takes from half a minute "
                f"to several; later runs read the result from {directory}.",
                file=sys.stderr,
            )


def cache_directory(environ: MutableMapping[str, str]) -> Path | None:
    """Where this machine's programs are kept; None where none are, or nobody says where."""
    chosen = environ.get("IMAGEN_CACHE_DIR", "")
    if chosen == "off":
        return None
    if chosen:
        root = Path(chosen)
    elif environ.get("XDG_CACHE_HOME"):
        root = Path(environ["XDG_CACHE_HOME"]) / "imagen_jax" / "jax"
    elif environ.get("HOME"):
        root = Path(environ["HOME"]) / ".cache" / "imagen_jax" / "jax"
    else:
        return None
    return root.absolute() / machine_type(_cpu_info(), importlib.metadata.version("jaxlib"))


def machine_type(cpu_info: str, jaxlib: str) -> str:
    """A name for a type of processor, as /proc/cpuinfo describes it, and a version of jaxlib."""
    lines = {line for line in cpu_info.splitlines() if line.startswith(_CPU_LINES)}
    told = "\n".join([platform.machine(), platform.processor(), *sorted(lines)])
    return f"jaxlib-{jaxlib}-{platform.machine()}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"


def _cpu_info() -> str:
    """The first processor's part of /proc/cpuinfo; empty where there is none."""
    try:
        return Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return ""


def _can_be_written(directory: Path) -> bool:
    """Whether it is, or can be made, a directory that takes files: the cache is never an error."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
    except OSError:
        return False
    return True
