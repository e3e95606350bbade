"""What was written is known again, and what has changed since is not."""

import json

import pytest

from imagen_jax.errors import UsageError
from imagen_jax.storage.digests import digest, sealed, unsealed

VALUES = {"rate": 1e-4, "parts": [1, None, "ü"], "inner": {"b": True, "a": 2}}


def test_what_was_sealed_comes_back_also_through_json():
    assert unsealed(sealed(VALUES), "x") == VALUES
    assert unsealed(json.loads(json.dumps(sealed(VALUES), indent=2)), "x") == VALUES


def test_a_digest_is_of_the_values_and_not_of_their_order():
    assert digest(VALUES) == digest(dict(reversed(VALUES.items())))
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


@pytest.mark.parametrize(
    "change", [{"rate": 2e-4}, {"inner": {"b": True, "a": 3}}, {"new": 0}, {"sha256": "0" * 64}]
)
def test_whatever_has_changed_is_noticed(change):
    with pytest.raises(UsageError, match=r"^run/x is not as it was written: .* its sha256\.$"):
        unsealed({**sealed(VALUES), **change}, "run/x")
    with pytest.raises(UsageError, match="run/x"):
        unsealed({name: x for name, x in sealed(VALUES).items() if name != "rate"}, "run/x")


def test_what_an_older_version_wrote_has_no_digest_and_passes():
    assert unsealed(VALUES, "x") == VALUES
