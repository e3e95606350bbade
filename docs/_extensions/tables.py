"""The directives `pod-table` and `parameter-table NAME`: tables of figures that tools have kept."""

import json
import sys
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).parents[2]
PARAMETERS = ROOT / "docs" / "parameters.json"

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


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("pod-table", PodTable)
    app.add_directive("parameter-table", ParameterTable)
    return {"parallel_read_safe": True}
