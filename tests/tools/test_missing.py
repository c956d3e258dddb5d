"""What an error about a missing config says: the right tool or id, and what there is."""

from typing import Any

import msgspec
import pytest

from chora.cli.run import COMMAND_OF_TOOL, hint_for_people
from chora.tools import TOOLS
from tests.conftest import Asking, Project, artifact, child, requirement, text
from tests.tools.test_collection import member, pack

MISSING: list[tuple[str, str, str]] = [
    ("generate_content", "sheet", "sheet is an artifact: assemble_artifact composes it."),
    ("generate_content", "pack", "pack is a collection: generate_collection builds it."),
    ("assemble_artifact", "note", "note is a content: generate_content makes its text."),
    ("assemble_artifact", "pack", "pack is a collection: generate_collection builds it."),
    ("generate_collection", "sheet", "sheet is an artifact: assemble_artifact composes it."),
    ("trace_dependencies", "note", "note is a content: generate_content makes its text."),
    ("generate_content", "draft-20261130T120000-abcdef", "is the id of a draft: test_config tries it"),
    ("generate_content", "nota", "Did you mean note?"),
    ("generate_content", "nobody", "list_content_configs lists the content configs."),
    ("assemble_artifact", "shet", "Did you mean sheet?"),
    ("modify_config", "nota", "Did you mean note?"),
    ("validate_content", "nota", "Did you mean note?"),
    ("test_config", "note", "note is the id of a content config: modify_config changes it."),
    ("save_config", "sheet", "sheet is the id of an artifact config: modify_config changes it."),
    ("delete_content", "sheet", "sheet is an artifact: assemble_artifact composes it."),
]
ID_ARGUMENTS = {
    "generate_content": "content_config_id",
    "assemble_artifact": "artifact_config_id",
    "generate_collection": "collection_config_path",
    "trace_dependencies": "artifact_config_id",
    "modify_config": "config_id",
    "validate_content": "content_or_config_id",
    "test_config": "draft_id",
    "save_config": "draft_id",
    "delete_content": "content_id",
}


@requirement("tools.error.config-not-found")
@pytest.mark.parametrize(("name", "config_id", "hint"), MISSING)
async def test_what_is_missing_is_named_with_what_there_is(
    ask: Asking, project: Project, name: str, config_id: str, hint: str
):
    """The tool for an id of another kind, else similar ids, else where to look; and what exists, similar ones first."""
    project.save(text("note", "x"), text("other", "y"), artifact("sheet", [child("note")]))
    project.save(pack("pack", [member("sheet")]))
    more: dict[str, Any] = {"modify_config": {"updates": {}}, "save_config": {"config_id": "new"}}.get(name, {})
    body = (await ask.answer(name, {ID_ARGUMENTS[name]: config_id, **more}))["error"]
    assert body["code"].endswith("_not_found")
    assert hint in body["hint"]
    existing = body["details"].get("existing")
    if name == "assemble_artifact":
        assert existing == ["sheet"]
    elif config_id == "nota":
        assert existing[0] == "note"


BY_ID = [
    *((name, "content_config_id") for name in ("generate_content", "regenerate_content", "preview_generation")),
    *((name, "artifact_config_id") for name in ("assemble_artifact", "trace_dependencies")),
    *((name, "config_id") for name in ("modify_config",)),
    *((name, "content_or_config_id") for name in ("validate_content",)),
    *(
        (name, "collection_config_path")
        for name in (
            *("generate_collection", "validate_collection_config", "list_collection_members"),
            *("check_collection_cache", "check_freshness"),
        )
    ),
]


@requirement("tools.error.not-found-bounded")
@pytest.mark.parametrize(("name", "parameter"), BY_ID)
async def test_an_error_about_a_missing_id_is_short(ask: Asking, project: Project, name: str, parameter: str):
    """It names what there is, the most similar ids first, within 1 KiB."""
    ids = [f"{word}-{number:02}" for word in ("quarterly-figure", "yearly-report-of-all") for number in range(60)]
    project.save(*(text(id, "x") for id in ids), *(artifact(id, [child(id)]) for id in ids))
    project.save(*(pack(id, [member(id)]) for id in ids))
    rest = {"updates": {"description": "x"}} if name == "modify_config" else {}
    error = await ask.refused(name, "config_not_found", **{parameter: "quarterly-figures-01"}, **rest)
    assert error["details"]["existing"][0] == "quarterly-figure-01"
    assert "quarterly-figure-01" in error["hint"]
    assert f"configs/{error['details']['searched_paths'][0].split('/')[1]}/**" in error["details"]["searched_paths"]
    assert len(msgspec.json.encode(error)) <= 1024, error
    if parameter == "collection_config_path":
        path = f"{'x' * 30}/quarterly-figures-01"
        error = await ask.refused(name, "config_not_found", **{parameter: path})
        assert len(msgspec.json.encode(error)) <= 1024, error


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        ("sheet is an artifact: assemble_artifact composes it.", "sheet is an artifact: `chora assemble` composes it."),
        ("list_content_configs lists the content configs.", "`chora ls configs` lists the content configs."),
        ("draft_config creates one.", "`chora call draft_config` creates one."),
        ("Add it to the setting http.allowed_hosts.", "Add it to the setting http.allowed_hosts."),
        ("Set expires_in_days.", "Set expires_in_days."),
    ],
)
def test_hints_for_people_name_commands(hint: str, shown: str):
    """On the command line there are no tools to call."""
    assert hint_for_people(hint) == shown
    assert set(COMMAND_OF_TOOL) <= set(TOOLS)
