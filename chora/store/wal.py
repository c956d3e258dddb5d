"""What is in the WAL of a database that SQLite would ignore."""

from __future__ import annotations

import sys
from array import array
from pathlib import Path
from typing import Literal

from chora.nofollow import open_file

WAL_MAGIC, WAL_HEADER_LENGTH, FRAME_HEADER_LENGTH = 0x377F0682, 32, 24
"""The first bytes of a WAL, and the lengths of its header and of that of a frame (sqlite.org/fileformat2.html, 4.1)."""


def count_lost_pages(path: Path) -> int:
    """Count the pages in a WAL that follow a damaged frame; SQLite ignores them."""
    log = path.with_name(f"{path.name}-wal")
    try:
        with open(open_file(log), "rb") as file:
            head = file.read(WAL_HEADER_LENGTH)
            if len(head) < WAL_HEADER_LENGTH or int.from_bytes(head[:4], "big") & ~1 != WAL_MAGIC:
                return 0
            order: Literal["big", "little"] = "big" if head[3] & 1 else "little"
            size, salt = int.from_bytes(head[8:12], "big"), head[16:24]
            sums, is_sound, lost = _checksum(head[:24], order, (0, 0)), True, 0
            while (
                len(frame := file.read(FRAME_HEADER_LENGTH + size)) == FRAME_HEADER_LENGTH + size
                and frame[8:16] == salt
            ):
                sums = _checksum(frame[:8] + frame[FRAME_HEADER_LENGTH:], order, sums)
                is_sound = is_sound and frame[16:24] == b"".join(each.to_bytes(4, "big") for each in sums)
                lost += not is_sound
    except OSError:
        return 0
    return max(0, lost - 1)  # the first of them may be an incomplete write


def _checksum(data: bytes, order: Literal["big", "little"], sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's cumulative WAL checksum (sqlite.org/fileformat2.html, 4.2)."""
    words = array("I", data)
    if order != sys.byteorder:
        words.byteswap()
    one, two = sums
    for place in range(0, len(words), 2):
        one = (one + words[place] + two) & 0xFFFFFFFF
        two = (two + words[place + 1] + one) & 0xFFFFFFFF
    return one, two
