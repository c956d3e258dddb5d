"""What work reads, by digest: the recorder, the digests, and the traces that make an unchanged build do nothing.

Content hashes decide. A file's times only spare reading it again, and only when the file had been at rest for a
while before it was hashed: a second write within the clock's tick leaves the times as they were.

    Digests   the hashes of files, for as long as the process lives
    Seen      what one piece of work read
    Traces    what earlier work read and what came of it, in memory and in the store
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from chora.catalog import CONFIGS
from chora.errors import ChoraError
from chora.file_stamps import FileStamp
from chora.files import Folder
from chora.generators.templates import ALL
from chora.hashing import sha256
from chora.sources import git_reference
from chora.store.records import Trace
from chora.timestamps import now

if TYPE_CHECKING:
    from chora.engine.engine import Engine
    from chora.store.store import Store

log = logging.getLogger("chora.engine")

ABSENT = "absent"
UNREADABLE = "unreadable"

DIGEST_LIMIT = 64_000_000
"""Bytes of the largest file that anything here reads; the content of a larger one can't matter."""

TRACES_IN_MEMORY = 50_000
SAVE_INTERVAL = 0.2
"""Seconds for which fresh traces are gathered before they are stored; losing them costs a look, not a text."""

# -- files ------------------------------------------------------------------------------------------------------


class FileDigests:
    """The hashes of a project's files."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._prefix = f"{folder.root}{os.sep}"
        self._known: dict[str, tuple[FileStamp, str]] = {}

    def digest_file(self, path: str) -> str:
        """The file's `sha256:…`, or why there is none: `absent` or `unreadable`, which one too large is as well."""
        known = self._known.get(path)
        if known is not None:
            # What nearly every look comes to: the file is as it was, so none of the rest has to be made.
            try:
                status = os.stat(self._prefix + path)  # noqa: PTH116
            except (OSError, ValueError):
                pass
            else:
                size, modified, changed, inode = known[0]
                if (
                    status.st_mtime_ns == modified
                    and status.st_size == size
                    and status.st_ctime_ns == changed
                    and status.st_ino == inode
                ):
                    return known[1]
        stamp = self._stamp(path)
        if isinstance(stamp, str):
            return stamp
        if stamp.size > DIGEST_LIMIT:
            return UNREADABLE
        looked = time.time_ns()
        try:
            digest = sha256(self._folder.read_bytes(path, limit=DIGEST_LIMIT))
        except FileNotFoundError:
            return ABSENT
        except (OSError, ChoraError):
            return UNREADABLE
        if stamp.is_at_rest(looked) and self._stamp(path) == stamp:
            self._known[path] = (stamp, digest)
        return digest

    def stamp_of(self, path: str, digest: str) -> FileStamp | None:
        """The stamp that a digest may be known again by, if the file was at rest when it was taken."""
        known = self._known.get(path)
        return known[0] if known is not None and known[1] == digest else None

    def remember(self, path: str, stamp: FileStamp, digest: str) -> None:
        """What an earlier process found out."""
        self._known.setdefault(path, (stamp, digest))

    def _stamp(self, path: str) -> FileStamp | str:
        try:
            status = os.stat(self._prefix + path)  # noqa: PTH116 (a third of the cost of a Path's)
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        except (OSError, ValueError):
            return UNREADABLE
        if not stat.S_ISREG(status.st_mode):
            return UNREADABLE
        return FileStamp.of(status)


# -- what one piece of work reads -------------------------------------------------------------------------------


class InputRecorder:
    """The inputs of one piece of work and their digests, taken before they were read.

    `settled` turns False when something was left out for a reason that may pass by itself; no trace is kept then.
    """

    __slots__ = ("_digest", "_root", "inputs", "reproducible")

    def __init__(self, digest: Callable[[str], str], root: Path) -> None:
        self._digest = digest
        self._root = root
        self.inputs: dict[str, str] = {}
        self.reproducible = True

    def record(self, name: str) -> None:
        """A path of the project, or a look at everything of a kind."""
        if os.path.isabs(name):  # noqa: PTH117 (a name, which may as well be of a look at everything)
            name = os.path.relpath(name, self._root)
        if name not in self.inputs:
            self.inputs[name] = self._digest(name)

    def record_digest(self, name: str, digest: str) -> None:
        """An input that isn't a file, and its digest."""
        self.inputs[name] = digest

    def record_all(self, inputs: Mapping[str, str]) -> None:
        """What a part of this work read."""
        self.inputs.update(inputs)


class InputChange(NamedTuple):
    """One input that isn't what it was."""

    name: str
    before: str
    now: str

    @property
    def reason(self) -> str:
        """The change in a few words."""
        name = self.name
        if name.startswith(CONFIGS):
            return f"the {name.removeprefix(CONFIGS)} configs are other ones"
        if name.startswith(ALL):
            return "the templates are other ones"
        if name.startswith("git:"):
            name = name.partition("\0")[2]
        elif name.startswith(STORED):
            return f"the stored texts of {name.removeprefix(STORED).partition(':')[0]} are other ones"
        elif name.startswith(GENERATOR):
            return f"the generator {name.removeprefix(GENERATOR)} is another version"
        if self.before == ABSENT:
            return f"{name} is new"
        return f"{name} is gone" if self.now == ABSENT else f"{name} has changed"


STORED = "stored:"
GENERATOR = "generator:"


