# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/$REPOSITORY/blob/main/notebooks/$NAME.ipynb)

# %%
# @title Install
# Nothing happens where the package is installed. JAX keeps its version, since Colab's TPU library
# belongs to it.
import importlib.util
import subprocess
import sys
from importlib.metadata import version

source = "git+https://github.com/$REPOSITORY"  # @param {type:"string"}

if importlib.util.find_spec("imagen_jax") is None:
    if "/OWNER/" in source:
        raise RuntimeError(
            "The project has no public address yet: set source to your copy's, or to the folder of "
            "a checkout."
        )
    jax_now = [f"jax=={version('jax')}"] if importlib.util.find_spec("jax") else []
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", source, *jax_now], check=True)
stale = [
    name
    for name in ("jax", "flax", "numpy")
    if name in sys.modules and sys.modules[name].__version__ != version(name)
]
if stale:
    raise RuntimeError(f"Restart the runtime and run this again: {stale} were imported before.")
import imagen_jax

print("imagen-jax", imagen_jax.__version__, "with jax", version("jax"), "and flax", version("flax"))

# %%
# @title Devices
# This cell fails where an accelerator was expected and JAX cannot use one.
import jax

from imagen_jax.parallel.distributed import require_accelerator

expected = "any"  # @param ["any", "TPU", "GPU", "CPU"]

require_accelerator(allow_cpu=expected == "CPU")
for device in jax.devices():
    print(device.platform.upper(), device.device_kind)
if expected not in ("any", jax.default_backend().upper()):
    raise RuntimeError(
        f"A {expected} was expected and JAX sees {jax.default_backend().upper()} alone. In Colab "
        "choose one under Runtime, Change runtime type."
    )
