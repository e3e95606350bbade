"""The script that makes the table of docs/pods.md: rows are kept; an interrupted run goes on."""

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
    kept = tmp_path / "kept"
    tool.make(rows(tool, "good"), kept, 60)
    tool.make(rows(tool, "good", "big"), kept, 60)
    for _ in range(2):
        tool.make(rows(tool, "good", "big", "slow"), kept, 3)
    assert (tmp_path / "calls").read_text() == "good big slow "
    assert sorted(path.name for path in kept.iterdir()) == ["big.json", "good.json", "slow.json"]
    shown = tool.table(tool.kept(rows(tool, "slow", "good", "other", "big"), kept))
    assert "| good | 8 | 1.00 / 2.00 | 3.00 | 1.50 | 4.00 | 100.0 | 200.0 | 300.0 | 25% |" in shown
    assert shown.count("| good |") == 1 and "other" not in shown
    slow, big = shown.splitlines()[-2:]
    assert slow.startswith("- slow failed: not done after")
    assert big == "- big failed: does not fit: RESOURCE_EXHAUSTED"


def test_a_mistake_is_not_kept(tool, tmp_path):
    with pytest.raises(SystemExit):
        tool.make(rows(tool, "wrong"), tmp_path / "kept", 60)
    assert not list((tmp_path / "kept").iterdir())


def test_a_command_makes_one_row_and_prints_all_that_are_there(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "rows", lambda: rows(tool, "good", "big", "other"))
    for name in ("big", "good"):
        monkeypatch.setattr("sys.argv", ["pod_table.py", name, "--out", str(tmp_path / "kept")])
        tool.main()
    assert (tmp_path / "calls").read_text() == "big good "
    last = capsys.readouterr().out.rpartition("| row |")[2]
    assert last.index("| good |") < last.index("- big failed") and "other" not in last


def test_every_row_is_kept_in_the_repository(tool):
    assert [row["name"] for row in tool.kept(tool.rows(), tool.KEPT)] == [
        row.name for row in tool.rows()
    ]


def test_the_rows_are_commands_for_topologies_that_exist(tool):
    found = tool.rows()
    assert len({row.name for row in found}) == len(found) == 19
    for row in found:
        assert row.command[row.command.index("--topology") + 1] in known_topologies()
