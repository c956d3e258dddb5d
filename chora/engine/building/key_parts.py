"""The parts of a trace's key by name, so that what has changed about a build can be named and not only noticed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chora.engine.building.build import Build, CallerContext

CONTEXT, SETTING, PLACE, VERSION = "context ", "setting ", "place", "version"
PLACE_CHANGED = "its files go to another place"
PARTS_LIMIT = 200
"""Names of a context that are told apart; of more, only that some changed is known."""
MOST_SHOWN = 10
"""Changed parts that are named."""


def key_parts(build: Build, caller: CallerContext, paths: Sequence[str]) -> dict[str, str]:
    """What decides a result besides its inputs: a short digest of each part.

    Args:
        build: its settings.
        caller: its context.
        paths: where its files go instead of where the config says.
    """
    parts = {f"{SETTING}{name}": digest for name, digest in build.settings_digests.items()}
    parts[PLACE] = build.short_digest(list(paths))
    names = {**caller.reserved, **caller.context}
    parts.update((f"{CONTEXT}{name}", build.short_digest(names[name])) for name in list(names)[:PARTS_LIMIT])
    return parts


def name_changes(before: Mapping[str, str], now: Mapping[str, str], shared: frozenset[str]) -> list[str]:
    """The parts that differ, in words; empty if none is known to.

    Args:
        before, now: from `key_parts`.
        shared: the names that a shared context gives, which are named as such.
    """
    changes: list[str] = []
    for part in dict.fromkeys([*before, *now]) if before else ():
        if before.get(part) == now.get(part):
            continue
        if part == f"{SETTING}{VERSION}":
            changes.append("chora was updated")
        elif part == PLACE:
            changes.append(PLACE_CHANGED)
        elif part.startswith(SETTING):
            changes.append(f"the setting {part.removeprefix(SETTING)} has changed")
        else:
            name = part.removeprefix(CONTEXT)
            what = "is new" if part not in before else "is gone" if part not in now else "has changed"
            changes.append(f"{'shared ' * (name in shared)}context `{name[:80]}` {what}")
    shown = changes[:MOST_SHOWN]
    return shown if shown == changes else [*shown, f"and {len(changes) - MOST_SHOWN} more"]
