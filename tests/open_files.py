"""What this process has open."""

import contextlib
import sys
from pathlib import Path


def open_files_in(folder: Path) -> list[str]:
    """What this process has open in a folder, deleted files too; where that can't be looked up, nothing."""
    found: list[str] = []
    for each in Path("/proc/self/fd").iterdir() if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # the descriptor of the list itself
            found.append(str(each.readlink()))
    return [path for path in found if path.startswith(str(folder))]
