"""Small disks of their own, which can be filled, and made read-only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A disk that is mounted somewhere."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.root], check=True)

    def fill(self) -> Path:
        """Take every byte that is left; removing the file that is returned gives them back."""
        filler = self.root / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while file.write(b"x" * size) == size:
                        pass
                except OSError:
                    continue
        return filler


@contextmanager
def small_disk(root: Path, size: str) -> Generator[Disk]:
    """Mount a disk of a size, such as `2m`, which only root on Linux can; elsewhere the test is skipped."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a disk that fills up takes root on Linux")
    root.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"a disk that fills up can't be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)
