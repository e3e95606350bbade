"""Compiles the paper's stages for TPU pods and prints the table of docs/pods.md. Needs no TPU.

    python tools/pod_table.py [ROW ...] [--out docs/pods]

Every row is a command in a process of its own with a limit of 20 minutes, and needs libtpu. Its
report, or why there is none, goes to OUT/ROW.json as soon as it is done, and a row that is there is
not done again; so the script can be interrupted, and removing a file repeats its row.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

from imagen_jax.storage.files import write_text

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "pods"
"""Of each row in docs/pods.md its file."""
LIMIT = 20 * 60
"""Seconds of one row."""

TRAIN = {
    "base_64": ("v4:4x8x8", "v5e:16x16", "v5p:4x4x4", "v6e:16x16"),
    "sr_256": ("v4:4x4x8", "v5e:16x16"),
    "sr_1024": ("v4:4x4x8", "v5e:16x16"),
}
"""Training steps: config -> topologies. The paper trained on 256 and 128 v4 chips."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table and the command, without --json, that makes it."""

    name: str
    command: tuple[str, ...]


def sample(stage: str, batch_size: int) -> tuple[str, ...]:
    """Sampling of a stage of DeepFloyd IF, in bfloat16."""
    config = f"configs/deepfloyd_if/{stage}.py"
    return ("sample.py", "--base", config, "--batch-size", str(batch_size), "--quick")


def student(config: str, batch_size: int) -> tuple[str, ...]:
    """Sampling of a stage of the paper's that was distilled to 8 steps."""
    sizes = ("--batch-size", str(batch_size), "--steps", "8")
    return ("sample.py", "--base", f"configs/{config}.py", *sizes, "--quick")


def rows() -> list[Row]:
    """All rows in the order of the table."""
    steps = [
        (config, topology, ("train.py", config, "--quick"))
        for config, topologies in TRAIN.items()
        for topology in topologies
    ]
    others = [
        ("t5_xxl", "v5e:16x16", ("train.py", "base_64", "--what", "embedding")),
        ("sample_sr_1024", "v5e:2x4", ("sample.py", "--base", "configs/sr_1024.py",
         "--batch-size", "1", "--split-height", "8", "--quick")),
        ("prompts_t5_xxl", "v5e:2x4", (*sample("i_xl", 8), "--what", "embedding")),
        ("sample_if_1_xl", "v5e:2x4", sample("i_xl", 8)),
        ("sample_if_2_l", "v5e:2x4", sample("ii_l", 8)),
        ("prompts_t5_xxl", "v5e:1x1", (*sample("i_xl", 1), "--what", "embedding")),
        ("sample_if_1_xl", "v5e:1x1", sample("i_xl", 1)),
        ("sample_if_2_l", "v5e:1x1", sample("ii_l", 1)),
        ("student_64", "v5e:2x4", student("distill_64", 8)),
        ("student_256", "v5e:2x4", (*student("distill_256", 1), "--split-height", "8")),
        ("student_1024", "v5e:2x4", (*student("distill_1024", 1), "--split-height", "8")),
    ]  # fmt: skip
    return [
        Row(
            f"{name}-{topology.replace(':', '-')}",
            (*command, "--compile-only", "--topology", topology),
        )
        for name, topology, command in steps + others
    ]


def run_row(row: Row, directory: Path, limit: float) -> dict:
    """Runs a row and keeps what came of it: its reports, or why there are none."""
    scratch = directory / f".{row.name}.report"
    command = [sys.executable, str(ROOT / row.command[0]), *row.command[1:], "--json", str(scratch)]
    start = time.perf_counter()
    try:
        result = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False
        )
        # Code 1 is that of a step that does not fit, and of Python when it fails.
        if result.returncode not in (0, 1) or "Traceback" in result.stderr:
            sys.exit(result.stderr)  # It says nothing about the pod.
        failure = None if result.returncode == 0 else (result.stdout + result.stderr).strip()
    except subprocess.TimeoutExpired:
        failure = f"not done after {limit / 60:.0f} minutes"
    finished = {
        "name": row.name,
        "command": " ".join(["python", *row.command]),
        "seconds": time.perf_counter() - start,
        "failure": failure,
        "reports": json.loads(scratch.read_text()) if failure is None else [],
    }
    scratch.unlink(missing_ok=True)
    write_text(directory / f"{row.name}.json", json.dumps(finished, indent=2) + "\n")
    return finished


COLUMNS = (
    "row", "batch", "HBM GiB needed / there", "TFLOP", "overhead", "collectives GB",
    "compute ms", "HBM ms", "ICI ms", "possible MFU",
)  # fmt: skip


def cells(report: dict) -> list[str]:
    """One report as the cells after the first."""
    memory, bound = report["memory"], report["bound"]
    times = report.get("times", 1)
    sent = sum(traffic["bytes"] for traffic in report["collectives"].values())
    return [
        f"{report['batch_size']}",
        f"{memory['needed'] / 2**30:.2f} / {memory['available'] / 2**30:.2f}",
        f"{times * report['compiled_flops'] / 1e12:.2f}",
        f"{report['overhead']:.2f}",
        f"{times * sent / 1e9:.2f}",
        *(f"{times * bound[part] * 1e3:.1f}" for part in ("compute", "hbm", "ici")),
        f"{bound['utilisation']:.0%}",
    ]


def table(finished: list[dict]) -> str:
    """The reports as a table in Markdown, and below it what failed."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in finished:
        for report in row["reports"]:
            lines.append("| " + " | ".join([row["name"], *cells(report)]) + " |")
    lines += [""] * any(row["failure"] is not None for row in finished)
    for row in finished:
        if row["failure"] is not None:
            lines.append(f"- {row['name']} failed: {row['failure'].splitlines()[0]}")
    return "\n".join(lines) + "\n"


def kept(all_rows: list[Row], directory: Path) -> list[dict]:
    """What the directory holds of the rows, in their order."""
    paths = [directory / f"{row.name}.json" for row in all_rows]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known = {row.name: row for row in rows()}
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(known))
    parser.add_argument("--out", type=Path, default=KEPT, help="directory of the rows' files")
    flags = parser.parse_args()
    unknown = set(flags.rows) - set(known)
    if unknown:
        parser.error(f"there is no row {min(unknown)!r}; the rows are {', '.join(known)}")
    out = flags.out.resolve()
    make([known[name] for name in flags.rows or known], out, LIMIT)
    print(table(kept(list(known.values()), out)), end="")


def make(wanted: list[Row], directory: Path, limit: float) -> None:
    """Runs the wanted rows that are not there yet."""
    directory.mkdir(parents=True, exist_ok=True)
    for row in wanted:
        if not (directory / f"{row.name}.json").exists():
            print(f"{row.name} ...", file=sys.stderr, flush=True)
            finished = run_row(row, directory, limit)
            said = f"  {finished['failure'] or 'done'} ({finished['seconds']:.0f} s)"
            print(said, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
