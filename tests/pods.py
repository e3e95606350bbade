"""The TPU compiler in tests."""

import contextlib
import functools
import os
from unittest import mock

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from imagen_jax.planning import topology

needs_libtpu = pytest.mark.skipif(
    not topology.has_compiler(), reason="libtpu, the TPU compiler, is not installed"
)


@functools.cache
def tpu_devices():
    """Four v5e chips that are not there."""
    with mock.patch.dict(os.environ):
        topology.use_compiler_alone()
        return topology.slice_devices("v5e:2x2")


@contextlib.contextmanager
def uncached():
    """Without the tests' cache, which cannot read back what is compiled for a TPU."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()
