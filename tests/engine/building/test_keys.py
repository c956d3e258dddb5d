"""The keys of traces are equal for equal calls only."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from chora.config_parsing import parse_config
from chora.engine.building.build import CallerContext
from chora.engine.building.collection import scope_digest
from chora.engine.building.members import CollectionScope, MemberBuilder
from chora.engine.traces import TraceKey
from chora.hashing import digest_of
from chora.model import Member

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=3), plain, max_size=3)
names = st.dictionaries(st.sampled_from(["artifact_id", "member_id", "collection_id"]), st.text(max_size=4), max_size=3)


def same(one: Any, other: Any) -> bool:
    """Whether both are equal as JSON, whatever the order of keys; unlike Python it distinguishes 1, true and 1.0."""

    def sort(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: sort(value[key]) for key in sorted(value)}
        return [sort(each) for each in value] if isinstance(value, list | tuple) else value

    return msgspec.json.encode(sort(one)) == msgspec.json.encode(sort(other))


def shuffled(value: Any) -> Any:
    """The same data with its keys in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(value)}
    return [shuffled(each) for each in value] if isinstance(value, list) else value


@given(plain, plain)
def test_only_equal_data_has_the_same_digest(one: Any, other: Any):
    """The order of keys doesn't matter; every other difference does."""
    assert digest_of(one) == digest_of(shuffled(one))
    assert (digest_of(one) == digest_of(other)) == same(one, other)


@given(objects, names, objects, names)
def test_only_equal_contexts_have_the_same_key(
    context: dict[str, Any], reserved: dict[str, str], other: dict[str, Any], others: dict[str, str]
):
    """The member's names are part of the key, but apart from the context."""
    one, two = CallerContext(context, reserved), CallerContext(other, others)
    assert one.digest == one.digest == CallerContext(shuffled(context), shuffled(reserved)).digest
    assert (one.digest == two.digest) == same([context, reserved], [other, others])
    assert one.all_names == {**reserved, **context}


@given(objects, st.lists(names.filter(bool), max_size=3), objects, st.lists(names.filter(bool), max_size=3))
def test_nested_collections_have_keys_of_their_own(
    context: dict[str, Any], inside: list[dict[str, str]], other: dict[str, Any], insides: list[dict[str, str]]
):
    """Made of all contexts around them; the inner name wins over the outer one."""

    def within(context: dict[str, Any], inside: list[dict[str, str]]) -> CallerContext:
        given = CallerContext(context)
        for reserved in inside:
            given = given.with_reserved(**reserved)
        return given

    one, two = within(context, inside), within(other, insides)
    if one.digest == two.digest:
        assert same([context, inside], [other, insides])
        assert one.reserved == two.reserved
    if same([context, inside], [other, insides]):
        assert one.digest == two.digest
    assert one.reserved == {name: value for each in inside for name, value in each.items()}


member_ids = st.from_regex(r"[a-z0-9][a-z0-9-]{0,3}", fullmatch=True)
paths = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=5)
collections = st.fixed_dictionaries(
    {
        "id": st.sampled_from(["pack", "pack-2"]),
        "name": st.sampled_from(["Pack", "pack"]),
        "member": member_ids,
        "path": paths,
        "type": st.sampled_from(["artifact", "collection"]),
        "propagation": st.sampled_from(["merge", "override", "isolate"]),
        "structure": st.sampled_from(["nested", "flat", "custom"]),
        "base": st.sampled_from(["outputs", "outputs/pack"]),
        "own": objects,
        "shared": objects,
        "given": objects,
    }
)


def member_key(parts: dict[str, Any]) -> TraceKey:
    """The key of a member's trace."""
    own = {parts["member"]: parts["own"]} if parts["own"] else {}
    document = {
        "type": "collection",
        "id": parts["id"],
        "name": parts["name"],
        "members": [{"id": parts["member"], "type": parts["type"], "path": parts["path"]}],
        "context": {"propagation": parts["propagation"], "overrides": own},
        "output": {"base_path": parts["base"], "structure": parts["structure"]},
    }
    parsed = parse_config("collection", document, where="configs/collection/pack.json")
    config_ = parsed.config
    digest = scope_digest("salt", config_, parts["base"], parts["shared"], parts["given"])
    scope = CollectionScope(parsed, parts["base"], parts["shared"], digest, parts["given"], [])
    (member,) = config_.members
    assert isinstance(member, Member)
    build: Any = Stub()
    return MemberBuilder(build, scope, frozenset(), {}).trace_key(member)


class Stub:
    """As much of a build as a key needs."""

    engine = None
    force = False


@given(collections, st.data())
def test_members_that_differ_in_anything_have_different_keys(parts: dict[str, Any], data: st.DataObject):
    """In the collection, the path, or the context of any origin; equal members have the same key."""
    assert member_key(parts) == member_key(shuffled(parts))
    changed = data.draw(st.sampled_from(sorted(parts)))
    other = {**parts, changed: data.draw(collections)[changed]}
    assert (member_key(parts) == member_key(other)) == same(parts, other)
