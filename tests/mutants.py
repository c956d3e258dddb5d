"""Change chora in small ways, and see whether the tests notice: `python -m tests.mutants 150 --seed 1`.

Each mutant is one change of one expression or statement, made in a copy of the checkout; the working tree is never
touched. The tests that a mutant meets are those that execute its line, in themselves or in a process that they start:
those that read all of chora's code and the ones that mirror its module first, the slow ones of `just stress` only if no
others do. A mutant that no test notices, and the type checker accepts, survives: either a promise isn't proven, or the
change makes no difference.
"""

from __future__ import annotations

import argparse
import ast
import collections
import contextlib
import copy
import difflib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
READING = "tests/test_conventions.py"
"""The tests that read the code itself; no line that they execute tells that a mutant matters to them."""
MOST_TESTS = 300
"""Tests that one mutant meets at most, chosen at random beyond those that mirror its module."""
TIME_LIMIT = 300.0
"""Seconds for the tests of one mutant; one that makes them take longer is noticed by that."""

FLIPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.Add,
}


class Mutant(NamedTuple):
    """One change: what of a file is replaced by what."""

    path: str
    line: int
    kind: str
    start: int
    end: int
    text: str
    at_import: bool
    """Whether it is executed when its module is imported, so that no line tells which tests it matters to."""

    @property
    def package(self) -> str:
        """The part of chora that it belongs to."""
        return "/".join(self.path.split("/")[:2])

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]

    def diff(self, source: bytes) -> str:
        """The changed lines with their neighbours, as a unified diff without its head."""
        before, after = (text.decode().splitlines() for text in (source, self.apply(source)))
        return "\n".join(list(difflib.unified_diff(before, after, self.path, self.path, lineterm="", n=1))[2:])


class Outcome(NamedTuple):
    mutant: Mutant
    status: str
    """killed, timeout, refused by the type checker, survived, or untested when no test executes the line."""
    tests: int
    seconds: float
    killed_by: str
    diff: str


# -- which changes there are ------------------------------------------------------------------------------------


def mutants_of(path: str, source: bytes) -> Iterator[Mutant]:
    """All changes of a file."""
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def make(node: Any, kind: str, text: str, at_import: bool) -> Mutant:
        start, end = lines[node.lineno - 1] + node.col_offset, lines[node.end_lineno - 1] + node.end_col_offset
        return Mutant(path, node.lineno, kind, start, end, text, at_import)

    for node, at_import in _reachable(ast.parse(source)):
        for kind, changed in _changes(node):
            text = ast.unparse(changed) if not isinstance(changed, str) else changed
            yield make(node, kind, f"({text})" if isinstance(node, ast.expr) else text, at_import)


