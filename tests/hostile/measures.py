"""What every hostile case has to leave as it was: memory, descriptors, processes, files and the time it may take."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.conftest import Asking, Project, content

MIB = 1024 * 1024

linux = pytest.mark.skipif(sys.platform != "linux", reason="measures itself in /proc, and needs links and pipes")

SETTINGS = f"[render]\nworkers = 1\nwall = 0.5\nmemory = {128 * MIB}\noutput = {MIB}\n"
"""One worker, so that a descriptor too many shows, and little patience, so that bombs end soon."""

GOOD = content("good", pattern={"type": "jinja2", "template": "Hello {{ name | default('you') }}\n"})


def prepare(project: Project) -> Project:
    """Give a project the settings above and a content that works."""
    project.write("chora.toml", SETTINGS)
    project.save(GOOD)
    return project


async def is_well(ask: Asking) -> None:
    """The next good call works, and is really made anew."""
    made = await ask("generate_content", content_config_id="good", force=True)
    assert made["content"].startswith("Hello you"), made


@contextlib.contextmanager
def bounded(
    project: Project, process: int = 0, *, seconds: float = 5, memory: int = 48 * MIB, written: int = MIB
) -> Generator[None]:
    """What happens inside takes no more than this, in a process (our own when 0) and on disk.

    Memory is the highest point above where it began, of the process itself; its children are workers, each bounded by
    the kernel, of which none may be left beyond those that were there.
    """
    process = process or os.getpid()
    _forget_peak(process)
    peak, opened, children, disk = _peak(process), _descriptors(process), _children(process), _disk(project.root)
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < seconds, f"took {took:.1f} s"
    assert _peak(process) - peak < memory, f"took {(_peak(process) - peak) // MIB} MiB"
    assert _descriptors(process) <= opened, "descriptors were left open"
    assert _children(process) <= children, "processes were left"
    assert _disk(project.root) - disk < written, f"wrote {_disk(project.root) - disk} bytes"
    assert not list(project.root.rglob("*.tmp")), "temporary files were left"


def _forget_peak(process: int) -> None:
    """Have the kernel count the peak from now on; where it refuses, the old peak only makes this less strict."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{process}/clear_refs").write_text("5")


def _peak(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _descriptors(process: int) -> int:
    return len(list(Path(f"/proc/{process}/fd").iterdir()))


def _children(process: int) -> int:
    """How many processes stand below this one, by every thread that started one."""
    count = 0
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            below = (task / "children").read_text().split()
            count += len(below) + sum(_children(int(child)) for child in below)
    return count


def _disk(root: Path) -> int:
    """Bytes that the files of a project really occupy."""
    return sum(path.lstat().st_blocks * 512 for path in root.rglob("*"))
