"""The script that makes docs/pods.md: rows are kept, and an interrupted run goes on."""

import pytest
import scripts

from imagen_jax.costs.chips import known_topologies

REPORT = """[{"batch_size": 8, "memory": {"needed": 1073741824, "available": 2147483648},
"compiled_flops": 3e12, "overhead": 1.5, "collectives": {"all-gather": {"bytes": 4e9}},
"bound": {"compute": 0.1, "hbm": 0.2, "ici": 0.3, "utilisation": 0.25}}]"""
SCRIPT = f"""import sys
with open("calls", "a") as calls: calls.write(sys.argv[1] + " ")
if sys.argv[1] == "slow": import time; time.sleep(60)
if sys.argv[1] == "big": print("does not fit: RESOURCE_EXHAUSTED"); sys.exit(1)
if sys.argv[1] == "wrong": sys.exit(2)
open(sys.argv[sys.argv.index("--json") + 1], "w").write('''{REPORT}''')
"""


@pytest.fixture
def tool(tmp_path, monkeypatch):
    module = scripts.tool("pod_table")
    (tmp_path / "fake.py").write_text(SCRIPT)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def rows(tool, *names):
    return [tool.Row(name, ("fake.py", name)) for name in names]


def test_finished_rows_are_kept_and_shown(tool, tmp_path):
    first = rows(tool, "good")
    tool.make(first, ["good"], tmp_path / "docs", 60)
    both = rows(tool, "good", "big", "slow")
    tool.make(both, ["good", "big"], tmp_path / "docs", 60)
    for _ in range(2):
        tool.make(both, ["good", "big", "slow"], tmp_path / "docs", 3)
    assert (tmp_path / "calls").read_text() == "good big slow "
    page = (tmp_path / "docs" / "pods.md").read_text()
    assert "| good | 8 | 1.00 / 2.00 | 3.00 | 1.50 | 4.00 | 100.0 | 200.0 | 300.0 | 25% |" in page
    assert "failed: does not fit: RESOURCE_EXHAUSTED" in page and "failed: not done after" in page
    kept = sorted(path.name for path in (tmp_path / "docs" / "pods").iterdir())
    assert kept == ["big.json", "good.json", "slow.json"]


def test_a_mistake_is_not_kept(tool, tmp_path):
    with pytest.raises(SystemExit):
        tool.make(rows(tool, "wrong"), ["wrong"], tmp_path / "docs", 60)
    assert not list((tmp_path / "docs" / "pods").iterdir())


def test_the_rows_are_commands_for_topologies_that_exist(tool):
    found = tool.rows()
    assert len({row.name for row in found}) == len(found) == 19
    for row in found:
        assert row.command[row.command.index("--topology") + 1] in known_topologies()