def _reachable(node: ast.AST, at_import: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node that does something when the program runs and whose place in the source is known, and whether that is
    when its module is imported."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue
            called_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and field == "body"
            now = at_import and not called_later
            yield child, now
            yield from _reachable(child, now)


def _changes(node: ast.AST) -> Iterator[tuple[str, ast.AST | str]]:
    changed: Any = copy.deepcopy(node)
    match node:
        case ast.Compare(ops=[operator]) if type(operator) in FLIPS:
            changed.ops = [FLIPS[type(operator)]()]
            yield "comparison", changed
        case ast.BoolOp():
            changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "and/or", changed
        case ast.UnaryOp(op=ast.Not()):
            yield "not", node.operand
        case ast.BinOp() if type(node.op) in OPERATORS and not _is_text(node):
            changed.op = OPERATORS[type(node.op)]()
            yield "operator", changed
        case ast.Constant(value=bool()):
            yield "constant", ast.Constant(not node.value)
        case ast.Constant(value=int(number)):
            yield "constant + 1", ast.Constant(number + 1)
            yield "constant - 1", str(number - 1)
        case ast.IfExp():
            changed.body, changed.orelse = changed.orelse, changed.body
            yield "if/else", changed
        case ast.Call(args=[first, second, *_]) if not any(isinstance(each, ast.Starred) for each in node.args):
            if ast.dump(first) != ast.dump(second):
                changed.args[:2] = [second, first]
                yield "swapped arguments", changed
        case ast.Return(value=ast.AST()) if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield "return None", "return None"
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Delete():
            yield "removed statement", "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "removed statement", "pass"
        case ast.Raise() if "AssertionError" not in ast.unparse(node):
            yield "removed statement", "pass"
        case ast.Continue() | ast.Break():
            yield "removed statement", "pass"
        case _:
            pass


def _is_text(node: ast.BinOp) -> bool:
    sides = (node.left, node.right)
    return any(isinstance(side, ast.JoinedStr) or isinstance(getattr(side, "value", None), str) for side in sides)


def choose(root: Path, count: int, seed: int, only: str) -> list[Mutant]:
    """This many mutants, from each package its share and at least one."""
    chance = random.Random(seed)
    packages: dict[str, list[Mutant]] = collections.defaultdict(list)
    for path in _tracked():
        if path.startswith(only) and path.endswith(".py"):
            source = (root / path).read_bytes()
            for mutant in mutants_of(path, source):
                packages[mutant.package].append(mutant)
    total = sum(map(len, packages.values()))
    chosen: list[Mutant] = []
    for found in packages.values():
        chosen += chance.sample(found, min(len(found), max(1, round(count * len(found) / total))))
    chance.shuffle(chosen)
    return chosen[:count]


def choose_survivors(root: Path, report: Path) -> list[Mutant]:
    """The mutants that survived an earlier run, wherever their lines are now."""
    survivors: dict[str, set[str]] = collections.defaultdict(set)
    for outcome in json.loads(report.read_text())["mutants"]:
        if outcome["status"] in ("survived", "untested"):
            survivors[outcome["mutant"]["path"]].add(_without_place(outcome["diff"]))
    chosen: list[Mutant] = []
    for path, diffs in survivors.items():
        if (root / path).exists():
            source = (root / path).read_bytes()
            chosen += [each for each in mutants_of(path, source) if _without_place(each.diff(source)) in diffs]
    return chosen


def _without_place(diff: str) -> str:
    return "\n".join(line for line in diff.splitlines() if not line.startswith("@@"))


def _tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(path for path in done.stdout.split("\0") if path and (ROOT / path).is_file())


# -- copies of the checkout -------------------------------------------------------------------------------------


class Checkout:
    """A copy of the checkout with an environment of its own, so that child processes import the copy too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for path in _tracked():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, target, follow_symlinks=False)
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
        self.python = folder / ".venv" / "bin" / "python"
        packages = next((folder / ".venv" / "lib").glob("python*/site-packages"))
        installed = sysconfig.get_paths()["purelib"]
        (packages / "copy.pth").write_text(f"{folder}\n{installed}\nimport site; site.addsitedir({installed!r})\n")
        programs = Path(sysconfig.get_path("scripts"))
        for name in ("ruff", "uv", "ninja"):  # native ones: the others name their own Python
            if (programs / name).exists():
                (self.python.parent / name).symlink_to(programs / name)
        entry = f"#!{self.python}\nfrom chora.__main__ import main\nmain()\n"
        (self.python.parent / "chora").write_text(entry)
        (self.python.parent / "chora").chmod(0o755)
        self._stamp = int(time.time())

    def write(self, path: str, source: bytes) -> None:
        """Replace a file; its time differs from all before, or Python would take what it had compiled."""
        self._stamp += 2
        (self.folder / path).write_bytes(source)
        os.utime(self.folder / path, (self._stamp, self._stamp))

    def run(self, *arguments: str, limit: float, **environment: str) -> tuple[int | None, str]:
        """The exit status of pytest, None if it took too long, and its output."""
        process = subprocess.Popen(
            [self.python, "-m", "pytest", "-p", "no:xdist", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPYCACHEPREFIX": str(self.folder / ".pycache"), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=limit)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def has_types(self, path: str) -> bool:
        """Whether the type checker accepts a file, as `just check` wants it."""
        checker = Path(sysconfig.get_path("scripts")) / "pyright"
        return subprocess.run([checker, path], cwd=self.folder, stdout=subprocess.DEVNULL, check=False).returncode == 0


# -- which tests execute what -----------------------------------------------------------------------------------


class Coverage:
    """Which tests execute which lines; measured once for a state of the checkout, and stored with it."""

    def __init__(self, data: Path) -> None:
        self._lines: dict[str, dict[int, set[str]]] = collections.defaultdict(lambda: collections.defaultdict(set))
        self.files: dict[str, set[str]] = collections.defaultdict(set)
        with sqlite3.connect(data) as db:
            rows = db.execute(
                "SELECT file.path, context.context, line_bits.numbits FROM line_bits"
                " JOIN file ON file.id = line_bits.file_id JOIN context ON context.id = line_bits.context_id"
                " WHERE context.context LIKE 'tests/%' OR context.context LIKE 'stress tests/%'"
            )
            for path, context, bits in rows:
                name = "chora/" + path.rpartition("/chora/")[2]
                self.files[name].add(context)
                for at, byte in enumerate(bits):
                    for bit in range(8):
                        if byte >> bit & 1:
                            self._lines[name][at * 8 + bit].add(context)

    def tests(self, mutant: Mutant, chance: random.Random) -> list[str]:
        """The tests of a mutant: those that mirror its module first, then the quickest ones."""
        lines = {} if mutant.at_import else self._lines[mutant.path]
        executing = lines.get(mutant.line) or self.files[mutant.path]
        found = {test for test in executing if not test.startswith("stress ")}
        if not found:
            return [test.removeprefix("stress ") for test in sorted(executing)][:MOST_TESTS]
        module = Path(mutant.path).with_suffix("").relative_to("chora")
        mirror = f"tests/{module.with_name('test_' + module.name)}.py"
        neighbours = f"tests/{module.parent}/" if module.parent.name else f"tests/test_{module.name}"
        first = sorted(test for test in found if test.startswith(mirror))
        second = sorted(test for test in found if test.startswith(neighbours) and not test.startswith(mirror))
        third = sorted(found - {*first, *second})
        chance.shuffle(second)
        chance.shuffle(third)
        return [*first, *second, *third][: max(MOST_TESTS, min(len(first), 2 * MOST_TESTS))]


def measure(checkout: Checkout, data: Path) -> None:
    """Run the tests with coverage, noting which test executes what."""
    with tempfile.TemporaryDirectory(prefix="chora-coverage-") as place:
        config = Path(place) / "rc"
        options = ["source = chora", "parallel = true", "patch = subprocess, _exit", "sigterm = true"]
        config.write_text("\n".join(["[run]", *options, f"data_file = {place}/data"]))
        command = [checkout.python, "-m", "coverage", "run", f"--rcfile={config}", "-m", "pytest", "--tb=no"]
        cache = Path(place) / "cache"  # of pytest, which the project's own options turn off
        command += ["-o", "addopts=--import-mode=importlib", "-o", f"cache_dir={cache}"]
        for selected in (["-n", "auto", "--dist", "worksteal", "-m", "not stress"], ["-m", "stress"]):
            subprocess.run(
                [*command, *selected],
                cwd=checkout.folder,
                env={**os.environ, "CHORA_COVERAGE_CONTEXTS": "1"},
                stdout=subprocess.DEVNULL,
                check=False,
            )
        failures = cache / "v" / "cache" / "lastfailed"
        failed = sorted(json.loads(failures.read_text())) if failures.exists() else []
        print(f"{len(failed)} tests fail without any change, and are left out: {failed}", flush=True)
        command = [checkout.python, "-m", "coverage", "combine", "-q", f"--rcfile={config}"]
        subprocess.run(command, cwd=checkout.folder, check=True)
        with sqlite3.connect(Path(place) / "data") as db:
            rows = [(f"failed {each}", each, f"stress {each}") for each in failed]
            db.executemany("UPDATE OR REPLACE context SET context = ? WHERE context IN (?, ?)", rows)
        shutil.move(Path(place) / "data", data)


# -- trying them ------------------------------------------------------------------------------------------------


def attempt(mutant: Mutant, checkout: Checkout, coverage: Coverage, seed: int) -> Outcome:
    source = (checkout.folder / mutant.path).read_bytes()
    changed, diff = mutant.apply(source), mutant.diff(source)
    tests = coverage.tests(mutant, random.Random(f"{seed} {mutant}"))
    if not tests:
        return Outcome(mutant, "untested", 0, 0.0, "", diff)
    began = time.monotonic()
    checkout.write(mutant.path, changed)
    try:
        chosen = checkout.folder / ".tests"
        chosen.write_text("\n".join([READING, *tests]))
        status, output = checkout.run("-x", "--tb=no", f"@{chosen}", limit=TIME_LIMIT)
        refused = status == 0 and not checkout.has_types(mutant.path)
    finally:
        checkout.write(mutant.path, source)
    failed = next((line for line in output.splitlines() if line.startswith(("FAILED", "ERROR", "ImportError"))), "")
    if status not in (None, 0, 1) and not failed:
        raise SystemExit(f"pytest could not run: {output[-2000:]}")
    name = "timeout" if status is None else "refused" if refused else "survived" if status == 0 else "killed"
    return Outcome(mutant, name, len(tests), round(time.monotonic() - began, 1), failed[:300], diff)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, help="how many mutants are tried")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    parser.add_argument("--only", default="chora/", help="only of files whose path begins so")
    parser.add_argument("--survivors", type=Path, help="only those that survived in the results of an earlier run")
    parser.add_argument("--workers", type=int, default=1, help="how many at a time")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "mutants.json", help="where the results go")
    options = parser.parse_args()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    state = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    data = options.json.parent / f"coverage-by-test-{state.stdout.strip()[:12]}"
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="chora-mutants-") as place:
        checkouts = [Checkout(Path(place) / str(number)) for number in range(options.workers)]
        if options.survivors:
            chosen = choose_survivors(checkouts[0].folder, options.survivors)
        else:
            chosen = choose(checkouts[0].folder, options.count, options.seed, options.only)
        if not data.exists():
            measure(checkouts[0], data)
        coverage = Coverage(data)
        free: SimpleQueue[Checkout] = SimpleQueue()
        for checkout in checkouts:
            free.put(checkout)

        def one(mutant: Mutant) -> Outcome:
            checkout = free.get()
            try:
                return attempt(mutant, checkout, coverage, options.seed)
            finally:
                free.put(checkout)

        with ThreadPoolExecutor(options.workers) as pool:
            for outcome in pool.map(one, chosen):
                outcomes.append(outcome)
                where = f"{outcome.mutant.path}:{outcome.mutant.line}"
                result = f"{outcome.status:9} {outcome.seconds:6.1f} s {outcome.tests:4} tests"
                print(f"{result}  {where}  {outcome.mutant.kind}")
                if outcome.status in ("survived", "untested"):
                    print(outcome.diff)
                sys.stdout.flush()
                options.json.write_text(json.dumps(_report(options.seed, outcomes), indent=2) + "\n")
    print(json.dumps(_report(options.seed, outcomes)["counts"]))


def _report(seed: int, outcomes: list[Outcome]) -> dict[str, Any]:
    counts = collections.Counter(outcome.status for outcome in outcomes)
    rows = [{**outcome._asdict(), "mutant": outcome.mutant._asdict()} for outcome in outcomes]
    return {"seed": seed, "counts": dict(counts), "mutants": rows}


if __name__ == "__main__":
    main()
