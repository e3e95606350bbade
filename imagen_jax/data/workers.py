"""What a worker process does beside its work. No JAX here."""

import multiprocessing
import os
import threading
from typing import Any

import numpy as np


def end_with_parent(_index: int, _count: int) -> None:
    """Called in a new worker process: it ends when its parent is gone, however that ended.

    Its shared memory is then unlinked by Python's resource tracker, which outlives all of them.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # Nobody is left to tell, and its work may wait for the parent for ever.


def out_of_shared_memory(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch that a worker sent, in this process's own memory.

    What is held in shared memory when a process ends is not unlinked in time, and Python's resource
    tracker warns of it. JAX may hold an array of a batch without a copy.
    """
    return {k: np.array(x) if isinstance(x, np.ndarray) else x for k, x in batch.items()}
