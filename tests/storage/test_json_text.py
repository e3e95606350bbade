"""JSON that may be anyone's: an object, or one short sentence."""

import json

import pytest

from imagen_jax.config import json_form
from imagen_jax.errors import UsageError
from imagen_jax.storage.json_text import is_number, parse_object, read_object, shown

NO_OBJECTS = [
    b"",
    b"{",
    b"[1]",
    b"\xff\xfe{}",
    b'{"a":' * 100_000,
    b"[" * 100_000,
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": NaN}',
    b'{"a": -Infinity}',
]


@pytest.mark.parametrize("data", NO_OBJECTS, ids=range(len(NO_OBJECTS)))
def test_what_is_no_object_is_one_sentence(data, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    for read in (lambda: parse_object(data, str(path)), lambda: read_object(path)):
        with pytest.raises(UsageError, match=r"x\.json (is not JSON|holds a list)") as error:
            read()
        assert "\n" not in str(error.value) and len(str(error.value)) < 500


@pytest.mark.parametrize("data", NO_OBJECTS, ids=range(len(NO_OBJECTS)))
def test_so_it_is_where_a_config_is_meant(data):
    with pytest.raises(UsageError, match=r"^x\.json: .+\.$") as error:
        json_form.from_json(data, "x.json")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_an_object_comes_as_it_is_and_a_file_that_cannot_be_read_is_named(tmp_path):
    value = {"a": [1, 2.5, None, {"ä": "\u2028"}]}
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert read_object(tmp_path / "x.json") == value
    for name, says in (("y.json", "No such file"), (".", "Is a directory")):
        with pytest.raises(UsageError, match=f"cannot be read: {says}"):
            read_object(tmp_path / name)


def test_a_file_that_is_far_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("imagen_jax.storage.json_text._MOST_BYTES", 10)
    (tmp_path / "x.json").write_text(json.dumps(list(range(100))))
    with pytest.raises(UsageError, match="it has more than 10 bytes"):
        read_object(tmp_path / "x.json")


@pytest.mark.parametrize("value", [True, None, "1", [1], 10**400, float("inf"), float("nan")])
def test_what_a_float_cannot_hold_is_no_number(value):
    assert not is_number(value)


def test_a_long_or_deep_value_is_quoted_in_part():
    deep = []
    for _ in range(2000):
        deep = [deep]
    for value in ("x" * 10**6, list(range(10**6)), {str(i): i for i in range(10**5)}, deep):
        assert len(shown(value)) < 500
    assert (shown("gelu"), shown(None), shown([1, 2])) == ("'gelu'", "None", "[1, 2]")
