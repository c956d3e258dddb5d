"""The tool that generates many contents at once."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from chora.concurrency import for_each_bounded
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.content import build_content
from chora.engine.building.context import deep_merge
from chora.engine.engine import Engine
from chora.errors import BatchFailed, ChoraError, InvalidContext, InvalidInput
from chora.leniency import is_unset
from chora.protocol.types import Call
from chora.tools.tool import Context, ToolArguments, ToolResult, milliseconds_since, parse_context, parse_object, tool
from chora.wording import quantity

CONTENTS_LIMIT = 50
"""Contents in one batch."""
CONCURRENCY, CONCURRENCY_LIMIT = 4, 10
"""How many are generated at once, unless asked otherwise, and at most."""


class BatchGenerate(ToolArguments):
    content_ids: Annotated[list[str], Meta(description="Ids of content configs, at most 50")]
    shared_context: Context = None
    individual_contexts: (
        Annotated[
            Any,
            Meta(
                description="Content id to its own context, which wins over the shared one",
                extra_json_schema={"type": "object"},
            ),
        ]
        | None
    ) = None
    force: Annotated[bool, Meta(description="Generate them again even if nothing changed")] | None = False
    continue_on_error: Annotated[bool, Meta(description="False starts no further content after a failure")] | None = (
        True
    )
    max_parallel: Annotated[int, Meta(description="How many are generated at once, 1 to 10")] | None = CONCURRENCY


class BatchItemError(Struct, frozen=True):
    code: str
    message: str
    hint: str | None = None


class BatchItem(Struct, frozen=True, kw_only=True):
    content_id: str
    success: bool
    status: Literal["generated", "skipped", "failed"]
    error: BatchItemError | None
    version_id: str | None = None
    duration_ms: int = 0


class BatchError(Struct, frozen=True, kw_only=True):
    content_id: str
    code: str
    message: str


class BatchMetadata(Struct, frozen=True, kw_only=True):
    parallel_executions: int
    parallel_efficiency: float


class Batch(ToolResult):
    status: Literal["batch_complete", "batch_partial"]
    total: int
    successful: int
    generated: int
    failed: int
    skipped: int
    results: list[BatchItem]
    errors: list[BatchError]
    duration_ms: int
    metadata: BatchMetadata


@tool(
    title="Generate many contents",
    category="Core generation",
    idempotent=True,
    long=True,
    limits={"contents": CONTENTS_LIMIT, "at_once": CONCURRENCY},
)
async def batch_generate(engine: Engine, arguments: BatchGenerate, call: Call) -> Batch:
    """Generate and store up to 50 contents, several at once. A failure is reported in the result of its content; the
    texts are read from content://ID.
    """
    started = time.monotonic()
    ids, contexts, concurrency = _check_arguments(arguments)
    results: dict[str, BatchItem] = {}
    build = Build(engine, force=bool(arguments.force))
    stopping = False

    async def generate_item(content_id: str) -> None:
        nonlocal stopping
        results[content_id] = await _generate_item(build, content_id, contexts[content_id])
        if not results[content_id].success and arguments.continue_on_error is False:
            stopping = True
        if call.progress:
            await call.progress(len(results), len(ids), f"{content_id}: {results[content_id].status}")

    for content_id in await for_each_bounded(ids, generate_item, limit=concurrency, should_stop=lambda: stopping):
        fault = BatchItemError("not_run", "It wasn't started, because another content had failed.")
        results[content_id] = BatchItem(content_id=content_id, success=False, status="failed", error=fault)
    items = [results[content_id] for content_id in ids]
    elapsed = time.monotonic() - started
    failed = [item for item in items if item.error is not None]
    if len(failed) == len(items):
        first = failed[0].error
        assert first is not None
        raise BatchFailed(
            f"None of {quantity(len(items), 'content')} could be generated; the first failure: {first.message}",
            first.hint or "The details say why each of them failed.",
            total=len(items),
            failed=len(items),
            results=items,
            errors=[_batch_error(item) for item in failed],
        )
    return Batch(
        status="batch_partial" if failed else "batch_complete",
        total=len(items),
        successful=len(items) - len(failed),
        generated=sum(item.status == "generated" for item in items),
        failed=len(failed),
        skipped=sum(item.status == "skipped" for item in items),
        results=items,
        errors=[_batch_error(item) for item in failed],
        duration_ms=milliseconds_since(started),
        metadata=BatchMetadata(
            parallel_executions=min(concurrency, len(ids)),
            parallel_efficiency=round(sum(item.duration_ms for item in items) / 1000 / max(elapsed, 0.001), 2),
        ),
    )


def _check_arguments(arguments: BatchGenerate) -> tuple[list[str], dict[str, CallerContext], int]:
    """The distinct ids in order, the context of each, and how many run at once.

    Raises:
        InvalidInput, InvalidContext: an argument is out of bounds or of another type.
    """
    ids = list(dict.fromkeys(arguments.content_ids))
    if not 0 < len(ids) <= CONTENTS_LIMIT:
        raise InvalidInput(
            f"content_ids has {quantity(len(ids), 'id')}; 1 to {CONTENTS_LIMIT} are allowed.",
            "list_content_configs names them; make several calls for more.",
            field="content_ids",
            received=len(ids),
            constraint=f"1 to {CONTENTS_LIMIT}",
        )
    concurrency = arguments.max_parallel or CONCURRENCY  # a form sends 0 for an empty field
    if not 1 <= concurrency <= CONCURRENCY_LIMIT:
        raise InvalidInput(
            f"max_parallel is {concurrency}; 1 to {CONCURRENCY_LIMIT} are allowed.",
            "Leave it out for 4.",
            field="max_parallel",
            received=concurrency,
            constraint=f"1 to {CONCURRENCY_LIMIT}",
        )
    shared = parse_context(arguments.shared_context)
    given = arguments.individual_contexts
    individual = {} if is_unset(given) else parse_object(given, "individual_contexts")
    contexts: dict[str, CallerContext] = {}
    for content_id in ids:
        try:
            own = parse_context(individual.get(content_id))
        except InvalidContext as error:
            error.details["content_id"] = content_id
            raise
        contexts[content_id] = CallerContext(deep_merge(shared, own))
    return ids, contexts, concurrency


async def _generate_item(build: Build, content_id: str, caller: CallerContext) -> BatchItem:
    began = time.monotonic()
    try:
        made = await build_content(build, build.engine.catalog.find_config("content", content_id).parsed, caller)
    except ChoraError as error:
        fault = BatchItemError(error.code, error.message, error.next_step)
        return BatchItem(
            content_id=content_id,
            success=False,
            status="failed",
            error=fault,
            duration_ms=milliseconds_since(began),
        )
    return BatchItem(
        content_id=content_id,
        success=True,
        status="skipped" if made.status == "skipped" else "generated",
        error=None,
        version_id=made.version.version_id,
        duration_ms=milliseconds_since(began),
    )


def _batch_error(item: BatchItem) -> BatchError:
    assert item.error is not None
    return BatchError(content_id=item.content_id, code=item.error.code, message=item.error.message)
