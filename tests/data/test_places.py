"""Which files a pattern stands for."""

import pytest
from shards import sample, write_shard

from imagen_jax.config import DataConfig
from imagen_jax.data.places import expand_braces
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a{000..002}.tar", ["a000.tar", "a001.tar", "a002.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{098..100}", ["098", "099", "100"]),
        ("{a,b}/{0..1}*", ["a/0*", "a/1*", "b/0*", "b/1*"]),
        ("x{a,,b}", ["xa", "x", "xb"]),
        ("{a}", ["{a}"]),
        ("{}{a..c}{1..}", ["{}{a..c}{1..}"]),
        ("}{", ["}{"]),
        ("{{0..1}}", ["{0}", "{1}"]),
    ],
)
def test_braces_are_those_of_a_shell(pattern, expected):
    assert expand_braces(pattern, "source") == expected


@pytest.mark.parametrize("pattern", ["{0..1000000}", "{0..999999999999999999}", "{0..999}" * 3])
def test_braces_for_too_many_names_are_refused(pattern):
    with pytest.raises(UsageError, match="more than 1,000,000 names"):
        expand_braces(pattern, "source")


def open_shards(place):
    return open_source(DataConfig(source=f"webdataset:{place}"))


def test_shards_are_named_with_braces(tmp_path):
    for number in range(12):
        write_shard(tmp_path / f"{number:03}.tar", [sample(number)])
    source = open_shards(tmp_path / "{009..011}.tar")
    found = [source[index].captions.all()[0] for index in range(len(source))]
    assert found == ["9 1", "10 1", "11 1"]
    assert len(open_shards(tmp_path / "{00[0-2],*1*}.tar")) == 5  # 1 is meant twice.
    with pytest.raises(UsageError, match=r"there is no file .*012\.tar"):
        open_shards(tmp_path / "{009..012}.tar")


@pytest.mark.parametrize("name", ["plain [1]", "{0..3}", "what?*"])
def test_a_path_that_is_there_is_no_pattern(name, tmp_path):
    (tmp_path / name).mkdir()
    write_shard(tmp_path / name / "a[0]{1,2}.tar", [sample(1), sample(2)])
    assert len(open_shards(tmp_path / name)) == 2
    assert len(open_shards(tmp_path / name / "a[0]{1,2}.tar")) == 2
