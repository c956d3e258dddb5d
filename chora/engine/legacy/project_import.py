"""Importing a chora-compose project: its configs and templates as files, its history into the store.

Nothing is overwritten, nothing in the old project changes, and repeating the import changes nothing. What isn't
understood is listed with the reason.
"""

from __future__ import annotations

from pathlib import Path

from chora.catalog import ROOTS
from chora.engine.legacy.file_import import FileImport
from chora.engine.legacy.history_import import HistoryImport
from chora.engine.legacy.import_state import HISTORY_FOLDER, ImportResult, ImportState
from chora.errors import InvalidInput, ProjectNotFound
from chora.files import Folder
from chora.store import Store

IMPORTED_SETTINGS = """\
# Settings of this project; `chora config` lists all of them with their values and origins.

[templates]
# Templates of chora-compose may use names that nothing gives a value. "strict" makes them errors.
undefined = "lenient"

[configs]
# What configs mean where chora-compose and chora differ, such as selectors with a single match.
rules = "chora-compose"
"""


async def import_project(
    source: Path,
    folder: Folder,
    store: Store,
    *,
    configs: str = "",
    is_strict: bool = False,
    to_convert: bool = False,
    dry_run: bool = False,
) -> ImportResult:
    """Import a chora-compose project into a chora project.

    Args:
        source: the old project; it may be the new one itself, which then only gets its history and settings.
        folder: the new project.
        store: the new project's store.
        configs: the new project's config folder, if its settings name one.
        is_strict: whether undefined names in templates are errors there.
        to_convert: convert configs of other dialects.
        dry_run: only report what would be done.

    Raises:
        ProjectNotFound: `source` can't be reached.
        InvalidInput: there is no chora-compose project at `source`.
        WriteFailed, StorageError, OSError: something can't be written; the import can be repeated.
    """
    try:
        old = Folder(source)
    except OSError as error:
        raise ProjectNotFound(
            f"{source} can't be reached: {error.strerror}.", "Name the old project's folder."
        ) from None
    old_folders = [root for root in (*ROOTS, "templates", "drafts", HISTORY_FOLDER) if (old.root / root).is_dir()]
    if not old_folders:
        raise InvalidInput(
            f"{old.root} holds no chora-compose project.",
            f"It would have a folder {', '.join(ROOTS)} or {HISTORY_FOLDER}.",
            field="DIR",
        )
    state = ImportState(old, folder, store, configs, dry_run)
    files, history = FileImport(state), HistoryImport(state)
    if old.root != folder.root:
        await files.import_files(to_convert)
    else:
        await files.check_files()
    await history.import_history()
    return await _finish(state, files, history, is_strict=is_strict)


async def _finish(state: ImportState, files: FileImport, history: HistoryImport, *, is_strict: bool) -> ImportResult:
    """Write the settings if there are none, and report."""
    warnings: list[str] = []
    is_another = state.old_project.root != state.new_project.root
    if is_another and state.old_project.is_file("chora.toml"):
        state.skip_file("chora.toml", "Settings aren't taken over; compare the two with `chora config`.")
    has_settings = (state.new_project.root / "chora.toml").exists()
    if not has_settings and not state.dry_run:
        await Folder(state.new_project.root).write_file("chora.toml", IMPORTED_SETTINGS.encode())
    if has_settings and is_strict and is_another:
        warnings.append(
            "The settings of this project make undefined names in templates errors, which they weren't: "
            'undefined = "lenient" under [templates] in chora.toml makes them warnings. '
            'What configs mean where the two differ follows chora; rules = "chora-compose" under [configs] keeps it.'
        )
    return ImportResult(
        source=str(state.old_project.root),
        project=str(state.new_project.root),
        dry_run=state.dry_run,
        settings_written=not has_settings,
        copied=files.copied,
        converted=files.converted,
        unchanged=files.unchanged,
        versions=history.versions,
        drafts=history.drafts,
        skipped=state.skipped,
        warnings=warnings,
    )
