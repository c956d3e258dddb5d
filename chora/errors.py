"""The errors that chora raises on purpose.

    ChoraError
     ├── InvalidInput, InvalidContext, InvalidConfigId, ValidationError, ValidationFailed, UsageError
     ├── InvalidConfig, InvalidRetention, CircularReference, MaxDepthExceeded
     ├── BackupNotFound, ConfigNotFound, ContentNotFound, DraftNotFound, GeneratorNotFound, ManifestNotFound,
     │   MissingContent, ProjectNotFound, JobNotFound, ResourceNotFound, TokenNotFound
     ├── SaveFailed, OutputEdited, ReferencedByArtifacts, JobCancelled
     ├── Unauthorized
     ├── PermissionDenied, Forbidden
     ├── Unreachable, GenerationFailed, CompositionFailed, TestFailed, TestExecutionFailed, BatchFailed,
     │   ModificationFailed, ValidationExecutionFailed, MigrationFailed
     ├── StorageFailed, StorageError, WriteFailed, DraftCreationFailed, SaveExecutionFailed, DeletionFailed,
     │   ModificationExecutionFailed
     └── Busy, LimitExceeded, BudgetExceeded

Each class has a wire `code`, which clients match on, and a `category`, whose HTTP status and exit code are in
`CATEGORIES`, where the HTTP server and the command line look them up. Everything that isn't a `ChoraError` is a bug:
it is logged in full under an id, and only that id leaves the process.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

from chora.wording import cut_texts

Category = Literal["invalid", "missing", "conflict", "unauthenticated", "denied", "failed", "busy", "internal"]


class Outcome(NamedTuple):
    """The HTTP status and the exit code of a category, and the next step where an error names none of its own."""

    http_status: int
    exit_code: int
    next_step: str


CATEGORIES: dict[Category, Outcome] = {
    "invalid": Outcome(400, 2, "Correct what the message names, and try again."),
    "missing": Outcome(404, 3, "Check the name; the lists show what there is."),
    "conflict": Outcome(409, 4, "Look at what is there now before trying again."),
    "unauthenticated": Outcome(401, 4, "Send a valid access token."),
    "denied": Outcome(403, 4, "Ask the operator of this server, or do it in an allowed place."),
    "failed": Outcome(500, 1, "Correct what the message and the details name, and try again."),
    "busy": Outcome(503, 1, "Try again in a moment."),
    "internal": Outcome(500, 1, "Report it; the log of the server says more."),
}


_HIDDEN_LIMIT = 16
"""Folders that are remembered; a process opens one project, an import two."""
_hidden: OrderedDict[str, re.Pattern[str]] = OrderedDict()


def hide_folder(folder: Path) -> None:
    """From now on name what is in a folder relative to it, in every error and wherever `without_folders` is used.

    Where a project lies on a machine tells user names and mounts to all clients (CWE-209, CWE-497).
    """
    text = str(folder)
    if len(text) > len(folder.anchor):
        _hidden[text] = re.compile(re.escape(text) + rf"(?:{re.escape(os.sep)}(?=\S)|(?![\w.-]))")
        _hidden.move_to_end(text)
        if len(_hidden) > _HIDDEN_LIMIT:
            _hidden.popitem(last=False)


def without_folders(text: str) -> str:
    """A text with the paths in hidden folders made relative; the folder itself is `.`."""
    for folder, pattern in _hidden.items():
        if folder in text:
            text = pattern.sub(lambda found: "" if found[0].endswith(os.sep) else ".", text)
    return text


def _without_folders(data: Any) -> Any:
    match data:
        case str():
            return without_folders(data)
        case dict():
            return {key: _without_folders(value) for key, value in cast("dict[Any, Any]", data).items()}
        case list():
            return [_without_folders(each) for each in cast("list[Any]", data)]
        case _:
            return data


class ChoraError(Exception):
    """A failure that the caller can understand and act on.

    Args:
        message: one sentence that says what is wrong. Texts are cut, here and in the details: see `cut_texts`.
        hint: the next step, when there is one to name.
        details: machine-readable facts, of the shape documented for the code.
    """

    code: ClassVar[str] = "internal_error"
    category: ClassVar[Category] = "internal"

    def __init__(self, message: str, hint: str | None = None, **details: Any) -> None:
        self.message: str = cut_texts(without_folders(message))
        self.hint: str | None = hint and cut_texts(without_folders(hint))
        self.details: dict[str, Any] = cut_texts(_without_folders(details))
        super().__init__(self.message)

    @property
    def next_step(self) -> str:
        """The hint; where there is none, what helps with every error of this category."""
        return self.hint or CATEGORIES[self.category].next_step

    @property
    def exit_code(self) -> int:
        return CATEGORIES[self.category].exit_code

    @property
    def http_status(self) -> int:
        return CATEGORIES[self.category].http_status

    def as_dict(self) -> dict[str, Any]:
        """The body of every failed answer: `{"success": false, "error": {code, message, hint, details}}`."""
        return {
            "success": False,
            "error": {"code": self.code, "message": self.message, "hint": self.next_step, "details": self.details},
        }


def exit_code_of(code: str) -> int:
    """The exit code for a failure that another process reports by its wire code; 1 for one that isn't known here."""
    waiting: list[type[ChoraError]] = [ChoraError]
    while waiting:
        kind = waiting.pop()
        if kind.code == code:
            return CATEGORIES[kind.category].exit_code
        waiting += kind.__subclasses__()
    return 1


