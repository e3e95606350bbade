"""What both sides of a comparison do: work whenever they are told to, and say what it took.

A side is a process of its own, so that neither the threads nor the memory of one count for the
other. It imports neither JAX nor PyTorch here.
"""

import ctypes
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

STEPS, GUIDANCE_SCALE = 20, 7.0
PERCENTILE, CAP = 95.0, 1.5
"""Of the dynamic thresholding."""
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 1e-2
IN_A_ROW = {"forward": 1, "train": 4, "sample": 1}
"""How often a turn does a task: what a training step leaves behind is part of the next."""
TRAINED = 3
"""The first channels of the output, the noise; the others are the variance, which no loss sees."""


def memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024


def serve(run: Callable[[], np.ndarray], task: str) -> None:
    """Takes a turn for every path on stdin, writes the last result there and prints what it took.

    Memory is counted from here on: weights, inputs and the compiled program are there already.
    """
    ctypes.CDLL(None).malloc_trim(0)  # What a compiler freed but kept would hide what a turn needs.
    before = memory("VmRSS")
    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # From now on VmHWM is of this turn.
        start, start_of_cpu = time.perf_counter(), time.process_time()
        for _ in range(IN_A_ROW[task]):
            result = run()
        took = {
            "seconds": (time.perf_counter() - start) / IN_A_ROW[task],
            "cpu_seconds": (time.process_time() - start_of_cpu) / IN_A_ROW[task],
            "megabytes": (memory("VmHWM") - before) / 1e6,
        }
        np.save(line.strip(), result)
        print(json.dumps(took), flush=True)
