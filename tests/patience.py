"""How long tests wait for what has to happen."""

PATIENCE = 120.0
"""Seconds to wait for something that takes a few at most: ten times as long as it takes on a very busy machine.

Only a test that fails waits this long. What must *not* happen, or must happen soon, is tried with trio's fake clock.
"""