class InvalidInput(ChoraError):
    """Arguments of a tool or command that don't fit."""

    code = "invalid_input"
    category = "invalid"


class InvalidContext(ChoraError):
    """A context that is neither an object nor a JSON string of one."""

    code = "invalid_context"
    category = "invalid"


class InvalidConfigId(ChoraError):
    """An id that can't name a config: empty, too long, or a path."""

    code = "invalid_config_id"
    category = "invalid"


class ValidationError(ChoraError):
    """A draft whose config data doesn't fit its format."""

    code = "validation_error"
    category = "invalid"


class ValidationFailed(ChoraError):
    """A config file that doesn't fit its format; `details.schema_errors` lists every fault."""

    code = "validation_failed"
    category = "invalid"


class UsageError(ChoraError):
    """Settings or flags that don't fit together."""

    code = "usage_error"
    category = "invalid"


class InvalidConfig(ChoraError):
    """A config that is well formed and still can't be used as asked."""

    code = "invalid_config"
    category = "invalid"


class InvalidRetention(ChoraError):
    """A retention rule outside its bounds."""

    code = "invalid_retention"
    category = "invalid"


class CircularReference(ChoraError):
    """Collections that contain one another; `details.cycle` names them."""

    code = "circular_reference"
    category = "invalid"


class MaxDepthExceeded(ChoraError):
    """Collections nested too deeply."""

    code = "max_depth_exceeded"
    category = "invalid"


class ConfigNotFound(ChoraError):
    """No config has this id."""

    code = "config_not_found"
    category = "missing"


class ContentNotFound(ChoraError):
    """A content without a stored text."""

    code = "content_not_found"
    category = "missing"


class BackupNotFound(ChoraError):
    """A backup, or a damaged database to be salvaged, that doesn't exist."""

    code = "backup_not_found"
    category = "missing"


class ManifestNotFound(ChoraError):
    """A collection that has no manifest: it was never built, or built into another folder."""

    code = "manifest_not_found"
    category = "missing"


class JobNotFound(ChoraError):
    """No job has this id."""

    code = "job_not_found"
    category = "missing"


class DraftNotFound(ChoraError):
    """No draft has this id, or it was discarded."""

    code = "draft_not_found"
    category = "missing"


class GeneratorNotFound(ChoraError):
    """No generator has this name."""

    code = "generator_not_found"
    category = "missing"


class MissingContent(ChoraError):
    """An artifact with a required child that has no text and can't be generated."""

    code = "missing_content"
    category = "missing"


class ResourceNotFound(ChoraError):
    """A URI that no resource has."""

    code = "resource_not_found"
    category = "missing"


class ProjectNotFound(ChoraError):
    """There is no project in this folder or above it, or the named one can't be reached."""

    code = "project_not_found"
    category = "missing"


class TokenNotFound(ChoraError):
    """No token has this name."""

    code = "token_not_found"
    category = "missing"


class SaveFailed(ChoraError):
    """A config that can't be saved: its id is invalid, or it would overwrite another one."""

    code = "save_failed"
    category = "conflict"


class OutputEdited(ChoraError):
    """An output file holds text that chora didn't write; it is left as it is."""

    code = "output_edited"
    category = "conflict"


class ReferencedByArtifacts(ChoraError):
    """A content that artifacts are assembled from; `details.artifact_ids` names them."""

    code = "referenced_by_artifacts"
    category = "conflict"


class JobCancelled(ChoraError):
    """Work that was stopped on request before it was done."""

    code = "job_cancelled"
    category = "conflict"


class PermissionDenied(ChoraError):
    """A path outside the roots that chora may read or write."""

    code = "permission_denied"
    category = "denied"


