"""What a worker process does beside its work. No JAX here."""

import multiprocessing
import os
import threading


def end_with_parent(_index: int, _count: int) -> None:
    """Called in a new worker process: it ends when its parent is gone, however that ended.

    Its shared memory is then unlinked by Python's resource tracker, which outlives all of them.
    """
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)  # Nobody is left to tell, and its work may wait for the parent for ever.
