"""Compiles the paper's stages for TPU pods and writes docs/pods.md. Needs libtpu, no TPU.

    python tools/pod_table.py [ROW ...] [--out docs]

Every row is a command in a process of its own with a limit of 20 minutes. Its report, or why
there is none, goes to OUT/pods/ROW.json as soon as it is done, and a row that is there is not
done again; so the script can be interrupted, and removing a file repeats its row.
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
    """The Markdown page."""
    lines = [
        "# The steps of the cascade, compiled for TPU pods",
        "",
        "`python tools/pod_table.py` makes this page with the TPU compiler of libtpu on a machine "
        "without TPUs. **Nobody has run these steps on TPUs.** Memory, work and collectives are "
        "the compiler's, per chip, and of painting those of one step times the number of steps, "
        "without what comes before the first: reading the text, and bringing parameters in parts "
        "together where a chip has room for the whole; "
        "collectives count whole arrays. The milliseconds are "
        "bounds from peak rates: the slowest of the three sets the pace at best, and HBM traffic "
        "is an estimate. Overhead is the work over that which the model asks for. HBM lacks some "
        "of the code's bytes in rows whose command has `--quick`.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
    ]
    for row in finished:
        for report in row["reports"]:
            lines.append("| " + " | ".join([row["name"], *cells(report)]) + " |")
    lines += ["", "The file of each row in `docs/pods/` holds its command and its whole report."]
    lines += [""] * any(row["failure"] is not None for row in finished)
    for row in finished:
        if row["failure"] is not None:
            lines.append(f"- {row['name']} failed: {row['failure'].splitlines()[0]}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    known = {row.name: row for row in rows()}
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(known))
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="directory of pods.md")
    flags = parser.parse_args()
    unknown = set(flags.rows) - set(known)
    if unknown:
        parser.error(f"there is no row {min(unknown)!r}; the rows are {', '.join(known)}")
    make(list(known.values()), flags.rows or list(known), flags.out.resolve(), LIMIT)


def make(all_rows: list[Row], wanted: list[str], out: Path, limit: float) -> None:
    """Runs the wanted rows that are not there yet and writes the page from all that are."""
    directory = out / "pods"
    directory.mkdir(parents=True, exist_ok=True)
    for row in all_rows:
        kept = directory / f"{row.name}.json"
        if row.name in wanted and not kept.exists():
            print(f"{row.name} ...", flush=True)
            finished = run_row(row, directory, limit)
            print(f"  {finished['failure'] or 'done'} ({finished['seconds']:.0f} s)", flush=True)
        paths = [directory / f"{other.name}.json" for other in all_rows]
        pages = [json.loads(path.read_text()) for path in paths if path.exists()]
        write_text(out / "pods.md", table(pages))


if __name__ == "__main__":
    main()
