"""Attack all that the package reads with damaged input, and its training with signals.

    python tools/attack.py --minutes 10
    python tools/attack.py --trials 300 --seed 7 --only "tar shard" checkpoint
    python tools/attack.py --minutes 0 --kills 30 --processes 2

A damaged input must give a result or one sentence with exit code 2, within --seconds and within
--megabytes of further memory. Any other exception fails, and so do a hang, a process that dies,
a file that is written in part, and, where sums or digests are kept, a result that is not what a
sound input gives. What is drawn depends on --seed, the kind and the number of the trial alone, so
--first N --trials 1 --only KIND repeats one. Inputs that failed are copied to --out; the exit code
is 1 if there are any.
"""

import argparse
import contextlib
import dataclasses
import io
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from attacks import KINDS
from attacks.kind import Kind, Read
from attacks.mutations import damage

from imagen_jax.errors import exit_on_usage_error

_CONTEXT = multiprocessing.get_context("forkserver")
_LONGEST = 4000
"""Letters of the sentence of an error."""
_START_SECONDS = 300


@dataclasses.dataclass
class Row:
    """What came of one kind."""

    tried: int = 0
    refused: int = 0
    failed: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked of each kind: trials from `first` on, for at most `minutes`."""

    seed: int
    first: int
    trials: int
    seconds: float
    megabytes: int


def draw(kind: Kind, name: str, seed: int, number: int, workplace: Path) -> str:
    """Puts a sound input to WORKPLACE/input and damages it; says how."""
    directory = workplace / "input"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(workplace / "sound", directory)
    files = {x for pattern in kind.files for x in directory.glob(pattern) if x.is_file()}
    rng = random.Random(f"{seed} {name} {number}")
    return damage(rng, directory, sorted(files), kind.styles)


def make_sound(kind: Kind, workplace: Path) -> None:
    """WORKPLACE/sound, made where it will be read: some inputs know their own place."""
    shutil.rmtree(workplace, ignore_errors=True)
    (workplace / "input").mkdir(parents=True)
    kind.make(workplace / "input")
    shutil.copytree(workplace / "input", workplace / "sound")


def expected(kind: Kind, workplace: Path) -> list[Read] | None:
    """What may be read of an exact kind; None where anything may. A sound input must be read."""
    directory = workplace / "input"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(workplace / "sound", directory)
    read = kind.expected(directory) if kind.expected else [kind.read(directory)]
    return read if kind.exact else None


def attempt(kind: Kind, workplace: Path, wanted: list[Read] | None) -> tuple[bool, str]:
    """Reads WORKPLACE/input: whether it was refused, and what is wrong, "" for nothing."""
    said, found, code = io.StringIO(), {}, 0
    try:
        with (
            contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()),
            exit_on_usage_error(),
        ):  # fmt: skip
            found = kind.read(workplace / "input")
    except SystemExit as end:
        code = end.code
    except BaseException:  # Whatever it is, it is what is looked for.
        return False, traceback.format_exc()
    problem = _of_exit(code, said.getvalue()) or _of_files(kind, workplace, code)
    if not problem and code == 0 and wanted is not None and not _is_one(found, wanted, kind):
        problem = f"It read other than was written: {found}"
    return code == 2, problem


def _is_one(found: Read, wanted: list[Read], kind: Kind) -> bool:
    return found in wanted or (
        kind.may_lack and any(found.items() <= one.items() for one in wanted)
    )


def _of_exit(code: int, said: str) -> str:
    errors = [line for line in said.splitlines() if not line.startswith("warning: ")]
    if code == 2 and len(errors) == 1 and errors[0].startswith("error: "):
        return "" if len(errors[0]) < _LONGEST else f"It says too much: {errors[0]}"
    return "" if code == 0 and "Traceback" not in said else f"It ends with {code} and says: {said}"


def _of_files(kind: Kind, workplace: Path, code: int) -> str:
    left = [str(path) for path in workplace.rglob(".*.tmp")]
    half = [name for name in kind.writes if code == 2 and (workplace / name).exists()]
    return f"It leaves {left + half}" if left or half else ""


def limit_memory(megabytes: int) -> None:
    """Of what this process may still take beside what it has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (held,) = (int(line.split()[1]) for line in lines if line.startswith("VmData:"))
    most = held * 1024 + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))


def work(name: str, workplace: Path, plan: Plan, answers: Connection) -> None:
    """Tries one number after another in this process, and tells what came of each."""
    os.environ["IMAGEN_CACHE_DIR"] = "off"
    kind = KINDS[name]
    if not (workplace / "sound").exists():
        make_sound(kind, workplace)
    wanted = expected(kind, workplace)
    answers.send(None)
    for number in range(plan.first, plan.first + plan.trials):
        damaged = draw(kind, name, plan.seed, number, workplace)
        limit_memory(plan.megabytes)
        answers.send((number, damaged, *attempt(kind, workplace, wanted)))


