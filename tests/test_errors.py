"""The code, HTTP status and exit code of each error."""

import re
from typing import get_args

import msgspec
import pytest

from chora import errors
from chora.errors import CATEGORIES, Category, ChoraError, Internal, io_details, subclasses
from tests.conftest import requirement

ROWS: list[tuple[type[ChoraError], str, Category]] = [
    (errors.InvalidInput, "invalid_input", "invalid"),
    (errors.InvalidContext, "invalid_context", "invalid"),
    (errors.InvalidConfigId, "invalid_config_id", "invalid"),
    (errors.ValidationError, "validation_error", "invalid"),
    (errors.ValidationFailed, "validation_failed", "invalid"),
    (errors.UsageError, "usage_error", "invalid"),
    (errors.LimitExceeded, "limit_exceeded", "invalid"),
    (errors.ConfigNotFound, "config_not_found", "missing"),
    (errors.DraftNotFound, "draft_not_found", "missing"),
    (errors.GeneratorNotFound, "generator_not_found", "missing"),
    (errors.MissingContent, "missing_content", "missing"),
    (errors.ProjectNotFound, "project_not_found", "missing"),
    (errors.SaveFailed, "save_failed", "conflict"),
    (errors.OutputEdited, "output_edited", "conflict"),
    (errors.PermissionDenied, "permission_denied", "denied"),
    (errors.Unauthorized, "unauthorized", "unauthenticated"),
    (errors.Forbidden, "forbidden", "denied"),
    (errors.Unreachable, "unreachable", "failed"),
    (errors.GenerationFailed, "generation_failed", "failed"),
    (errors.CompositionFailed, "composition_failed", "failed"),
    (errors.TestFailed, "test_failed", "failed"),
    (errors.TestExecutionFailed, "test_execution_failed", "failed"),
    (errors.StorageFailed, "storage_failed", "failed"),
    (errors.StorageError, "storage_error", "failed"),
    (errors.WriteFailed, "write_failed", "failed"),
    (errors.DraftCreationFailed, "draft_creation_failed", "failed"),
    (errors.SaveExecutionFailed, "save_execution_failed", "failed"),
    (errors.InvalidConfig, "invalid_config", "invalid"),
    (errors.InvalidRetention, "invalid_retention", "invalid"),
    (errors.CircularReference, "circular_reference", "invalid"),
    (errors.MaxDepthExceeded, "max_depth_exceeded", "invalid"),
    (errors.ModificationFailed, "modification_failed", "invalid"),
    (errors.ContentNotFound, "content_not_found", "missing"),
    (errors.BackupNotFound, "backup_not_found", "missing"),
    (errors.ManifestNotFound, "manifest_not_found", "missing"),
    (errors.JobNotFound, "job_not_found", "missing"),
    (errors.ResourceNotFound, "resource_not_found", "missing"),
    (errors.TokenNotFound, "token_not_found", "missing"),
    (errors.ReferencedByArtifacts, "referenced_by_artifacts", "conflict"),
    (errors.JobCancelled, "job_cancelled", "conflict"),
    (errors.BudgetExceeded, "budget_exceeded", "denied"),
    (errors.BatchFailed, "batch_failed", "failed"),
    (errors.ModificationExecutionFailed, "modification_execution_failed", "failed"),
    (errors.ValidationExecutionFailed, "validation_execution_failed", "failed"),
    (errors.MigrationFailed, "migration_failed", "failed"),
    (errors.DeletionFailed, "deletion_failed", "failed"),
    (errors.Busy, "busy", "busy"),
    (errors.Internal, "internal_error", "internal"),
]

OUTCOMES: dict[Category, tuple[int, int]] = {
    "invalid": (400, 2),
    "missing": (404, 3),
    "conflict": (409, 4),
    "unauthenticated": (401, 4),
    "denied": (403, 4),
    "failed": (500, 1),
    "busy": (503, 1),
    "internal": (500, 1),
}


def ours() -> list[type[ChoraError]]:
    return [each for each in subclasses() if each.__module__ == errors.__name__]


@pytest.mark.parametrize(("error", "code", "category"), ROWS, ids=lambda row: getattr(row, "__name__", None))
def test_each_error_has_its_code_status_and_exit_code(error: type[ChoraError], code: str, category: Category):
    """Clients match on the code; HTTP status and exit code follow from the category alone."""
    made = Internal(ValueError(), where="x") if error is Internal else error("A sentence.")
    assert (made.code, made.category) == (code, category)
    assert (made.http_status, made.exit_code) == OUTCOMES[category]


