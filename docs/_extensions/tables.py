"""The directives `pod-table`, `parameter-table NAME` and `study-table NAME...`: tables of figures
that tools and sweeps have kept."""

import json
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
PARAMETERS = ROOT / "docs" / "parameters.json"
STUDIES = ROOT / "docs" / "studies"

sys.path.insert(0, str(ROOT / "tools"))
import pod_table  # noqa: E402


def markdown(rows: list[dict]) -> str:
    """Rows of heading -> cell as a table, whole numbers with commas."""
    cells = [
        [f"{cell:,}" if isinstance(cell, int) else cell for cell in row.values()] for row in rows
    ]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


class PodTable(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        for path in pod_table.KEPT.glob("*.json"):
            self.env.note_dependency(str(path))
        finished = pod_table.kept(pod_table.rows(), pod_table.KEPT)
        return self.parse_text_to_nodes(pod_table.table(finished))


class ParameterTable(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(PARAMETERS))
        tables = json.loads(PARAMETERS.read_text())
        return self.parse_text_to_nodes(markdown(tables[self.arguments[0]]))


def study_rows(path: Path) -> list[dict]:
    """Of each point of a sweep what was set, files by their names alone, and its figures."""
    points = json.loads(path.read_text())["points"]
    return [
        {
            "setting": ", ".join(f"{name} {_last(x)}" for name, x in point["settings"].items()),
            **{name: _figure(x) for name, x in point.items() if name not in ("settings", "kept")},
        }
        for point in points
    ]


def _last(value: object) -> str:
    return Path(value).stem if isinstance(value, str) and "/" in value else str(value)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


class StudyTable(SphinxDirective):
    required_arguments = 1
    optional_arguments = 9

    def run(self) -> list[nodes.Node]:
        rows = []
        for name in self.arguments:
            path = STUDIES / name / "results.json"
            self.env.note_dependency(str(path))
            rows += study_rows(path) if path.is_file() else []
        return self.parse_text_to_nodes(markdown(rows) if rows else "Nobody has run this.")


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("pod-table", PodTable)
    app.add_directive("parameter-table", ParameterTable)
    app.add_directive("study-table", StudyTable)
    return {"parallel_read_safe": True}
