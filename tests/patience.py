"""How long tests wait for what has to happen, and how long what an answer tells may have taken."""

import time

PATIENCE = 120.0
"""Seconds to wait for something that takes a few at most: ten times as long as it takes on a very busy machine.

Only a test that fails waits this long. What must *not* happen, or must happen soon, is tried with trio's fake clock.
"""

_began = time.perf_counter()


def begin_test() -> None:
    """Called before each test."""
    global _began
    _began = time.perf_counter()


def may_have_taken(seconds: float) -> bool:
    """Whether something that this test has caused may have taken so long: not longer than the test has, as yet."""
    return 0 <= seconds <= time.perf_counter() - _began + 0.001
