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
    """What a person changed of what chora wrote; files that are as written are no edits."""
    assert run("edits").stdout == f"{SHEET}\tedited\t+0 -0 ~1\tsheet\n"
    (edit,) = json.loads(run("edits", "list", "--json").stdout)["edits"]
    assert (edit["path"], edit["state"]) == (SHEET, "edited")
    shown = run("edits", "show", SHEET).stdout
    assert "-three\n+three, edited" in shown
    assert f"--- {SHEET} (written)" in shown


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


@requirement("edits.deleted")
def test_a_deleted_output_is_listed_and_written_again(project: Project, run: Callable[..., Result]):
    """With a warning; plans and checks say it before."""
    (project.root / OTHER).unlink()
    (edit,) = [each for each in json.loads(run("edits", "--json").stdout)["edits"] if each["path"] == OTHER]
    assert (edit["state"], edit["deleted"], edit["changes"]) == ("deleted", True, "+0 -4 ~0")
    assert "-one\n-two\n" in run("edits", "show", OTHER).stdout
    assert f"{OTHER} is gone" in run("assemble", "other", "--check", code=1).stdout
    assert f"warning: {OTHER} had been deleted" in run("assemble", "other").stderr
    assert project.read(OTHER) == WRITTEN
    assert OTHER not in run("edits").stdout


@requirement("edits.deleted")
def test_an_accepted_deletion_stays(project: Project, run: Callable[..., Result]):
    """Whatever changes and is forced, without failing a check, until it is discarded; deleting it then is new."""
    (project.root / OTHER).unlink()
    assert run("edits", "accept", OTHER).stdout == f"{OTHER}: accepted; it isn't written any more\n"
    for options in ((), ("--force",)):
        for text in (WRITTEN, WRITTEN + "five\n"):
            write(project, text)
            for _ in range(2):
                assert f"{OTHER} isn't written" in run("assemble", "other", *options).stderr
                run("assemble", "other", "--check")
                assert run("assemble", "other", "--plan").stdout.startswith("deleted")
                assert not (project.root / OTHER).exists()
    assert f"{OTHER}\taccepted\t+0 -4 ~0\tother\n" in run("edits").stdout
    discarded = json.loads(run("edits", "discard", OTHER, "--json").stdout)
    assert discarded["kept"] is None
    assert discarded["message"] == f"{OTHER}: it is as chora wrote it"
    assert project.read(OTHER) == WRITTEN
    assert run("assemble", "other").stderr.startswith("reassembled")
    assert project.read(OTHER) == WRITTEN + "five\n"
    (project.root / OTHER).unlink()
    assert "had been deleted" in run("assemble", "other").stderr


@requirement("edits.deleted")
def test_one_output_of_two_may_stay_deleted(project: Project, run: Callable[..., Result]):
    """The other one is written as ever; also by a collection, whose cache holds nevertheless."""
    project.save(
        artifact(
            "both", [child("note")], *({"file": f"outputs/{name}.md", "format": "markdown"} for name in ("one", "two"))
        ),
        {
            "type": "collection",
            "id": "pack",
            "name": "pack",
            "members": [{"id": "both", "type": "artifact", "path": "both"}],
            "output": {"base_path": "outputs/pack", "structure": "flat"},
        },
    )
    run("collect", "pack")
    one, two = project.root / "outputs/pack/one.md", project.root / "outputs/pack/two.md"
    one.unlink()
    run("edits", "accept", "outputs/pack/one.md")
    for text in (WRITTEN, WRITTEN + "five\n"):
        write(project, text)
        run("collect", "pack")
        assert "Cache hits: 1, misses: 0" in run("collect", "pack").stdout
        run("collect", "pack", "--check")
        assert (one.exists(), two.read_text()) == (False, text)


@requirement("edits.deleted")
def test_a_deletion_of_which_the_text_is_not_known_is_undone_by_the_next_build(
    project: Project, run: Callable[..., Result]
):
    """A generated file is never merged, so its text isn't kept."""
    outputs = {"file": "outputs/made.md", "format": "markdown", "generated": True}
    project.save(artifact("made", [child("note")], outputs))
    run("assemble", "made")
    (project.root / "outputs/made.md").unlink()
    assert "isn't known any more" in run("edits", "show", "outputs/made.md").stdout
    run("edits", "accept", "outputs/made.md")
    run("assemble", "made")
    run("assemble", "made", "--check")
    assert not (project.root / "outputs/made.md").exists()
    assert "the next build writes it" in run("edits", "discard", "outputs/made.md").stdout
    assert "the deletion of outputs/made.md was discarded" in run("assemble", "made", "--plan").stdout
    run("assemble", "made")
    assert project.read("outputs/made.md") == WRITTEN


@requirement("edits.deleted")
def test_what_is_gone_for_another_reason_is_no_deletion(project: Project, run: Callable[..., Result]):
    """An orphan, whoever deleted it, and a file that was never there; there is nothing to merge with a deletion."""
    (project.root / OTHER).unlink()
    assert "nothing to merge" in run("edits", "merge", OTHER, code=4).stderr
    (project.root / "configs/artifact/other.json").unlink()
    assert OTHER not in run("edits").stdout
    assert "nothing writes it any more" in run("edits", "accept", OTHER, code=3).stderr
    write(project, WRITTEN)
    assert f"{OTHER}\tdeleted" in run("edits").stdout
    project.write("configs/artifact/other.json", "{")
    assert f"{OTHER}\tdeleted" in run("edits").stdout
    write(project, WRITTEN)
    run("assemble", "other")
    (project.root / "configs/artifact/other.json").unlink()
    run("gc", "--outputs")
    assert not (project.root / OTHER).exists()
    write(project, WRITTEN)
    assert OTHER not in run("edits").stdout, "chora deleted it"
    assert "had been deleted" not in run("assemble", "other").stderr
