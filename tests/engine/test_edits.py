"""People's edits of outputs, listed and settled."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from chora.cli import program
from chora.engine.merging import END, OURS, YOURS
from tests.conftest import Project, artifact, child, content, requirement

SHEET, OTHER = "outputs/sheet.md", "outputs/other.md"
WRITTEN = "one\ntwo\nthree\nfour\n"
EDITED = "one\ntwo\nthree, edited\nfour\n"


@pytest.fixture
def run(project: Project) -> Callable[..., Result]:
    """Run a command in a project of two artifacts, which were written; one was edited."""
    write(project, WRITTEN)

    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(program, ["--project", str(project.root), *arguments])
        assert result.exit_code == code, result.output
        return result

    invoke("assemble", "sheet")
    invoke("assemble", "other")
    project.write(SHEET, EDITED)
    return invoke


def write(project: Project, text: str) -> None:
    """Change the text that both artifacts are assembled from."""
    project.save(
        content("note", pattern={"type": "template_fill", "template": text}),
        artifact("sheet", [child("note")]),
        artifact("other", [child("note")]),
    )


@requirement("edits.list")
def test_edits_are_listed_and_shown(project: Project, run: Callable[..., Result]):
    """What a person changed of what chora wrote; files that are as written, or gone, are no edits."""
    assert run("edits").stdout == f"{SHEET}\tedited\t+0 -0 ~1\tsheet\n"
    (edit,) = json.loads(run("edits", "list", "--json").stdout)["edits"]
    assert (edit["path"], edit["state"]) == (SHEET, "edited")
    shown = run("edits", "show", SHEET).stdout
    assert "-three\n+three, edited" in shown
    assert f"--- {SHEET} (written)" in shown
    (project.root / SHEET).unlink()
    assert run("edits").stdout == ""


@requirement("edits.accept")
@pytest.mark.parametrize("mode", ["refuse", "merge", "overwrite"])
def test_an_accepted_edit_stays(project: Project, run: Callable[..., Result], mode: str):
    """Without failing a check, and later changes are merged with it, again and again; a further edit is a new one."""
    run("edits", "accept", SHEET)
    project.write("chora.toml", f'[output]\non_edit = "{mode}"\n')
    for _ in range(2):
        run("assemble", "sheet")
        run("assemble", "sheet", "--check")
        assert project.read(SHEET) == EDITED
    assert "accepted" in run("edits").stdout
    for first in ("ONE", "Uno"):
        write(project, WRITTEN.replace("one", first))
        run("assemble", "sheet")
        assert project.read(SHEET) == EDITED.replace("one", first)
        run("assemble", "sheet", "--check")
    project.write(SHEET, EDITED + "more\n")
    if mode == "refuse":
        write(project, WRITTEN)
        run("assemble", "sheet", code=4)


@requirement("edits.merge", "outputs.conflicts")
def test_an_edit_is_merged_now(project: Project, run: Callable[..., Result]):
    """Under the setting refuse, too; a conflict is said, and can't be accepted until it is settled."""
    write(project, WRITTEN.replace("one", "ONE"))
    run("assemble", "sheet", code=4)
    assert run("edits", "merge", SHEET).stdout == f"{SHEET}: merged\n"
    assert project.read(SHEET) == EDITED.replace("one", "ONE")
    write(project, WRITTEN.replace("three", "THREE"))
    assert "with conflicts" in run("edits", "merge", SHEET).stdout
    conflict = f"{YOURS}\nthree, edited\n{OURS}\nTHREE\n{END}\n"
    assert conflict in project.read(SHEET)
    assert "conflicts" in run("edits").stdout
    run("assemble", "sheet", code=1)
    assert "holds conflicts" in run("edits", "accept", SHEET, code=4).stderr
    project.write(SHEET, project.read(SHEET).replace(conflict, "three, settled\n"))
    run("edits", "accept", SHEET)
    run("assemble", "sheet")
    run("assemble", "sheet", "--check")
    assert "three, settled" in project.read(SHEET)


@requirement("edits.discard")
def test_a_discarded_edit_is_kept_elsewhere(project: Project, run: Callable[..., Result]):
    """And what chora wrote is in its place."""
    kept = json.loads(run("edits", "discard", SHEET, "--json").stdout)["kept"]
    assert project.read(kept) == EDITED
    assert project.read(SHEET) == WRITTEN
    assert run("edits").stdout == ""
    run("assemble", "sheet", "--check")


@requirement("edits.list", "cli.exit-codes")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", OTHER), 3, "as chora wrote it"),
        (("accept", "outputs/never.md"), 3, "chora didn't write it"),
        (("discard", "outputs/never.md"), 3, "chora didn't write it"),
        (("show", "../outside.md"), 4, "outside"),
        (("accept",), 2, "Name the PATH"),
        (("list", SHEET), 2, "takes no PATH"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_no_edit_is_refused(run: Callable[..., Result], arguments: tuple[str, ...], code: int, said: str):
    """With the reason."""
    assert said in run("edits", *arguments, code=code).stderr
