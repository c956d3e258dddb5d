"""The file watcher: notifies subscribers when configs, templates and manifests change on disk.

The system's reports only wake the watcher; what changed is found by comparing two scans of the files. So nothing is
missed while a watch is set up, when folders appear, are moved or vanish, or when reports are lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import PurePath, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import trio

from chora.catalog import ROOTS, SUFFIXES
from chora.engine.engine import Engine
from chora.errors import ChoraError, PermissionDenied
from chora.file_stamps import FileStamp
from chora.files import FILES_LIMIT
from chora.model import KINDS, Kind
from chora.nofollow import list_entries
from chora.protocol.server import McpServer
from chora.resources import config_uri, manifest_files, manifest_uri, template_uri

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

log = logging.getLogger("chora.watch")

START_DELAY = 1.0
"""Seconds after the first answer until watching begins: its imports must not delay a short session."""
REPORT_MILLISECONDS = 100
"""Milliseconds without a further report after which a change counts as done, and between two checks for the end."""
DEBOUNCE_MILLISECONDS = 1000
"""Milliseconds for which reports are gathered at most."""
SCAN_INTERVAL = 5.0
"""Seconds between two scans where the system can't report changes."""

Files = dict[str, FileStamp]


class WatchedPaths(NamedTuple):
    """The watched paths, project-relative."""

    configs: dict[str, Kind]
    """Folders of config files."""
    templates: list[str]
    manifests: dict[str, str]
    """Files, and the id of the collection each belongs to."""

    def folders(self) -> list[str]:
        """The folders that are watched with everything in them."""
        return [*self.configs, *self.templates]


def import_notifications() -> ModuleType:
    """Import what reports changes: late on stdio, whose first answer it would delay; at the start of a server, whose
    clients may use up the descriptors that an import takes."""
    from watchfiles import _rust_notify

    return _rust_notify


