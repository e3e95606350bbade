"""The benchmarks' flags; what they measure is no test's matter."""

import pytest
from scripts import call, refused, tool


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repeats", "0"], ["repeats is 0", "must be positive"]),
        (["--matmul-side", "0"], ["matmul_side is 0", "must be positive"]),
        (["--repeats", "often"], ["--repeats", "'often'"]),
        (["--colour", "red"], ["--colour"]),
    ],
)
def test_flags_that_measure_nothing_are_refused(arguments, says):
    refused(call(tool("unet_speed", "benchmarks"), *arguments), *says)
