"""Files that hold nothing usable, in the place of one that is read."""

import os
import sys
from pathlib import Path

import pytest

CONTENTS = {"empty": b" \n", "not UTF-8": b"\xff", "not PEM": b"not PEM"}


def put_odd_file(path: Path, fault: str, *, limit: int = 0) -> None:
    """Put something in the place of a file.

    Args:
        path: the place; what was there is removed.
        fault: `missing`, `a folder`, `a pipe`, `a device`, `a link to itself`, `a link to nothing`, `too large`, or one
            of `CONTENTS`.
        limit: the most bytes that the file may have, of which it gets one more if it is `too large`.
    """
    path.unlink(missing_ok=True)
    if sys.platform == "win32" and fault in ("a pipe", "a device", "a link to itself", "a link to nothing"):
        pytest.skip(f"Windows has no such thing as {fault}")
    match fault:
        case "missing":
            pass
        case "a folder":
            path.mkdir()
        case "a pipe":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "a link to itself":
            path.symlink_to(path)
        case "a link to nothing":
            path.symlink_to(path.with_name("nothing"))
        case "too large":
            path.write_bytes(b"x" * (limit + 1))
        case _:
            path.write_bytes(CONTENTS[fault])