class Unauthorized(ChoraError):
    """No valid token where one is needed."""

    code = "unauthorized"
    category = "unauthenticated"


class Forbidden(ChoraError):
    """A valid token whose scope doesn't allow the call."""

    code = "forbidden"
    category = "denied"


class Unreachable(ChoraError):
    """A server that doesn't answer, or not with MCP."""

    code = "unreachable"
    category = "failed"


class GenerationFailed(ChoraError):
    """A generator that couldn't make its text."""

    code = "generation_failed"
    category = "failed"


class CompositionFailed(ChoraError):
    """An artifact that couldn't be assembled from its parts."""

    code = "composition_failed"
    category = "failed"


class TestFailed(ChoraError):
    """A draft that has errors, so it can't be tested."""

    __test__ = False  # or pytest would collect it by its name
    code = "test_failed"
    category = "failed"


class TestExecutionFailed(ChoraError):
    """A draft whose generator failed."""

    __test__ = False
    code = "test_execution_failed"
    category = "failed"


class BatchFailed(ChoraError):
    """A batch in which no content could be generated; `details.results` has every reason."""

    code = "batch_failed"
    category = "failed"


class ModificationFailed(ChoraError):
    """Updates that would make a config invalid; nothing was changed."""

    code = "modification_failed"
    category = "invalid"


class ModificationExecutionFailed(ChoraError):
    """Updates that couldn't be written; the config is unchanged."""

    code = "modification_execution_failed"
    category = "failed"


class ValidationExecutionFailed(ChoraError):
    """A rule that couldn't be checked at all."""

    code = "validation_execution_failed"
    category = "failed"


class MigrationFailed(ChoraError):
    """A copy of a store that differs from its source; the source is unchanged."""

    code = "migration_failed"
    category = "failed"


class DeletionFailed(ChoraError):
    """A stored text that couldn't be deleted."""

    code = "deletion_failed"
    category = "failed"


class StorageFailed(ChoraError):
    """Text was generated but couldn't be stored."""

    code = "storage_failed"
    category = "failed"


class StorageError(ChoraError):
    """The store can't be opened, read or written.

    Its details have `reason`, `path`, `error_type` and `errno`, the last two null where no call of the system failed.
    """

    code = "storage_error"
    category = "failed"

    def __init__(self, message: str, hint: str | None = None, **details: Any) -> None:
        known = {"reason": message, "path": details.get("storage_path"), "error_type": None, "errno": None}
        super().__init__(message, hint, **{**known, **details})


class WriteFailed(ChoraError):
    """An output file that couldn't be written; the old one is unchanged."""

    code = "write_failed"
    category = "failed"


class DraftCreationFailed(ChoraError):
    """A draft that couldn't be stored."""

    code = "draft_creation_failed"
    category = "failed"


class SaveExecutionFailed(ChoraError):
    """A config file that couldn't be written."""

    code = "save_execution_failed"
    category = "failed"


class LimitExceeded(ChoraError):
    """A bound was reached: time, memory, size or depth. `details.limit` names the setting."""

    code = "limit_exceeded"
    category = "invalid"


class BudgetExceeded(ChoraError):
    """A call of a paid model that would cost more than the settings allow; nothing was spent."""

    code = "budget_exceeded"
    category = "denied"


class Busy(ChoraError):
    """Too many calls are waiting already; the same call may succeed in a moment."""

    code = "busy"
    category = "busy"


class Internal(ChoraError):
    """A bug: the id in it leads to the traceback in the log."""

    code = "internal_error"
    category = "internal"

    def __init__(self, error: BaseException, *, where: str) -> None:
        incident = secrets.token_hex(4)
        super().__init__(
            "Something unexpected went wrong inside chora.",
            f"The log has the details under incident {incident}.",
            incident=incident,
            error_type=type(error).__name__,
            tool=where,
        )
        self.incident = incident


def io_details(error: OSError, **paths: str) -> dict[str, Any]:
    """The detail shape of a failed read or write: the path, `error_type` and `errno`."""
    return {**paths, "error_type": type(error).__name__, "errno": error.errno}


def why_unreadable(error: OSError | UnicodeDecodeError) -> str:
    """Why a file can't be read; the text of a UnicodeDecodeError would show a piece of its content."""
    return str(error.strerror) if isinstance(error, OSError) else "it is not UTF-8 text"


def subclasses(of: type[ChoraError] = ChoraError) -> list[type[ChoraError]]:
    """Every error class below `of`, for the reference and the tests."""
    return [found for direct in of.__subclasses__() for found in (direct, *subclasses(direct))]
