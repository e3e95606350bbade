"""sample.py in a process of its own with four CPU devices."""

import conftest  # noqa: F401  its settings
import jax
from scripts import sample

if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    sample.main()