class DigestSnapshot:
    """The digests of one call: everything is looked at once, so that all of the call agrees about it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[str, str] = {}
        self._stored_names: dict[str, list[str]] = {}
        self._others: dict[str, Callable[[str], Awaitable[str]]] = {"git:": self._git, STORED: self._stored}

    def digest(self, name: str) -> str:
        """The digest of a file, of all configs of a kind, or of all templates."""
        known = self._known.get(name)
        if known is None:
            if name.startswith(CONFIGS):
                kind: Any = name.removeprefix(CONFIGS)
                known = self._engine.catalog.digest(kind)
            elif name == ALL:
                known = self._engine.templates.digest()
            elif name.startswith(GENERATOR):
                known = self._engine.generator_digest(name.removeprefix(GENERATOR))
            else:
                known = self._engine.digests.digest_file(name)
            self._known[name] = known
        return known

    def forget(self, path: str) -> None:
        """A file was written."""
        self._known.pop(path, None)

    def forget_stored(self, content_id: str) -> None:
        """A text was stored."""
        for name in self._stored_names.pop(content_id, ()):
            self._known.pop(name, None)

    async def changes(self, inputs: Mapping[str, str], *, first: bool = False) -> list[InputChange]:
        """The inputs that aren't what they were; with `first` only one of them."""
        found: list[InputChange] = []
        known = self._known
        for name, before in inputs.items():
            current = known.get(name)
            if current is None:
                if ":" in name:
                    other = next((look for prefix, look in self._others.items() if name.startswith(prefix)), None)
                    current = self.digest(name) if other is None else await self._look(name, other)
                else:
                    current = known[name] = self._engine.digests.digest_file(name)
            if current != before:
                found.append(InputChange(name, before, current))
                if first:
                    break
        return found

    def still_holds(self, inputs: Mapping[str, str]) -> bool:
        """Whether the files are now as they were when they were noted: one that was written in between may have been
        read in either state, and would be taken for the wrong one if it ever changed back."""
        digest_of_file = self._engine.digests.digest_file
        return all(":" in name or digest_of_file(name) == digest for name, digest in inputs.items())

    async def _look(self, name: str, look: Callable[[str], Awaitable[str]]) -> str:
        current = self._known[name] = await look(name)
        return current

    async def _git(self, name: str) -> str:
        return await git_reference.identify(self._engine.folder, name)

    async def _stored(self, name: str) -> str:
        content_id, _, strategy = name.removeprefix(STORED).partition(":")
        self._stored_names.setdefault(content_id, []).append(name)
        return self._engine.stored_digest(content_id, strategy)


# -- traces -----------------------------------------------------------------------------------------------------


class RecalledTrace(NamedTuple):
    """A trace in memory."""

    inputs: dict[str, str]
    result: dict[str, Any]
    at: str


class Traces:
    """What earlier work read and what came of it.

    Fresh ones go to the store in the background: a trace spares work and proves nothing, so it needs no sync.
    """

    def __init__(self, store: Store, digests: FileDigests) -> None:
        self._store = store
        self._digests = digests
        self._known: OrderedDict[tuple[str, str], RecalledTrace | None] = OrderedDict()
        self._unsaved: dict[tuple[str, str], RecalledTrace] = {}
        self._fresh = trio.Event()

    def find_trace(self, subject: str, key: str) -> RecalledTrace | None:
        """The trace of a subject made under a key, from memory or the store."""
        place = subject, key
        if (known := self._known.get(place)) is not None:
            return known
        kept = self._store.trace(subject, key)
        if kept is None:
            return None
        inputs: dict[str, str] = {}
        for name, (digest, *stamp) in kept.seen.items():
            inputs[name] = digest
            if stamp:
                self._digests.remember(name, FileStamp(*stamp), digest)
        known = RecalledTrace(inputs, kept.result, kept.at)
        self._keep(place, known)
        return known

    def latest_trace(self, subject: str) -> RecalledTrace | None:
        """The newest trace of a subject, under whatever key."""
        unsaved = [known for (each, _), known in self._unsaved.items() if each == subject]
        if unsaved:
            return unsaved[-1]
        kept = self._store.traces(subject)
        return self.find_trace(subject, kept[0].key) if kept else None

    def add_trace(self, subject: str, key: str, inputs: dict[str, str], result: dict[str, Any]) -> None:
        """Remember what work read and what came of it."""
        known = RecalledTrace(inputs, result, now())
        self._keep((subject, key), known)
        self._unsaved[subject, key] = known
        self._fresh.set()

    def _keep(self, place: tuple[str, str], known: RecalledTrace) -> None:
        self._known[place] = known
        if len(self._known) > TRACES_IN_MEMORY:
            self._known.popitem(last=False)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """A service: stores what is fresh every now and then, and the rest when it is cancelled."""
        task_status.started()
        try:
            while True:
                await self._fresh.wait()
                await trio.sleep(SAVE_INTERVAL)
                await self.save()
        finally:
            with trio.CancelScope(shield=True):
                await self.save()

    async def save(self) -> None:
        """Store what is fresh."""
        self._fresh = trio.Event()
        unsaved, self._unsaved = self._unsaved, {}
        if unsaved:
            try:
                await self._store.save_traces(self._records(unsaved.items()))
            except ChoraError as error:
                log.warning("what the last build read couldn't be stored: %s", error.message)

    def _records(self, unsaved: Iterable[tuple[tuple[str, str], RecalledTrace]]) -> list[Trace]:
        return [
            Trace(
                subject=subject,
                key=key,
                seen={
                    name: [digest, *(self._digests.stamp_of(name, digest) or ())]
                    for name, digest in known.inputs.items()
                },
                result=known.result,
                at=known.at,
            )
            for (subject, key), known in unsaved
        ]
