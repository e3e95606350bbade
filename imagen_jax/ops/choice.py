"""Which form of an operation runs: the plain one, or one that is quick on CPUs.

Nothing else in the package asks for the platform or the number of devices to choose between forms.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax

_PLAIN = jax.make_user_context(False)
"""Not a variable of Python's: `jax.jit` traces anew where its value is another one."""


def plain() -> AbstractContextManager:
    """A context in which all operations have their plain form, on CPUs too.

    For what the forms of CPUs have no rule for: `jax.jvp` of a network, and derivatives of
    gradients. Programs for accelerators are the same within it and without. It counts where a
    function is traced:

        with ops.plain():
            out, derivative = jax.jvp(network, inputs, tangents)
    """
    return _PLAIN(True)


def choose(plain_form: Callable, cpu_form: Callable) -> Callable:
    """An operation that is `plain_form` within `plain()` and `cpu_form` elsewhere."""

    @functools.wraps(plain_form)
    def operation(*args: Any, **kwargs: Any) -> Any:
        return (plain_form if _PLAIN.value else cpu_form)(*args, **kwargs)

    return operation


def on_cpus(quick: Callable, otherwise: Callable, *inputs: Any) -> Any:
    """quick(*inputs) in a program that is compiled for CPUs, and otherwise(*inputs) in others."""
    return jax.lax.platform_dependent(*inputs, cpu=quick, default=otherwise)


def on_one_cpu(quick: Callable, otherwise: Callable, *inputs: Any) -> Any:
    """quick(*inputs) in a program for one CPU, and otherwise(*inputs) in all others.

    For a form in which each of several devices would compute all, or read what another has.
    """
    if one_device():
        return on_cpus(quick, otherwise, *inputs)
    return otherwise(*inputs)


def one_cpu() -> bool:
    """Whether one CPU is all that programs run on."""
    return one_device() and jax.default_backend() == "cpu"


def one_device() -> bool:
    """Whether nothing lies in parts on several devices."""
    return jax.device_count() == 1
