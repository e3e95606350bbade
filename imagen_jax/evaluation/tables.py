"""Tables in Markdown, and what the files are called that an evaluation leaves behind."""

from collections.abc import Sequence

RESULTS = "results.json"
TABLE = "table.md"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a table in Markdown; the first one has the names of the columns."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(_plain(cell) for cell in line)} |" for line in lines)


def _plain(cell: str) -> str:
    """A prompt or a name may hold what would end the cell."""
    return " ".join(cell.split()).replace("|", "\\|")
