"""The manifest of a collection: where it is, what it says, reading and writing it."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import msgspec
from msgspec import Struct

from chora.engine.building.build import Build
from chora.engine.building.members import BuiltCollection, CollectionScope, MemberError
from chora.engine.engine import Engine
from chora.engine.traces import TraceKey
from chora.errors import (
    ChoraError,
    LimitExceeded,
    ManifestNotFound,
    OutputEdited,
    PermissionDenied,
    WriteFailed,
    io_details,
)
from chora.events import redact_secrets
from chora.hashing import digest_of, sha256
from chora.model import CollectionConfig
from chora.nesting import decode_json
from chora.timestamps import now

MANIFEST = "manifest.json"
MANIFEST_LIMIT = 64_000_000
"""Bytes of the largest manifest that is read."""
CANCELLED = "cancelled"

_FIXED_NAME = re.compile(r"\{\{-?\s*(collection_id|collection_name)\s*-?\}\}")


class ManifestMember(Struct, frozen=True):
    """What a manifest says of a member, as far as it is read again."""

    id: str
    status: str = ""
    output_path: str | None = None
    generated_at: str | None = None


class Manifest(Struct, frozen=True):
    """A manifest, as far as it is read again."""

    collection_id: str
    members: list[ManifestMember]
    generated_at: str | None = None


class ManifestTrace(Struct, frozen=True):
    """What a trace keeps of a written manifest."""

    members_digest: str


def manifest_path(base_path: str) -> str:
    """Where the manifest of a collection with a base path is."""
    return str(PurePosixPath(base_path) / MANIFEST)


def fixed_manifest_path(engine: Engine, config: CollectionConfig) -> str | None:
    """Where a collection's manifest is, project-relative; None if that depends on the context of a build.

    Raises:
        PermissionDenied: that is outside the project.
    """
    names = {"collection_id": config.id, "collection_name": config.name}
    base_path = _FIXED_NAME.sub(lambda place: names[place[1]], config.output.base_path)
    return None if "{" in base_path else engine.folder.relative(f"{base_path}/{MANIFEST}")


def read_manifest(engine: Engine, config: CollectionConfig, path: str) -> Manifest:
    """The manifest of a collection at a path.

    Raises:
        ManifestNotFound: there is none, it can't be read, or it is another collection's.
    """
    problem = "it was never generated there"
    try:
        manifest = _decode_manifest(engine, path)
        if manifest.collection_id == config.id:
            return _with_member_times(manifest)
        problem = "the file there is not its manifest"
    except FileNotFoundError:
        pass
    except (ChoraError, OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        problem = f"the file there can't be read: {str(error).rstrip('.')}"
    raise ManifestNotFound(
        f"{config.id} has no manifest at {path}: {problem}.",
        "Build it with generate_collection.",
        collection_id=config.id,
        manifest_path=path,
    )


def _with_member_times(manifest: Manifest) -> Manifest:
    """The manifest, with its own time for members if none has one: chora-compose wrote no others."""
    if manifest.generated_at is None or any(member.generated_at for member in manifest.members):
        return manifest
    dated = [
        msgspec.structs.replace(member, generated_at=manifest.generated_at) if member.status == "success" else member
        for member in manifest.members
    ]
    return msgspec.structs.replace(manifest, members=dated)


def check_replaceable(build: Build, scope: CollectionScope) -> None:
    """Check that writing the manifest would replace nothing but a manifest.

    Raises:
        OutputEdited: there is a file that chora didn't write.
    """
    path, traces = manifest_path(scope.base_path), build.engine.traces
    key = _trace_key(scope)
    known = traces.find_trace(key, ManifestTrace)
    if known is not None and known.inputs.get(path) == build.snapshot.digest(path):
        return
    try:
        existing = _decode_manifest(build.engine, path)
    except FileNotFoundError:
        return
    except (msgspec.MsgspecError, UnicodeDecodeError, PermissionDenied, LimitExceeded):
        known = traces.latest_trace(key.subject, ManifestTrace)
        if known is not None and path in known.inputs:
            return  # chora wrote it, and it was damaged since
        raise OutputEdited(
            f"{path} exists and was not written by chora; it is left as it is, and nothing was built.",
            "Move the file away, choose another output.base_path, or write no manifest: output.manifest false.",
            output_path=path,
            collection_id=scope.config.id,
        ) from None
    if existing.collection_id != scope.config.id:
        scope.warnings.append(f"{path} was the manifest of the collection {existing.collection_id} before")


async def write_manifest(
    build: Build, scope: CollectionScope, built: BuiltCollection, ended_by: MemberError | None
) -> None:
    """Write the manifest, unless what it says of the members is unchanged.

    Raises:
        WriteFailed: the disk refused.
    """
    engine, path = build.engine, manifest_path(scope.base_path)
    members_digest = digest_of(
        [[each.member.id, each.status, each.outputs, each.context_hash, each.cache_used] for each in built.members]
    )
    key = _trace_key(scope)
    known = engine.traces.find_trace(key, ManifestTrace)
    if (
        known is not None
        and built.cached == len(built.members)
        and known.result.members_digest == members_digest
        and build.snapshot.digest(path) == known.inputs.get(path)
    ):
        return
    built = _with_earlier_times(engine, built, path)
    document = manifest_document(built, scope, ended_by)
    data = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    try:
        await engine.folder.write_file(path, data)
    except OSError as error:
        raise WriteFailed(
            f"The manifest {path} couldn't be written: {error.strerror}.",
            "Check disk space and permissions, then call again; what was built isn't built a second time.",
            **io_details(error, output_path=path),
        ) from error
    build.snapshot.forget_file(path)
    engine.traces.add_trace(key, {path: sha256(data)}, ManifestTrace(members_digest))
    engine.changes.publish(f"manifest://{scope.config.id}")


def _with_earlier_times(engine: Engine, built: BuiltCollection, path: str) -> BuiltCollection:
    """The result in which a member that failed, or wasn't built, has the age of the files that it still has."""
    if all(each.generated_at for each in built.members):
        return built
    try:
        before = {member.id: member for member in read_manifest(engine, built.config, path).members}
    except ManifestNotFound:
        return built
    members = [
        each._replace(generated_at=before[each.member.id].generated_at)
        if each.generated_at is None and each.member.id in before
        else each
        for each in built.members
    ]
    return built._replace(members=members)


