"""`python -m imagen_jax` in a process of its own with four CPU devices, on tiny networks.

python evaluate_worker.py SECONDS ARGUMENTS: it waits so long before each part of four pictures.
"""

import sys
import time

import conftest  # noqa: F401  its settings
import jax
from scripts import verbs

from imagen_jax.evaluation import feature_files, features

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    seconds, make = float(sys.argv.pop(1)), feature_files._make_part
    feature_files.PART, features._DINOV2_SIDE = 4, 28

    def make_slowly(*arguments):
        time.sleep(seconds)
        make(*arguments)

    feature_files._make_part = make_slowly
    verbs.main()
