"""What tests of several networks' parts share."""

import jax
import pytest


@pytest.fixture(params=[1, 8])
def device_count(request, monkeypatch):
    """On CPUs attention, and gradients of convolutions of one tap, go by whether it is one."""
    monkeypatch.setattr(jax, "device_count", lambda: request.param)