def manifest_document(
    built: BuiltCollection, scope: CollectionScope, ended_by: MemberError | None = None
) -> dict[str, Any]:
    """The manifest as it is written; secrets in the shared context are redacted."""
    config, members = built.config, built.members
    hits, total = built.cached, len(members)
    if ended_by:
        status = CANCELLED if ended_by.code == CANCELLED else "failed"
    else:
        status = "failed" if built.count("failed") else "complete"
    return {
        "collection_id": config.id,
        "collection_name": config.name,
        "status": status,
        "generated_at": now(),
        "generation_time_seconds": round(built.seconds, 3),
        "total_members": total,
        "successful_members": built.count("success"),
        "failed_members": built.count("failed"),
        "members": [
            {
                "id": each.member.id,
                "type": each.member.type,
                "status": each.status,
                "output_path": each.outputs[0] if each.outputs else None,
                "outputs": each.outputs,
                "generated_at": each.generated_at,
                "generation_time_seconds": round(each.seconds, 3),
                "cache_used": each.cache_used,
                "context_hash": each.context_hash,
                "error": each.error.as_dict() if each.error else None,
            }
            for each in members
        ],
        "context": {"shared": redact_secrets(scope.shared), "propagation_mode": config.context.propagation},
        "validation": {
            "passed": all(rule.passed for rule in built.rules if rule.required),
            "rules_evaluated": len(built.rules),
        },
        "cache_stats": {
            "total_members": total,
            "cache_hits": hits,
            "cache_misses": total - hits,
            "cache_hit_rate": round(hits / total, 4),
        },
    }


def _trace_key(scope: CollectionScope) -> TraceKey:
    return TraceKey(f"manifest:{scope.parsed.origin}", scope.digest)


def _decode_manifest(engine: Engine, path: str) -> Manifest:
    return decode_json(engine.folder.read_bytes(path, limit=MANIFEST_LIMIT), Manifest)