class ProjectWatcher:
    """Watches a project, and has its server notify the subscribers of changes."""

    def __init__(self, engine: Engine, server: McpServer) -> None:
        self._engine, self._server = engine, server
        self._paths: WatchedPaths | None = None
        self._known: Files = {}
        self._ids: dict[str, str] = {}

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled. Started again after a failure, it compares with what was published last."""
        task_status.started()
        engine, server = self._engine, self._server
        await server.first_request_answered.wait()
        watch = FileWatcher(str(engine.folder.root))
        if self._paths is None:
            for kind in KINDS:  # so that no call has to read them all
                with contextlib.suppress(ChoraError):  # too many files; the next list says so
                    await engine.catalog.list_in_slices(kind)
            paths = _watched_paths(engine)
            self._known, _ = await trio.to_thread.run_sync(watch.scan_files, paths)
            self._paths = paths
            server.changes_known.set()
            await trio.sleep(START_DELAY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.end_when_cancelled)
            while True:
                # The thread ends by itself soon after a cancellation; one left behind would outlive the interpreter.
                found = await trio.to_thread.run_sync(watch.wait_for_change, self._paths, self._known)
                await _publish_changes(engine, server, self._ids, self._paths, self._known, found)
                self._known, self._paths = found, _watched_paths(engine)


def _watched_paths(engine: Engine) -> WatchedPaths:
    configs: dict[str, Kind] = {}
    for root in dict.fromkeys((engine.catalog.root, *ROOTS)):
        configs |= {f"{root}/{kind}{plural}": kind for kind in KINDS for plural in ("", "s")}
    templates: list[str] = []
    for place in engine.settings.paths.templates:
        try:
            templates.append(engine.folder.relative(place))
        except PermissionDenied:
            continue
    try:
        manifests = {path: collection_id for collection_id, path in manifest_files(engine).items()}
    except ChoraError as error:  # too many files to find the collections among them
        log.warning("manifests aren't watched: %s", error.message)
        manifests = {}
    return WatchedPaths(configs, templates, manifests)


# -- notifications -----------------------------------------------------------------------------------------------


async def _publish_changes(
    engine: Engine, server: McpServer, ids: dict[str, str], paths: WatchedPaths, known: Files, found: Files
) -> None:
    """Publish the difference between two scans.

    Args:
        ids: the config ids by path, as they were last published: a deleted file can't be read any more.
    """
    list_changed = False
    for path in sorted(known.keys() | found.keys()):
        if known.get(path) == found.get(path):
            continue
        await trio.lowlevel.checkpoint()  # a whole checkout may have changed
        before = ids.get(path)
        for uri in _resource_uris(engine, ids, paths, path, present=path in found):
            server.notify_resource_changed(uri)
            list_changed = (
                list_changed or path not in known or path not in found or ids.get(path) != (before or ids.get(path))
            )
    if list_changed:
        server.notify_list_changed("resources")


def _resource_uris(
    engine: Engine, ids: dict[str, str], paths: WatchedPaths, path: str, *, present: bool
) -> Iterator[str]:
    """The URIs of the resources that a file is."""
    if path in paths.manifests:
        yield manifest_uri(paths.manifests[path])
    for folder in paths.templates:
        if path.startswith(f"{folder}/"):
            yield template_uri(path.removeprefix(f"{folder}/"))
            break
    if not path.endswith(SUFFIXES):
        return
    for folder, kind in paths.configs.items():
        if path.startswith(f"{folder}/"):
            before = ids.pop(path, None)
            id_of_name = PurePosixPath(path).stem.removesuffix(f"-{kind}")
            if present:
                try:
                    ids[path] = engine.catalog.open_config(kind, path).parsed.config.id
                except ChoraError:
                    ids[path] = before or id_of_name
            yield from (config_uri(kind, each) for each in dict.fromkeys((before, ids.get(path, id_of_name))) if each)


# -- scanning ----------------------------------------------------------------------------------------------------


class FileWatcher:
    """Scans the files of a project; everything but its end runs in a thread.

    Args:
        root: the project folder, its links resolved.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._ended = threading.Event()
        self._warned = False

    async def end_when_cancelled(self) -> None:
        """End the thread when this is cancelled."""
        try:
            await trio.sleep_forever()
        finally:
            self._ended.set()

    def scan_files(self, paths: WatchedPaths) -> tuple[Files, set[str]]:
        """The watched files with their stamps, and the folders that contain them."""
        files: Files = {}
        folders: set[str] = set()
        for place in paths.folders():
            self._add_folder(place, files, folders)
        for path in paths.manifests:
            folders.add(self._nearest_folder(path))
            try:
                files[path] = FileStamp.of(os.stat(self._absolute_path(path)))  # noqa: PTH116
            except OSError:
                continue
        return files, folders

    def wait_for_change(self, paths: WatchedPaths, known: Files) -> Files:
        """Scan until something differs from what is known, or the watcher ends."""
        notifications = import_notifications()
        while not self._ended.is_set():
            _, folders = self.scan_files(paths)
            try:
                with notifications.RustNotify(sorted(folders), False, False, 0, False, False) as notify:
                    # What changed before the watch was set up is seen now, and what changes later is reported.
                    found, again = self.scan_files(paths)
                    if found != known:
                        return found
                    if again == folders:
                        self._wait_for_report(notify, paths)
            except FileNotFoundError:
                continue  # a folder vanished since it was seen; watchfiles says so only when told to ignore nothing
            except (OSError, notifications.WatchfilesRustInternalError) as error:
                if not self._warned:
                    log.warning("files can't be watched, so they are scanned every %g s: %s", SCAN_INTERVAL, error)
                self._warned = True
                self._ended.wait(SCAN_INTERVAL)
                if (found := self.scan_files(paths)[0]) != known:
                    return found
        return known

    def _wait_for_report(self, notify: RustNotify, paths: WatchedPaths) -> None:
        within = tuple(self._absolute_path(path) for path in paths.folders())
        alone = {self._absolute_path(path) for path in paths.manifests}
        above = {str(parent) for path in (*within, *alone) for parent in PurePath(path).parents}
        inside = tuple(path + os.sep for path in within)
        while True:
            reports = notify.watch(DEBOUNCE_MILLISECONDS, REPORT_MILLISECONDS, 0, self._ended)
            if isinstance(reports, str):
                return
            if any(path in above or path in within or path in alone or path.startswith(inside) for _, path in reports):
                return

    def _absolute_path(self, path: str) -> str:
        return os.path.normpath(os.path.join(self._root, path))

    def _add_folder(self, place: str, files: Files, folders: set[str]) -> None:
        """Add what is in a folder, at any depth; hidden files and folders are skipped."""
        waiting = [place]
        while waiting:
            current = waiting.pop()
            try:
                # A folder of configs may itself be a link; below it, no link to a folder is followed.
                absolute = os.path.realpath(self._absolute_path(current))
                for entry in list_entries(absolute, is_checked=True):
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(f"{current}/{entry.name}")
                    elif len(files) < FILES_LIMIT and (stamp := _stamp_of(entry)):
                        files[f"{current}/{entry.name}"] = stamp
            except OSError:
                folders.add(self._nearest_folder(current))
            else:
                folders.add(self._absolute_path(current))

    def _nearest_folder(self, path: str) -> str:
        """The innermost existing folder above a path."""
        for parent in PurePosixPath(path).parents:
            if os.path.isdir(where := self._absolute_path(str(parent))):  # noqa: PTH112
                return where
        return self._root


def _stamp_of(entry: os.DirEntry[str]) -> FileStamp | None:
    try:
        return FileStamp.of(entry.stat())
    except OSError:
        return None