def trials(name: str, workplace: Path, plan: Plan) -> Iterator[tuple[int, str, bool, str]]:
    """(number, damage, refused, problem) of each; a process that hangs or dies is followed by one
    that goes on behind what it could not read.
    """
    first, end = plan.first, plan.first + plan.trials
    while first < end:
        rest = dataclasses.replace(plan, first=first, trials=end - first)
        with _worker(name, workplace, rest) as (process, answers):
            _wait_for_start(name, answers)
            while first < end and answers.poll(plan.seconds):
                try:
                    answer = answers.recv()
                except EOFError:
                    break
                yield answer
                first = answer[0] + 1
            if first < end:
                process.join(1)
                how = "hangs" if process.is_alive() else f"dies with {process.exitcode}"
                yield first, "", False, f"It {how}."
                first += 1


def _wait_for_start(name: str, answers: Connection) -> None:
    with contextlib.suppress(EOFError):
        if answers.poll(_START_SECONDS) and answers.recv() is None:
            return
    raise SystemExit(f"{name}: no sound input can be made, or it cannot be read.")


@contextlib.contextmanager
def _worker(name: str, workplace: Path, plan: Plan) -> Iterator:
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=work, args=(name, workplace, plan, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()
        ours.close()


def attack(name: str, workplace: Path, plan: Plan, until: float, out: Path) -> Row:
    """All trials of one kind up to `until`, on the clock of `time.monotonic`."""
    row = Row()
    for number, damaged, refused, problem in trials(name, workplace, plan):
        row.tried, row.refused = row.tried + 1, row.refused + refused
        if problem:
            row.failed += 1
            keep(name, number, f"{damaged}\n{problem}", workplace, plan.seed, out)
        if time.monotonic() > until:
            break
    return row


def keep(name: str, number: int, problem: str, workplace: Path, seed: int, out: Path) -> None:
    """Makes the input of a trial again, in a directory of its own below `out`."""
    target = out / f"{name.replace(' ', '_')}-{number}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(workplace / "sound", target / "sound")
    draw(KINDS[name], name, seed, number, target)
    shutil.rmtree(target / "sound")
    (target / "problem.txt").write_text(f"{name}, number {number}, seed {seed}: {problem}\n")
    print(f"failed: {target}: {problem.strip().splitlines()[-1][:200]}", flush=True)


def print_table(rows: dict[str, Row]) -> None:
    print("\n| kind | tried | held | refused of these | failed |\n|---|---|---|---|---|")
    total = Row(*(sum(getattr(row, x) for row in rows.values()) for x in vars(Row())))
    for name, row in {**rows, "all": total}.items():
        print(f"| {name} | {row.tried} | {row.tried - row.failed} | {row.refused} | {row.failed} |")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    first_line, *_ = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(description=first_line)
    parser.add_argument("--minutes", type=float, default=10, help="for all kinds together")
    parser.add_argument("--trials", type=int, default=10**9, help="of each kind, at most")
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", action="extend", metavar="KIND", help="--list names all"
    )
    parser.add_argument("--list", action="store_true", help="name the kinds and stop")
    parser.add_argument("--seconds", type=float, default=60, help="that a trial may take")
    parser.add_argument("--megabytes", type=int, default=2048, help="that a trial may take")
    parser.add_argument("--kills", type=int, default=0, help="of a training run")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1, help="of that run")
    parser.add_argument("--out", type=Path, default=Path("attack-failures"))
    return parser.parse_args(arguments)


def attack_all(flags: argparse.Namespace, names: list[str]) -> dict[str, Row]:
    """Each kind has its share of the time that is left when its turn comes."""
    plan = Plan(flags.seed, flags.first, flags.trials, flags.seconds, flags.megabytes)
    end, rows = time.monotonic() + 60 * flags.minutes, {}
    with tempfile.TemporaryDirectory() as scratch:
        for place, name in enumerate(names):
            now = time.monotonic()
            until = now + (end - now) / (len(names) - place)
            rows[name] = attack(name, Path(scratch) / str(place), plan, until, flags.out)
            print(f"{name}: {rows[name]}", flush=True)
    return rows


def prepare_processes() -> None:
    """Those of the trials are forked from one that has imported everything and started nothing."""
    places = (Path(__file__).parent, Path(__file__).parents[1], os.environ.get("PYTHONPATH", ""))
    # The fork server of Python 3.12 and older knows no other paths.
    os.environ["PYTHONPATH"] = os.pathsep.join(map(str, filter(None, places)))
    _CONTEXT.set_forkserver_preload(["attacks"])


def attack_by_signals(flags: argparse.Namespace) -> Row:
    from attacks.kills import attack_training  # Starts JAX, which what is forked must not find.

    tried, problems = attack_training(flags)
    for problem in problems:
        print(f"failed: {problem}", flush=True)
    return Row(tried, failed=len(problems))


def main(arguments: list[str] | None = None) -> int:
    flags = parse(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    prepare_processes()
    names = flags.only or list(KINDS)
    if unknown := [name for name in names if name not in KINDS]:
        raise SystemExit(f"There is no kind {unknown[0]!r}; there are: {', '.join(KINDS)}.")
    if flags.list:
        print("\n".join(KINDS))
        return 0
    rows = attack_all(flags, names) if flags.minutes > 0 else {}
    if flags.kills:
        rows[f"kills, processes: {flags.processes}"] = attack_by_signals(flags)
    print_table(rows)
    return int(any(row.failed for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
