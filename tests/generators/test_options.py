"""The options of generators: what no generator knows is told, whichever generator it is."""

from __future__ import annotations

from typing import Any

import pytest

from chora.generators import GENERATORS
from chora.skeletons import skeleton
from tests.conftest import Asking, Project, requirement


def misspelt(generator: str, *names: str) -> dict[str, Any]:
    """A config with options that the generator doesn't know."""
    document = skeleton("content", generator)
    pattern = document["generation"]["patterns"][0]
    pattern.setdefault("generation_config", {}).update(dict.fromkeys(names, 1))
    return document


@requirement("generators.unknown-options")
@pytest.mark.parametrize("generator", [module.NAME for module in GENERATORS])
async def test_an_option_that_a_generator_does_not_know_is_a_warning(project: Project, ask: Asking, generator: str):
    """It would do nothing in silence. A preview, a draft and a validation name it."""
    document = misspelt(generator, "trim_block")
    message = f"generation_config.trim_block means nothing to {generator}"
    project.save(document)
    drafted = await ask("draft_config", config_type="content", config_data=document)
    assert any(message in issue["message"] for issue in drafted["validation_issues"])
    found = await ask("validate_content", content_or_config_id="my-content")
    (issue,) = [issue for issue in found["issues"] if issue["code"] == "unknown_option"]
    assert (issue["severity"], issue["location"]) == ("warning", "generation.patterns[0].generation_config")
    assert found["valid"]
    if generator == "code_generation":
        return  # nobody may be asked here
    tested = await ask("test_config", draft_id=drafted["draft_id"])
    assert any(message in warning for warning in tested["warnings"])


async def test_a_near_option_is_named_and_many_are_cut(ask: Asking):
    """What every generator has is no unknown option; null is one all the same."""
    document = misspelt("jinja2", "trim_block", *(f"x{number:02}" for number in range(30)))
    document["generation"]["patterns"][0]["generation_config"]["undefined_behaviour"] = None
    drafted = await ask("draft_config", config_type="content", config_data=document)
    messages = [issue["message"] for issue in drafted["validation_issues"] if issue["code"] == "unknown_option"]
    assert len(messages) == 10
    assert "generation_config.trim_block means nothing to jinja2; did you mean trim_blocks?" in messages[0]
    fine = await ask("draft_config", config_type="content", config_data=skeleton("content"))
    assert fine["validation_issues"] == []
