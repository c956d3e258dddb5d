"""How the last test of each draft ended, so that what failed isn't saved by mistake."""

from __future__ import annotations

from msgspec import Struct

from chora.engine.engine import Engine
from chora.engine.traces import TraceKey
from chora.errors import SaveFailed
from chora.hashing import digest_of
from chora.store import Draft


class TestTrace(Struct, frozen=True):
    """How the last test of a draft, as it is now, ended."""

    __test__ = False  # keeps pytest from collecting it

    failure: str = ""
    """Why it failed; empty if it didn't."""


def remember_test(engine: Engine, draft: Draft, failure: str) -> None:
    """Remember how a test ended; an empty failure is none."""
    engine.traces.add_trace(_key_of(draft), {}, TestTrace(failure))


def check_last_test(engine: Engine, draft: Draft) -> None:
    """Refuse to save what failed its last test.

    Raises:
        SaveFailed: it failed.
    """
    known = engine.traces.find_trace(_key_of(draft), TestTrace)
    if known is not None and known.result.failure:
        raise SaveFailed(
            f"{draft.draft_id} wasn't saved, because its last test failed: {known.result.failure}",
            "Fix it with modify_config, or pass the context that it needs, and call test_config again; "
            "force: true saves it as it is.",
            draft_id=draft.draft_id,
            test_failure=known.result.failure,
        )


def _key_of(draft: Draft) -> TraceKey:
    """Where the last test of a draft is kept; a draft that was changed since was never tested."""
    return TraceKey(f"test:{draft.draft_id}", digest_of([draft.config_type, draft.config_data]))
