"""Rates of steps, without what is paused; memory where a device says it."""

import functools
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
import tiny

from imagen_jax.costs.chips import CHIPS
from imagen_jax.costs.model_flops import model_flops
from imagen_jax.networks import build_networks
from imagen_jax.training import speed
from imagen_jax.training.objective import diffusion_loss, mean_loss
from imagen_jax.training.speed import Stopwatch, Work, memory_use, step_flops

SIZE, WIDE = (16, 16), (8, 64)
FLOPS = {SIZE: 8 * 10**12, WIDE: 16 * 10**12}
WORK = Work(pictures=32, flops=FLOPS.__getitem__, chips=4, kind="cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still; `clock.now += 1` moves it."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(speed.time, "monotonic", lambda: clock.now)
    return clock


def step(*, ended: bool):
    return mock.Mock(spec=jax.Array, is_ready=lambda: ended)


def take_steps(clock, stopwatch, count, *, computing=1.5, waiting=0.5, size=SIZE):
    for _ in range(count):
        stopwatch.step_started(size)
        with stopwatch.waiting(step(ended=True)):
            clock.now += waiting
        clock.now += computing
        stopwatch.step_ended(size)


def test_rates_are_those_of_the_steps_after_the_first(clock):
    stopwatch = Stopwatch()
    take_steps(clock, stopwatch, 1, computing=1000.0)  # It compiles.
    assert stopwatch.lap(WORK) == {}
    for _ in range(2):
        take_steps(clock, stopwatch, 5)
        assert stopwatch.lap(WORK) == {
            "pictures_per_second": 16.0,
            "pictures_per_second_per_chip": 4.0,
            "model_flops_per_second_per_chip": 10**12,
            "data_wait": 0.25,
        }


def test_the_work_is_that_of_the_true_sizes_and_each_compiles_once(clock):
    """As many pictures a second, of twice the work in two of five steps."""
    stopwatch = Stopwatch()
    for size in (SIZE, WIDE):
        take_steps(clock, stopwatch, 1, computing=1000.0, size=size)
        assert stopwatch.lap(WORK) == {}
    for size, count in ((SIZE, 3), (WIDE, 2)):
        take_steps(clock, stopwatch, count, size=size)
    measured = stopwatch.lap(WORK)
    assert measured["pictures_per_second"] == 16.0
    assert measured["model_flops_per_second_per_chip"] == 1.4 * 10**12


def test_a_step_that_ends_after_the_next_was_compiled_is_not_timed(clock):
    stopwatch = Stopwatch()
    take_steps(clock, stopwatch, 3)
    stopwatch.step_started(SIZE)
    clock.now += 500.0  # It compiles the next one.
    stopwatch.step_started(WIDE)
    stopwatch.step_ended(SIZE)
    assert stopwatch.lap(WORK) == {}
    stopwatch.step_ended(WIDE)
    take_steps(clock, stopwatch, 2)
    assert stopwatch.lap(WORK)["pictures_per_second"] == 16.0


def test_data_that_come_before_the_step_ends_were_not_waited_for(clock):
    stopwatch = Stopwatch()
    for ended in (True, False, True, False, False):
        stopwatch.step_started(SIZE)
        with stopwatch.waiting(step(ended=ended)):
            clock.now += 0.5
        clock.now += 0.5
        stopwatch.step_ended(SIZE)
    assert stopwatch.lap(WORK)["data_wait"] == 0.5 / 4  # The first step only starts the clock.


def test_what_is_paused_belongs_to_no_step(clock):
    stopwatch = Stopwatch()
    take_steps(clock, stopwatch, 3)
    with stopwatch.paused():
        clock.now += 500.0
    take_steps(clock, stopwatch, 2)
    measured = stopwatch.lap(WORK)
    assert (measured["pictures_per_second"], measured["data_wait"]) == (16.0, 0.25)


@pytest.mark.parametrize("name", CHIPS)
def test_the_share_is_of_the_peak_of_a_known_chip(name):
    kind = CHIPS[name].kind
    work = Work(pictures=1, flops=lambda _: 2 * int(CHIPS[name].flops), chips=4, kind=kind)
    assert work.rates({SIZE: 3}, 6.0)["model_flops_share"] == 0.25


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H100 80GB HBM3", "TPU7x"])
def test_there_is_no_share_of_a_peak_that_is_not_known(kind):
    rates = Work(pictures=1, flops=lambda _: 8, chips=2, kind=kind).rates({SIZE: 1}, 1.0)
    assert rates["model_flops_per_second_per_chip"] == 4
    assert "model_flops_share" not in rates


def test_the_work_of_a_step_is_that_of_the_loss_and_its_gradient():
    """In parts or at once: twice the pictures are twice the work."""
    config = tiny.super_resolution()
    networks, params = build_networks(config), tiny.random_params(config)
    flops = step_flops(config, networks, diffusion_loss, params, {})
    parts = tiny.replace(config, training={"accumulation_steps": 2})
    double = tiny.replace(config, training={"batch_size": 16})
    assert step_flops(parts, networks, diffusion_loss, params, {}) == flops
    assert step_flops(double, networks, diffusion_loss, params, {}) == 2 * flops
    sizes = tiny.replace(config, data={"sizes": ((16, 16), (8, 32), (16, 32))})
    count = functools.partial(step_flops, sizes, networks, diffusion_loss, params, {})
    of_each = [count(size) for size in sizes.training_sizes]
    assert of_each[0] == flops and of_each[1] != of_each[2] == count()
    keys = jax.random.split(jax.random.key(0), 8)
    batch = jax.tree.map(jnp.asarray, tiny.batch(config))
    loss = functools.partial(mean_loss, diffusion_loss, config, networks)
    forward = model_flops(lambda p: loss(p, {}, batch, keys), params)
    assert 2 < flops / forward <= 3


def devices(monkeypatch, *stats, platform="tpu"):
    made = [SimpleNamespace(platform=platform, memory_stats=lambda s=s: s) for s in stats]
    monkeypatch.setattr(jax, "local_devices", lambda: made)


def test_memory_is_that_of_the_fullest_device(monkeypatch):
    devices(
        monkeypatch,
        {"bytes_in_use": 5, "peak_bytes_in_use": 6, "bytes_limit": 10},
        {"bytes_in_use": 3, "peak_bytes_in_use": 9, "bytes_limit": 10},
    )
    assert memory_use() == {"hbm_bytes": 5, "hbm_peak_bytes": 9}


def test_what_a_device_does_not_say_is_left_out(monkeypatch):
    devices(monkeypatch, None)
    assert memory_use() == {}
    devices(monkeypatch, {"bytes_in_use": 5})
    assert memory_use() == {"hbm_bytes": 5}


def test_a_cpu_has_no_hbm(monkeypatch):
    assert memory_use() == {}
    devices(monkeypatch, {"bytes_in_use": 5, "peak_bytes_in_use": 6}, platform="cpu")
    assert memory_use() == {}
