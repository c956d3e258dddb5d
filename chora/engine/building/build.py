"""One build: the options of a call, and what all of its parts share."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec

from chora import llm
from chora.engine.building.fingerprint import settings_parts
from chora.engine.building.source_texts import SourceTexts
from chora.engine.engine import Engine
from chora.engine.inputs import InputRecorder
from chora.engine.orphans import OutputWriter
from chora.hashing import digest_of
from chora.protocol.types import Progress

_encode = msgspec.json.Encoder(order="deterministic").encode


class Build:
    """What the parts of one call's build share.

    Args:
        engine: the project.
        force: generate every text again, changed or not.
        dry: generate in memory and store nothing.
        spend: ask language models, within the budgets; otherwise only what they answered before is used.
        progress: notified of the progress.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        force: bool = False,
        dry: bool = False,
        spend: bool | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.engine = engine
        self.force = force
        self.dry = dry
        self.spend = not dry if spend is None else spend
        self.progress = progress
        parts = settings_parts(engine)
        self.settings_digest = digest_of(list(parts.values()))
        """Part of the key of every trace."""
        self._known_digests: dict[int, tuple[Any, str]] = {}
        self.settings_digests = {name: self.short_digest(value) for name, value in parts.items()}
        """The same by setting, to name the one that has changed."""
        self.snapshot = engine.new_snapshot()
        self.budget = engine.budgets.open_budget()
        self.source_texts = SourceTexts()
        self.writer: OutputWriter | None = None
        """The member of a collection that is being built."""
        self.claimed: set[str] = set()
        """The files that members of collections write in this build, whether they have to be written or not."""
        self.made: set[str] = set()
        """Fingerprints of the texts that this build made: `force` makes each of them again, but only once."""

    def derive(self, *, force: bool, member: str) -> Build:
        """The part of this build for a member, which reports no progress; what was read and made is shared."""
        part = copy.copy(self)
        part.force, part.progress = self.force or force, None
        if self.writer is not None:
            part.writer = msgspec.structs.replace(self.writer, members=(*self.writer.members, member))
        return part

    def for_collection(self, collection_id: str, base: str, *, is_given: bool) -> Build:
        """This build, with the collection that it is for as the writer of the outputs, unless one contains it."""
        if self.writer is not None:
            return self
        part = copy.copy(self)
        part.writer = OutputWriter("collection", collection_id, base, (), is_given)
        return part

    def short_digest(self, value: Any) -> str:
        """A hash of plain data, long enough to notice a change; that of shared objects is computed once."""
        identity = id(value)
        known = self._known_digests.get(identity)
        if known is not None:
            return known[1]
        digest = hashlib.sha256(_encode(value)).hexdigest()[:12]
        if isinstance(value, dict | list):
            self._known_digests[identity] = value, digest  # the object is kept, so that its id stays its own
        return digest

    def new_recorder(self) -> InputRecorder:
        """A recorder for what one part of this build reads."""
        return InputRecorder(self.snapshot.digest, self.engine.folder.root)

    def model_for(self, content_id: str) -> Callable[[llm.ModelRequest], Awaitable[llm.ModelReply]]:
        """How a content asks a language model: within the budgets, or only for answers that are known already."""
        if self.spend:
            return partial(self.budget.complete_request, content_id, fresh=self.force)
        return self.budget.recall_reply


class CallerContext:
    """The context that the caller gives.

    Args:
        context: overrides everything in a config.
        reserved: names such as `collection_id` that apply where nothing else has them.
        digest: a hash of both, if it is known already.
        shared: the names that a collection's shared context gives.
    """

    __slots__ = ("_digest", "context", "reserved", "shared")

    def __init__(
        self,
        context: dict[str, Any],
        reserved: dict[str, str] | None = None,
        digest: str | None = None,
        shared: frozenset[str] = frozenset(),
    ) -> None:
        self.context = context
        self.reserved = reserved or {}
        self.shared = shared
        self._digest = digest

    @property
    def digest(self) -> str:
        if self._digest is None:
            self._digest = digest_of([self.context, self.reserved])
        return self._digest

    def with_reserved(self, **reserved: str) -> CallerContext:
        """The same with more reserved names."""
        digest = digest_of([self.digest, reserved])
        return CallerContext(self.context, {**self.reserved, **reserved}, digest, self.shared)

    @property
    def all_names(self) -> dict[str, Any]:
        """Reserved names and context together, for expressions."""
        return {**self.reserved, **self.context}
