"""The skip rule: when the result of an earlier build still stands.

First by trace: the same config, context and settings, and every input that the earlier build read has the same digest.
That reads nothing but file times. Then by fingerprint: the inputs were gathered again and come to the same, so the
stored version is the one that would be made. `force` passes over both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import msgspec

from chora.engine.building.build import Build
from chora.engine.building.key_parts import PLACE_CHANGED
from chora.engine.inputs import UNFINISHED, InputChange, InputRecorder
from chora.engine.traces import KnownTrace, TraceKey
from chora.store.records import Version
from chora.store.store import Store

R = TypeVar("R", bound=msgspec.Struct)


async def recall_trace(build: Build, key: TraceKey, result_type: type[R]) -> KnownTrace[R] | None:
    """The trace under a key, if nothing that it read has changed."""
    known = build.engine.traces.find_trace(key, result_type)
    if known is None or await build.snapshot.find_changes(known.inputs, first=True):
        return None
    return known


def recall_version(store: Store, content_id: str, fingerprint: str) -> Version | None:
    """The stored version with a fingerprint."""
    return store.version_with_fingerprint(content_id, fingerprint)


def confirm_inputs(build: Build, recorder: InputRecorder) -> None:
    """Let no later build recall a part whose files were written while it read them."""
    recorder.reproducible = recorder.reproducible and build.snapshot.still_current(recorder.inputs)


def keep_trace(build: Build, key: TraceKey, recorder: InputRecorder, result: msgspec.Struct) -> None:
    """Let later builds recall a result, if it would come out the same as long as its inputs do; else let them know what
    it was made from, so that they don't compare with a build before it."""
    inputs = recorder.inputs if recorder.reproducible else {UNFINISHED: "", **recorder.inputs}
    build.engine.traces.add_trace(key, inputs, result)


async def explain_stale(
    build: Build, key: TraceKey, result_type: type[R], name_changes: Callable[[R], list[str]]
) -> list[str] | None:
    """Why the result under a key doesn't stand, empty if it does; None if it was never built.

    Args:
        build, key, result_type: the result.
        name_changes: names what differs between the key of another result and this one.
    """
    traces = build.engine.traces
    known = traces.find_trace(key, result_type)
    if known is not None:
        return [change.reason for change in await _find_changes(build, known)]
    recent = traces.recent_traces(key.subject, result_type)
    if not recent:
        return None
    # An artifact may be a member in several places: the build that is most like this one is the earlier one.
    differences = [(name_changes(known.result), known) for known in recent]
    _, latest = min(differences, key=lambda each: (PLACE_CHANGED in each[0], len(each[0]) or math.inf))
    changes = await _find_changes(build, latest)
    named = name_changes(latest.result) or ["the context, the location or a setting has changed, or chora was updated"]
    return [*named, *(change.reason for change in changes)]


async def _find_changes(build: Build, known: KnownTrace[R]) -> list[InputChange]:
    through: dict[str, str] = getattr(known.result, "through", {})
    return await build.snapshot.find_changes(known.inputs, through)
