"""Where compiled programs are kept, and that keeping them is never an error."""

import os

import pytest

from imagen_jax.parallel import compilation

INTEL = "vendor_id\t: GenuineIntel\nmodel\t\t: 85\nflags\t\t: fpu avx2 avx512f\ncpu MHz\t\t: 2000\n"


def prepared(**environ):
    compilation.prepare(environ)
    return environ


def test_the_users_cache_directory_is_used_and_bounded(tmp_path):
    environ = prepared(HOME=str(tmp_path))
    directory = environ["JAX_COMPILATION_CACHE_DIR"]
    assert directory.startswith(str(tmp_path / ".cache" / "imagen_jax" / "jax" / "jaxlib-"))
    assert os.listdir(directory) == [] and int(environ["JAX_COMPILATION_CACHE_MAX_SIZE"]) == 2**31


def test_variables_move_it_or_turn_it_off(tmp_path):
    there = {"HOME": "/nowhere", "XDG_CACHE_HOME": str(tmp_path / "xdg")}
    found = prepared(**there)["JAX_COMPILATION_CACHE_DIR"]
    assert found.startswith(str(tmp_path / "xdg" / "imagen_jax"))
    found = prepared(**there, IMAGEN_CACHE_DIR=str(tmp_path / "own"))["JAX_COMPILATION_CACHE_DIR"]
    assert found.startswith(str(tmp_path / "own"))
    assert "JAX_COMPILATION_CACHE_DIR" not in prepared(**there, IMAGEN_CACHE_DIR="off")
    assert prepared(JAX_COMPILATION_CACHE_DIR="mine")["JAX_COMPILATION_CACHE_DIR"] == "mine"
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "/proc/nowhere"}])
def test_without_a_place_to_write_nothing_is_kept(environ):
    assert "JAX_COMPILATION_CACHE_DIR" not in prepared(**environ)


def test_a_file_in_the_way_turns_it_off(tmp_path):
    (tmp_path / "file").write_text("precious")
    assert "JAX_COMPILATION_CACHE_DIR" not in prepared(IMAGEN_CACHE_DIR=str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "precious"


def test_other_processors_and_versions_have_other_directories():
    name = compilation.machine_type(INTEL, "0.12.0")
    assert name == compilation.machine_type(INTEL.replace("2000", "3100"), "0.12.0")
    others = {
        compilation.machine_type(INTEL, "0.12.1"),
        compilation.machine_type(INTEL.replace(" avx512f", ""), "0.12.0"),
        compilation.machine_type(INTEL.replace("85", "106"), "0.12.0"),
        compilation.machine_type("", "0.12.0"),
    }
    assert len(others) == 4 and name not in others


def test_what_the_user_says_of_the_log_stays():
    assert prepared(TF_CPP_MIN_LOG_LEVEL="0")["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_the_first_run_is_announced_and_no_other(tmp_path, capsys):
    environ = {"HOME": str(tmp_path)}
    compilation.prepare(dict(environ), announce=True)
    said = capsys.readouterr().err
    directory = compilation.cache_directory(environ)
    assert said.count("\n") == 1 and "later runs" in said and str(directory) in said
    (directory / "program-cache").write_bytes(b"x")
    compilation.prepare(dict(environ), announce=True)
    assert capsys.readouterr().err == ""
