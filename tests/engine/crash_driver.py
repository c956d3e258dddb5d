"""Kills `assemble` at every write, sync and rename it makes, one after the other.

Run as a program: `crash_driver.py ROOT`. For every point it copies the project at ROOT, forks, and lets the child
assemble the artifact `note` until SIGKILL strikes at that point: halfway through a write, before a sync or rename,
or right after either. Prints one JSON line per point: what was struck, and what the files and the next run say.

The points are counted beneath everything: in `os` for files, in a SQLite VFS for the database.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import trio

from chora import settings
from chora.engine.building.artifact import build_artifact
from chora.engine.building.build import Build, CallerContext
from chora.engine.engine import open_engine


class Countdown:
    """Strikes when as many points have passed as it was reported."""

    def __init__(self, point: int, report: int) -> None:
        self.left = point
        self.report = report

    def passes(self, what: str) -> bool:
        """Whether this point isn't the one yet."""
        self.left -= 1
        if self.left == 0:
            real_write(self.report, what.encode())
        return self.left != 0

    def strike(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


real_write, real_fsync, real_replace = os.write, os.fsync, os.replace


def arm(countdown: Countdown) -> None:
    """Put the countdown beneath every way to change a file."""

    def around(what: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not countdown.passes(f"before {what}"):
                countdown.strike()
            result = act(*args, **kwargs)
            if not countdown.passes(f"after {what}"):
                countdown.strike()
            return result

        return guarded

    def write(descriptor: int, data: Any) -> int:
        if not countdown.passes("halfway through write"):
            real_write(descriptor, bytes(data)[: len(data) // 2])
            countdown.strike()
        return real_write(descriptor, data)

    os.write, os.fsync, os.replace = write, around("fsync", real_fsync), around("rename", real_replace)

    plain = apsw.vfs_names()[0]

    class File(apsw.VFSFile):
        def xWrite(self, data: Any, offset: int) -> None:
            if not countdown.passes("halfway through database write"):
                super().xWrite(bytes(data)[: len(data) // 2], offset)
                countdown.strike()
            super().xWrite(data, offset)

        def xSync(self, flags: int) -> None:
            around("database sync", super().xSync)(flags)

    class Disk(apsw.VFS):
        def __init__(self) -> None:
            super().__init__("counted", plain, makedefault=True)

        def xOpen(self, name: Any, flags: list[int]) -> Any:
            return File(plain, name, flags)

    keep.append(Disk())


keep: list[Any] = []


def run_assemble(root: Path) -> str:
    """Assemble the artifact `note`; returns its status."""

    async def run() -> str:
        async with open_engine(root, settings.load(root, {}).settings) as engine:
            return (
                await build_artifact(
                    Build(engine), engine.catalog.find_config("artifact", "note").parsed, CallerContext({})
                )
            ).status

    return trio.run(run)


def in_child(act: Callable[[], None]) -> int:
    """Run `act` in a fork and return how it ended."""
    child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(9)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    prepared = Path(sys.argv[1])
    for point in range(1, 1000):
        root = prepared.with_name(f"{prepared.name}-{point}")
        shutil.copytree(prepared, root)
        reader, writer = os.pipe()

        def struck(root: Path = root, point: int = point, writer: int = writer) -> None:
            arm(Countdown(point, writer))
            run_assemble(root)

        ended = in_child(struck)
        os.close(writer)
        what = os.read(reader, 100).decode()
        os.close(reader)
        output = (root / "outputs/note.md").read_bytes().decode()

        def again(root: Path = root) -> None:
            run_assemble(root)

        recovered = in_child(again)
        after = (root / "outputs/note.md").read_bytes().decode()
        line = {"point": point, "what": what, "ended": ended, "output": output, "again": recovered, "after": after}
        print(json.dumps(line), flush=True)
        shutil.rmtree(root)
        if ended != -signal.SIGKILL:
            return


if __name__ == "__main__":
    main()
