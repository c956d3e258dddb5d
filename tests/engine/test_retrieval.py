"""Which stored texts a strategy selects: by age, version, time and approval."""

from __future__ import annotations

import pytest

from chora.engine import retrieval
from chora.engine.engine import Engine
from chora.engine.retrieval import STRATEGIES, find_version_ids, find_version_infos, find_versions
from chora.errors import InvalidInput, LimitExceeded
from chora.store import Version
from tests.conftest import requirement


async def store(engine: Engine, body: str, at: str, *, version: str = "1.0.0", approved: bool = False) -> str:
    kept = await engine.store.add_version(
        Version(
            content_id="note",
            body=body,
            sha256="sha256:x",
            fingerprint=f"sha256:{body}",
            generator="demonstration",
            generator_version="1.0.0",
            generated_at=at,
            config_version=version,
            approved=approved,
        )
    )
    return kept.version_id


@pytest.fixture
async def stored(engine: Engine) -> dict[str, str]:
    """The ids of four texts of `note`, the third of them deleted, by name."""
    ids = {
        "one": await store(engine, "one", "2026-01-10T08:00:00.000Z", approved=True),
        "two": await store(engine, "two", "2026-01-11T08:00:00.000Z", version="2.0.0"),
        "gone": await store(engine, "gone", "2026-01-11T09:00:00.000Z", version="2.0.0", approved=True),
        "three": await store(engine, "three", "2026-02-01T08:00:00.000Z", version="1.0.0"),
    }
    await engine.store.delete_versions([ids["gone"]], keep_metadata=True)
    return ids


@requirement("storage.retrieval", "assembly.retrieval")
@pytest.mark.parametrize(
    ("strategy", "names"),
    [
        ("latest", ["three"]),
        ("all", ["one", "two", "three"]),
        ("version:1.0.0", ["three"]),
        ("version:2.0.0", ["two"]),
        ("version:3.0.0", []),
        ("timestamp:2026-01", ["two"]),
        ("timestamp:2026-01-11", ["two"]),
        ("timestamp:2026-01-11T08:00:00.000Z", ["two"]),
        ("timestamp:2027", []),
        ("approved_only", ["one"]),
    ],
)
async def test_a_strategy_selects_texts(engine: Engine, stored: dict[str, str], strategy: str, names: list[str]):
    """The newest that fits, or all, oldest first; never a deleted one; by body or by metadata gives the same."""
    assert [version.body for version in find_versions(engine.store, "note", strategy)] == names
    assert find_version_ids(engine.store, "note", strategy) == [stored[name] for name in names]
    assert [info.version_id for info in find_version_infos(engine.store, "note", strategy)] == [
        stored[name] for name in names
    ]


async def test_a_timestamp_may_be_a_version_id(engine: Engine, stored: dict[str, str]):
    """Or its beginning, as in file names and URIs."""
    assert [version.body for version in find_versions(engine.store, "note", f"timestamp:{stored['two']}")] == ["two"]
    shared = stored["two"][:8]
    expected = [name for name in ("one", "two", "three") if stored[name].startswith(shared)][-1:]
    assert [version.body for version in find_versions(engine.store, "note", f"timestamp:{shared}")] == expected


@pytest.mark.parametrize(
    "strategy", ["newest", "", "version", "version:", "timestamp:", "latest:1", "all:x", "approved_only:yes", ":1"]
)
async def test_an_unknown_strategy_is_refused(engine: Engine, strategy: str):
    """The hint lists the known ones."""
    for ask in (find_version_infos, find_version_ids, find_versions):
        with pytest.raises(InvalidInput) as refused:
            ask(engine.store, "note", strategy)
        assert refused.value.details["received"] == strategy
        assert all(known in (refused.value.hint or "") for known in STRATEGIES)


@pytest.mark.parametrize("strategy", ["latest", "all", "version:1.0.0", "timestamp:2026", "approved_only"])
async def test_an_unknown_content_has_no_texts(engine: Engine, strategy: str):
    """That isn't an error here; the caller decides."""
    assert find_versions(engine.store, "nothing", strategy) == []
    assert find_version_ids(engine.store, "nothing", strategy) == []


async def test_all_takes_a_limited_number_of_texts(
    engine: Engine, stored: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    """Beyond it, it is refused with what to do; the others still find theirs."""
    monkeypatch.setattr(retrieval, "ALL_LIMIT", 2)
    with pytest.raises(LimitExceeded, match="note has 3 stored texts"):
        find_versions(engine.store, "note", "all")
    assert find_version_ids(engine.store, "note", "latest") == [stored["three"]]