def test_every_error_class_has_one_row_in_the_table_above():
    """A new class needs a new row."""
    assert len(ROWS) == len({row[0] for row in ROWS})
    assert {row[0] for row in ROWS} == set(ours())


def test_no_two_errors_share_a_code():
    """A code means one thing; only `Internal` shares that of the base class, which is never raised itself."""
    codes = [each.code for each in ours()]
    assert len(codes) == len(set(codes))
    assert ChoraError.code == Internal.code


def test_every_category_has_its_status_and_exit_code():
    """The table lists every category, and no other."""
    assert set(CATEGORIES) == set(get_args(Category))
    assert {category: outcome[:2] for category, outcome in CATEGORIES.items()} == OUTCOMES


@pytest.mark.parametrize("error", ours())
def test_an_error_always_names_a_next_step(error: type[ChoraError]):
    """`hint` is never null in an answer; where an error has none of its own, that of its category stands there."""
    made = Internal(ValueError(), where="x") if error is Internal else error("A sentence.")
    assert made.as_dict()["error"]["hint"].endswith(".")
    assert errors.Busy("A sentence.", "Do this.").as_dict()["error"]["hint"] == "Do this."


def test_the_tree_in_the_docstring_is_the_tree():
    """The head of the file lists every error; `Internal` is described in the text below."""
    tree = (errors.__doc__ or "").partition("Each class has")[0]
    assert set(re.findall(r"\w+", tree.partition("ChoraError")[2])) == {each.__name__ for each in ours()} - {"Internal"}


def test_the_body_has_code_message_hint_and_details():
    """The message is the text of the exception too."""
    error = errors.ConfigNotFound("There is no content config tides.", "Did you mean tide?", config_id="tides")
    assert error.as_dict() == {
        "success": False,
        "error": {
            "code": "config_not_found",
            "message": "There is no content config tides.",
            "hint": "Did you mean tide?",
            "details": {"config_id": "tides"},
        },
    }
    assert str(error) == error.message
    bare = errors.Busy("Too much is waiting.").as_dict()["error"]
    assert (bare["hint"], bare["details"]) == (CATEGORIES["busy"].next_step, {})


def test_a_bug_shows_an_id_and_nothing_of_itself():
    """Only the incident id leaves the process: the text of the exception may contain anything."""
    incident = Internal(ValueError("the password is hunter2"), where="generate_content")
    body = incident.as_dict()
    assert "hunter2" not in msgspec.json.encode(body).decode()
    assert re.fullmatch("[0-9a-f]{8}", incident.incident)
    assert incident.incident in str(incident.hint)
    assert body["error"]["details"] == {
        "incident": incident.incident,
        "error_type": "ValueError",
        "tool": "generate_content",
    }
    assert Internal(ValueError(), where="x").incident != incident.incident


def test_a_failed_read_or_write_is_described_by_path_type_and_errno():
    """The details of every input and output error have this shape."""
    details = io_details(FileNotFoundError(2, "No such file"), path="a.md")
    assert details == {"path": "a.md", "error_type": "FileNotFoundError", "errno": 2}


def test_subclasses_of_subclasses_are_listed():
    """The reference lists these too."""

    class Nested(errors.Busy):
        pass

    assert Nested in subclasses()


@requirement("server.echo")
def test_texts_in_an_error_are_cut():
    """Wherever they stand in it: what was sent is repeated as far as it helps, with its length."""
    long = "x" * 1_000_000
    error = errors.InvalidInput(f"{long} is wrong.", long, field=long, nested=[{long: [long, 1, None, True]}])
    cut = "x" * 2000 + "… (1,000,000 characters)"
    assert (error.message, error.hint) == ("x" * 2000 + "… (1,000,010 characters)", cut)
    assert error.details == {"field": cut, "nested": [{cut: [cut, 1, None, True]}]}
    assert str(error) == error.message
    fitting = "x" * 2000
    assert errors.InvalidInput(fitting, fitting, field=fitting).as_dict()["error"] == {
        "code": "invalid_input",
        "message": fitting,
        "hint": fitting,
        "details": {"field": fitting},
    }
