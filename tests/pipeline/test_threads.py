"""One stage in the hands of two threads."""

import dataclasses
import functools
import sys
import threading

import jax
import pytest
import tiny

from imagen_jax.config import MeshConfig
from imagen_jax.networks import abstract_params
from imagen_jax.parallel.mesh import make_mesh
from imagen_jax.pipeline import stage as stages
from imagen_jax.pipeline.plan import plan_sampling
from imagen_jax.pipeline.stage import Stage
from imagen_jax.stored.network import StoredNetwork
from imagen_jax.stored.stages import StoredStage

TIMES = 4000
SIZE = (16, 16)


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """A stage whose samplers are there at once; threads take turns as often as they can."""
    monkeypatch.setattr(stages, "_MOST_SAMPLERS", 2)
    monkeypatch.setattr(stages, "StepwiseSampler", lambda run, gather: run)
    monkeypatch.setattr(stages, "Run", lambda config, plan, *_: functools.partial(id, plan))
    config = tiny.stage()
    unet = StoredNetwork("unet", tmp_path, abstract_params(config)["unet"], None)
    stored = StoredStage(tmp_path, config, unet, None)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield Stage(stored, make_mesh(MeshConfig(), jax.devices()))
    sys.setswitchinterval(before)


def beside(do):
    """Begins to do something again and again; gives what ends that."""
    ended = threading.Event()

    def again():
        while not ended.is_set():
            do()

    thread = threading.Thread(target=again)
    thread.start()

    def end():
        ended.set()
        thread.join()

    return end


def test_two_threads_ask_for_samplers(stage):
    config = tiny.stage()
    settings = [dataclasses.replace(config.sampling, num_steps=count) for count in (2, 3, 4)]
    plans = [plan_sampling(config, one, SIZE, None, None)[0] for one in settings]
    end = beside(lambda: [stage._sampler(plan, SIZE) for plan in reversed(plans)])
    try:
        for number in range(TIMES):
            plan = plans[number % 3]
            assert stage._sampler(plan, SIZE).args == (plan,)
    finally:
        end()
    assert len(stage._samplers) == 2
