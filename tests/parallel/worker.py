"""train.py in a process of its own with four CPU devices.

python worker.py CONFIG.json ARGUMENTS: `train.py tiny_64 ARGUMENTS`, with that config.
"""

import sys
from pathlib import Path

import conftest  # noqa: F401  its settings
import jax
from scripts import train

from imagen_jax.config import json_form

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    origin = Path(sys.argv[1])
    config = json_form.from_json(origin.read_bytes(), str(origin))
    train.load_config = lambda name: config
    sys.argv = ["train.py", "tiny_64", *sys.argv[2:]]
    train.main()
