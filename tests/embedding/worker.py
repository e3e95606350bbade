"""`python -m imagen_jax` in a process of its own, with the tests' settings.

python worker.py DEVICES ARGUMENTS
"""

import sys

import conftest  # noqa: F401  its settings
import jax
from scripts import verbs

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
    sys.argv = ["imagen_jax", *sys.argv[2:]]
    verbs.main()
