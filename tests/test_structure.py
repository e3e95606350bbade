"""What the source itself must keep to: directions of imports, sizes of functions and files."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "imagen_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = (ROOT / "train.py", ROOT / "sample.py")
TORCH_READER = PACKAGE / "weights" / "torch_file.py"
"""Reads PyTorch's files where PyTorch is installed."""
OUTSIDE = {"configs", "train", "sample", "tools", "benchmarks", "tests"}
LAYERS = (
    {"errors", "arrays", "progress"},
    {"storage", "ops", "conditions"},
    {"config"},
    {"diffusion", "models", "parallel", "costs", "data", "text"},
    {"networks"},
    {"weights", "checkpoints"},
    {"stored"},
    {"pipeline"},
    {"embedding", "evaluation", "serve", "training"},
    {"planning"},
    {"cli"},
    {"__main__"},
)
"""The parts of the package, lowest first. A part imports what stands below it, and so nothing of
its own layer."""
ONLY = {
    "ops": {"arrays"},
    "diffusion": {"arrays", "config.choices", "errors"},
    "models": {"arrays", "conditions", "config", "errors", "ops"},
    "conditions": {"arrays"},
    "costs": set(),
}
"""Parts that import still less: operations, equations and networks are read by themselves."""


def imported(path: Path) -> set[str]:
    """Full names of all modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level or PACKAGE not in path.parents, f"{path} has a relative import"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts(path: Path) -> set[str]:
    """The parts of the package that a file imports: "models", "config", ..."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("imagen_jax.")}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_part_has_its_layer():
    assert sorted(part for layer in LAYERS for part in layer) == sorted(
        {part_of(path) for path in FILES} - {"__init__"}
    )


@pytest.mark.parametrize("height", range(len(LAYERS)))
def test_imports_point_down(height):
    below = set().union(*LAYERS[:height])
    for path in FILES:
        if part_of(path) in LAYERS[height]:
            assert parts(path) <= below | {part_of(path)}, path


@pytest.mark.parametrize("part", ONLY)
def test_what_is_read_by_itself_imports_little(part):
    for path in FILES:
        if part_of(path) == part:
            names = {name.removeprefix("imagen_jax.") for name in imported(path)
                     if name.startswith("imagen_jax.")}  # fmt: skip
            allowed = tuple(ONLY[part] | {part})
            assert all(name.startswith(allowed) for name in names), path


def test_the_root_has_few_files():
    assert len([path for path in FILES if path.parent == PACKAGE]) <= 8


def test_only_the_forms_of_cpus_are_written_for_a_platform():
    """In networks and their operations; and one file chooses a form."""
    special = {"optimization_barrier", "custom_vjp", "custom_jvp", "linear_call"}
    choosing = {"platform_dependent", "device_count", "default_backend", "devices", "platform"}
    for path in FILES:
        if part_of(path) in ("models", "ops"):
            names = {n.attr for n in ast.walk(ast.parse(path.read_text()))
                     if isinstance(n, ast.Attribute)}  # fmt: skip
            name = path.relative_to(PACKAGE).as_posix()
            assert name == "ops/cpu.py" or not names & special, path
            assert name == "ops/choice.py" or not names & choosing, path


def test_names_of_test_files_are_given_once():
    """pytest refuses two in one run, unless their directories were packages."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names)) > 100


def test_the_package_imports_no_script_and_no_config_file():
    wrong = {
        str(path): name
        for path in FILES
        for name in imported(path)
        if name.split(".")[0] in OUTSIDE
    }
    assert not wrong


def test_only_the_command_line_imports_the_flag_library():
    users = {part_of(p) for p in FILES if any(n.split(".")[0] == "tyro" for n in imported(p))}
    assert users == {"cli"}


def test_scripts_are_thin():
    assert [len(path.read_text().splitlines()) < 150 for path in SCRIPTS] == [True, True]


def test_no_torch_and_no_tensorflow():
    others = {"torch", "tensorflow", "torchvision", "keras"}
    files = [*FILES, *ROOT.glob("*.py"), *(ROOT / "configs").glob("*.py")]
    files.remove(TORCH_READER)
    wrong = {
        str(path): name for path in files for name in imported(path) if name.split(".")[0] in others
    }
    assert not wrong


def test_torch_is_imported_late_and_loads_nothing_but_weights():
    tree = ast.parse(TORCH_READER.read_text())
    assert not [n for n in tree.body if isinstance(n, ast.Import) and n.names[0].name == "torch"]
    loads = [
        {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        for call in calls_in(TORCH_READER)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "load"
    ]
    assert [load["weights_only"] for load in loads] == ["True"]


def calls_in(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_there_is_one_conftest():
    """Processes that tests start import it by its name, which a second one would take."""
    tests = ROOT / "tests"
    assert list(tests.rglob("conftest.py")) == [tests / "conftest.py"]


def test_no_pickle_and_no_eval():
    picklers = {"pickle", "dill", "cloudpickle"}
    for path in FILES:
        names = {name for name in imported(path) if name.split(".")[0] in picklers}
        # The name of what torch raises, and nothing that reads.
        allowed = {"pickle", "pickle.UnpicklingError"} if path == TORCH_READER else set()
        assert names <= allowed, path
        calls = calls_in(path)
        names = {node.func.id for node in calls if isinstance(node.func, ast.Name)}
        assert not {"eval", "exec"} & names, path


def test_functions_have_at_most_60_lines_and_files_350():
    wrong = []
    for path in [*FILES, *SCRIPTS]:
        source = path.read_text()
        if len(source.splitlines()) > 350:
            wrong.append(f"{path}: {len(source.splitlines())} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = node.end_lineno - node.lineno + 1
                if count > 60:
                    wrong.append(f"{path}: {node.name} has {count} lines")
    assert not wrong
