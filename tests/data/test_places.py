"""Which files a pattern stands for."""

import pytest
from shards import sample, write_shard

from imagen_jax.config import DataConfig
from imagen_jax.data.places import expand_braces
from imagen_jax.data.sources import open_source
from imagen_jax.errors import UsageError, exit_on_usage_error


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


def test_below_two_stars_each_real_directory_is_seen_once(tmp_path):
    """With two links to itself, a directory has 2**40 paths."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / ".hidden").mkdir()
    for name in ("0.tar", "a/1.tar", "a/b/2.tar", "a/.hidden/3.tar"):
        write_shard(tmp_path / name, [sample(int(name[-5]))])
    for name in ("x", "y"):
        (tmp_path / "a" / name).symlink_to(tmp_path)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "a")
    source = open_shards(tmp_path / "**" / "*.tar")
    assert sorted(source[index].captions.all()[0] for index in range(len(source))) == [
        "0 1", "1 1", "2 1"
    ]  # fmt: skip
    assert len(open_shards(tmp_path / "a" / "**" / "b" / "*.tar")) == 1
    assert len(open_shards(tmp_path / "a" / "b" / "**")) == 1


@pytest.mark.parametrize("leads_to", ["nowhere.tar", "1.tar"])
def test_a_shard_that_is_a_link_to_nothing_is_named(leads_to, tmp_path, capsys):
    write_shard(tmp_path / "0.tar", [sample(1)])
    (tmp_path / "1.tar").symlink_to(leads_to)
    with pytest.raises(SystemExit, match="2"), exit_on_usage_error():
        open_shards(tmp_path)
    assert f"error: {tmp_path}/1.tar: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["plain [1]", "{0..3}", "what?*"])
def test_a_path_that_is_there_is_no_pattern(name, tmp_path):
    (tmp_path / name).mkdir()
    write_shard(tmp_path / name / "a[0]{1,2}.tar", [sample(1), sample(2)])
    assert len(open_shards(tmp_path / name)) == 2
    assert len(open_shards(tmp_path / name / "a[0]{1,2}.tar")) == 2
