"""The commands that build, plan and show what is stored: collect, assemble, freshness, trace, …"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import trio
from click.testing import CliRunner, Result

from chora import settings
from chora.cli import collect as collect_command
from chora.cli import program
from chora.engine.engine import open_engine
from chora.generators.registry import Generator
from chora.hashing import sha256
from chora.protocol.types import Call
from chora.store import Version
from chora.timestamps import format_timestamp
from chora.tools import TOOLS
from tests.conftest import Project, artifact, child, content, requirement, text, unchanged

Run = Callable[..., Result]


@pytest.fixture
def run(project: Project) -> Run:
    """Run a command in the project."""

    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(program, ["--project", str(project.root), *arguments])
        assert result.exit_code == code, result.output
        return result

    return invoke


def loads(result: Result) -> Any:
    return json.loads(result.stdout)


def pack(id: str, members: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"type": "collection", "id": id, "name": id, "members": members}
    return {**document, "output": {"base_path": f"outputs/{id}"}, **rest}


def member(id: str, kind: str = "artifact", **rest: Any) -> dict[str, Any]:
    return {"id": id, "type": kind, "path": f"{id}.json", **rest}


@pytest.fixture
def harbour(project: Project) -> Project:
    """Collection `pack` of the artifact `notice`, which greets, and of the collection `desk`, which holds `sheet`."""
    project.save(
        content("word", pattern={"type": "jinja2", "template": "Open {{ day | default('daily') }}"}),
        text("fixed", "fixed\n"),
        artifact("notice", [child("word")]),
        artifact("sheet", [child("fixed")]),
        pack("desk", [member("sheet")]),
        pack("pack", [member("notice"), member("desk", "collection")]),
    )
    return project


# -- collect ----------------------------------------------------------------------------------------------------

LINES = re.compile(
    r"""Generated artifact: outputs/pack/notice/notice\.md
Generated artifact: outputs/pack/desk/manifest\.json
Generated 2/2 items \(100% success\)
Total time: \d+\.\ds
Cache hits: 0, misses: 2 \(0% hit rate\)
"""
)


@requirement("cli.collect.lines")
def test_collect_prints_the_lines_that_scripts_parse(run: Run, harbour: Project):
    """Byte for byte, and nothing else on stdout; the second time everything is from the cache."""
    assert LINES.fullmatch(run("collect", "pack").stdout)
    assert harbour.read("outputs/pack/notice/notice.md") == "Open daily"
    again = run("collect", "pack").stdout.splitlines()
    assert again[0] == "Generated 2/2 items (100% success)"
    assert re.fullmatch(r"Total time: \d+\.\ds", again[1])
    assert again[2:] == ["Cache hits: 2, misses: 0 (100% hit rate)"]
    harbour.save(text("fixed", "mended\n"))
    assert run("collect", "pack").stdout.splitlines()[-1] == "Cache hits: 1, misses: 1 (50% hit rate)"


@requirement("cli.collect.lines")
def test_collect_reports_failed_optional_members(run: Run, harbour: Project):
    """On stderr; the lines count them, and the command succeeds."""
    harbour.save(pack("pack", [member("notice"), member("gone", required=False), member("bad", required=False)]))
    harbour.save(artifact("bad", [child("nothing")]))
    result = run("collect", "pack")
    assert result.stdout.splitlines()[1] == "Generated 1/3 items (33% success)"
    assert "gone skipped: " in result.stderr
    assert "bad failed: " in result.stderr


def test_collect_takes_context_places_and_force(run: Run, harbour: Project):
    """As the tool does."""
    run("collect", "pack", "-c", "day=Monday", "--output", "there")
    assert harbour.read("there/notice/notice.md") == "Open Monday"
    run("collect", "pack", "-c", "day=Monday", "-o", "there")
    one = run("collect", "pack", "-c", "day=Monday", "-o", "there", "--member", "notice")
    assert one.stdout.splitlines()[-1] == "Cache hits: 1, misses: 1 (50% hit rate)"
    both = run("collect", "pack", "-c", "day=Monday", "-o", "there", "--force", "--json")
    assert loads(both)["metadata"]["regenerated_members"] == 2


def test_collect_shows_warnings(run: Run, harbour: Project):
    """On stderr, with the member."""
    harbour.save(artifact("notice", [child("word"), child("gone", required=False)]))
    assert "warning: notice: The optional child gone was left out" in run("collect", "pack").stderr


@requirement("cli.plan")
def test_collect_plans_without_writing(run: Run, harbour: Project):
    """Which members would be built and why; `--diff` shows how files would change; both exit 0."""
    with unchanged(harbour):
        plan = run("collect", "pack", "--plan").stdout
        assert plan.splitlines() == [
            "notice: it was never assembled",
            "create: outputs/pack/notice/notice.md",
            "desk: sheet: it was never assembled",
            "create: outputs/pack/desk/sheet/sheet.md",
            "2 of 2 members would be built",
        ]
    run("collect", "pack")
    assert run("collect", "pack", "--plan").stdout == "0 of 2 members would be built\n"
    harbour.save(text("fixed", "mended\n"))
    with unchanged(harbour):
        diff = run("collect", "pack", "--diff").stdout
        assert "update: outputs/pack/desk/sheet/sheet.md" in diff
        assert "-fixed" in diff
        assert "+mended" in diff
        planned = loads(run("collect", "pack", "--plan", "--json"))
    assert planned["metadata"]["dry_run"] is True
    assert planned["members"][1]["reasons"] == ["sheet: configs/content/fixed.json has changed"]


@requirement("cli.check")
def test_collect_check_exits_1_if_a_file_is_stale_or_edited(run: Run, harbour: Project):
    """0 if all are up to date; nothing is written."""
    with unchanged(harbour):
        run("collect", "pack", "--check", code=1)
    run("collect", "pack")
    with unchanged(harbour):
        assert run("collect", "pack", "--check").stdout == "pack is up to date (2 members)\n"
        assert loads(run("collect", "pack", "--check", "--json"))["success"] is True
    harbour.save(text("fixed", "mended\n"))
    with unchanged(harbour):
        run("collect", "pack", "--check", code=1)
        stale = loads(run("collect", "pack", "--check", "--json", code=1))
    assert stale["members"][1]["cache_used"] is False
    run("collect", "pack")
    harbour.write("outputs/pack/notice/notice.md", "my own words\n")
    with unchanged(harbour):
        edited = run("collect", "pack", "--check", code=1)
    assert "refuse: outputs/pack/notice/notice.md" in edited.stdout


@requirement("outputs.conflicts", "cli.check")
def test_conflicts_fail_until_they_are_settled(run: Run, harbour: Project):
    """`collect` and `assemble` exit 1, with and without `--check`, and say which file to look at."""
    harbour.write("chora.toml", '[output]\non_edit = "merge"\n')
    run("collect", "pack")
    run("assemble", "notice")
    places = {"assemble": "outputs/notice.md", "collect": "outputs/pack/notice/notice.md"}
    for path in places.values():
        harbour.write(path, "mine\n")
    for command, path in places.items():
        name = "pack" if command == "collect" else "notice"
        monday = ("-c", "day=Monday")
        assert "mine" in run(command, name, *monday, "--diff", code=1).stdout
        assert f"{path} holds conflicts" in run(command, name, *monday, code=1).stderr
        assert f"{path} holds conflicts" in run(command, name, *monday, code=1).stderr
        assert "not settled" in run(command, name, *monday, "--check", code=1).stdout
        assert loads(run(command, name, *monday, "--json", code=1))["metadata"]["conflicts"] == [path]
        harbour.write(path, "settled\n")
        run(command, name, *monday)
        run(command, name, *monday, "--check")


@requirement("cli.exit-codes")
def test_a_member_that_does_not_exist_is_not_found(run: Run, harbour: Project):
    """Nothing is built, and the name that is meant is said."""
    with unchanged(harbour):
        said = run("collect", "pack", "--member", "notcie", code=3).stderr
    assert "no member notcie" in said
    assert "Did you mean notice?" in said


@requirement("cli.check")
@pytest.mark.parametrize("flag", ["--plan", "--diff", "--check"])
def test_a_member_that_would_fail_fails_the_plan(run: Run, harbour: Project, flag: str):
    """With its error."""
    harbour.save(pack("pack", [member("gone"), member("notice")]))
    assert "gone: " in run("collect", "pack", flag, code=1).stdout


@requirement("cli.exit-codes", "cli.json")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("collect", "missing"), 3, "config_not_found"),
        (("collect", "../../etc"), 2, "invalid_config_id"),
        (("collect", "pack", "-o", "../out"), 4, "permission_denied"),
        (("collect", "broken"), 1, "composition_failed"),
        (("collect", "circle"), 2, "circular_reference"),
        (("collect", "strict"), 2, "validation_failed"),
        (("assemble", "missing", "--check"), 3, "config_not_found"),
        (("preview", "missing"), 3, "config_not_found"),
        (("preview", "undefined"), 1, "generation_failed"),
        (("freshness", "pack"), 3, "manifest_not_found"),
        (("trace", "missing"), 3, "config_not_found"),
        (("jobs", "job-gone"), 3, "job_not_found"),
        (("jobs", "job-gone", "--cancel"), 3, "job_not_found"),
        (("validate", "missing"), 3, "config_not_found"),
        (("validate", "missing", "--collection"), 3, "config_not_found"),
        (("validate", "word", "--rules", "{"), 2, "invalid_input"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_failures_are_json_or_text(run: Run, harbour: Project, arguments: tuple[str, ...], code: int, said: str):
    """The exit code is the error's; with --json, stdout is the tool's result only."""
    harbour.save(
        content("undefined", pattern={"type": "jinja2", "template": "{{ gone }}"}),
        artifact("bad", [child("nothing")]),
        pack("broken", [member("bad")], output={"base_path": "o", "manifest": False}),
        pack("circle", [member("circle", "collection")]),
        pack(
            "strict",
            [member("bad", required=False)],
            output={"base_path": "o", "manifest": False},
            validation={"rules": [{"type": "no_failures"}]},
        ),
    )
    with unchanged(harbour):
        failure = loads(run(*arguments, "--json", code=code))
        assert (failure["success"], failure["error"]["code"]) == (False, said)
        assert set(failure) == {"success", "error"}
        assert set(failure["error"]) == {"code", "message", "hint", "details"}
        result = run(*arguments, code=code)
    # Scripts for chora-compose parse the totals, also of a collection that failed.
    begun = [line.partition(" ")[0] for line in result.stdout.splitlines()]
    assert begun == (
        ["Generated", "Total", "Cache"] if arguments in (("collect", "broken"), ("collect", "strict")) else []
    )
    assert result.stderr.startswith("error: ")


SAME: list[tuple[tuple[str, ...], str, dict[str, Any]]] = [
    (("generate", "word"), "generate_content", {"content_config_id": "word"}),
    (("preview", "word"), "preview_generation", {"content_config_id": "word", "show_metadata": True}),
    (("assemble", "notice"), "assemble_artifact", {"artifact_config_id": "notice"}),
    (("assemble", "notice", "--plan"), "assemble_artifact", {"artifact_config_id": "notice", "dry_run": True}),
    (("collect", "pack"), "generate_collection", {"collection_config_path": "pack"}),
    (("freshness", "pack"), "check_freshness", {"collection_config_path": "pack"}),
    (("trace", "notice"), "trace_dependencies", {"artifact_config_id": "notice", "show_metadata": True}),
    (("validate", "word"), "validate_content", {"content_or_config_id": "word"}),
    (("validate", "pack", "--collection"), "validate_collection_config", {"collection_config_path": "pack"}),
    (("ls", "content"), "list_content", {"limit": 500}),
    (("ls", "artifacts"), "list_artifacts", {"limit": 500}),
    (("ls",), "list_artifacts", {"limit": 500}),
    (("ls", "configs"), "list_content_configs", {}),
    (("ls", "generators"), "list_generators", {}),
    (("call", "list_generators"), "list_generators", {}),
    (("generate", "missing"), "generate_content", {"content_config_id": "missing"}),
    (("collect", "missing"), "generate_collection", {"collection_config_path": "missing"}),
]
PASSING = {
    "duration_ms",
    "generation_time_seconds",
    "checked_at",
    "age_days",
    "expires_in_days",
    "threshold_percentage",
}


@requirement("cli.json")
@pytest.mark.slow("runs a dozen commands")
def test_json_is_exactly_the_result_of_the_tool(run: Run, harbour: Project):
    """Successes and failures alike, except for times."""
    run("collect", "pack")
    run("generate", "word")
    run("assemble", "notice")
    for arguments, name, asked in SAME:
        printed = CliRunner().invoke(program, ["--project", str(harbour.root), *arguments, "--json"]).stdout
        assert _without_times(json.loads(printed)) == _without_times(_answer(harbour, name, asked)), arguments


def _answer(project: Project, name: str, arguments: dict[str, Any]) -> Any:
    async def ask() -> Any:
        async with open_engine(project.root, settings.load(project.root, {}).settings) as engine:
            answer = await TOOLS[name].run_tool(engine, msgspec.json.encode(arguments), Call("cli", len(TOOLS)))
            return msgspec.json.decode(answer.body)

    return trio.run(ask)


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_times(each)
            for key, each in value.items()
            if key not in PASSING and not key.endswith("_age_days")
        }
    return [_without_times(each) for each in value] if isinstance(value, list) else value


@requirement("cli.progress")
def test_long_work_shows_its_progress_on_a_terminal(
    run: Run, harbour: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """On stderr, so that stdout has the result alone."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with pytest.raises(SystemExit) as ended:
        program.main(["--project", str(harbour.root), "collect", "pack"], prog_name="chora")
    assert ended.value.code == 0
    output, errors = capsys.readouterr()
    assert LINES.fullmatch(output)
    assert "2/2" in errors


# -- assemble ---------------------------------------------------------------------------------------------------


@requirement("cli.plan", "cli.check")
def test_assemble_plans_without_writing(run: Run, harbour: Project):
    """`--plan` and `--diff` exit 0; `--check` exits 1 if a file would change."""
    with unchanged(harbour):
        assert run("assemble", "notice", "--plan").stdout == "create: outputs/notice.md (it was never assembled)\n"
        assert "+Open daily" in run("assemble", "notice", "--diff").stdout
        run("assemble", "notice", "--check", code=1)
        assert (
            loads(run("assemble", "notice", "--check", "--json", code=1))["metadata"]["plan"][0]["action"] == "create"
        )
    run("assemble", "notice")
    with unchanged(harbour):
        assert run("assemble", "notice", "--check").stdout == "unchanged: outputs/notice.md\n"
        run("assemble", "notice", "--check", "-c", "day=Friday", code=1)
    harbour.write("outputs/notice.md", "mine\n")
    with unchanged(harbour):
        edited = run("assemble", "notice", "-c", "day=Friday", "--diff", "--check", code=1).stdout
    assert edited.startswith("refuse: outputs/notice.md (")
    assert "-mine" in edited


def test_assemble_shows_warnings(run: Run, harbour: Project):
    """On stderr."""
    harbour.save(artifact("notice", [child("word"), child("gone", required=False)]))
    assert "warning: The optional child gone was left out" in run("assemble", "notice").stderr


# -- preview ----------------------------------------------------------------------------------------------------


@requirement("cli.preview")
def test_preview_prints_the_text_and_stores_nothing(run: Run, harbour: Project):
    """The text on stdout, its warnings on stderr."""
    with unchanged(harbour):
        result = run("preview", "word", "-c", "day=Sunday", "-c", "unused=1")
    assert result.stdout == "Open Sunday\n"
    assert "warning: unused isn't used by the template" in result.stderr
    assert loads(run("ls", "content", "--json"))["content"][1]["generated"] is False
    harbour.save(text("endless", "no newline"))
    assert run("preview", "endless").stdout == "no newline\n"


# -- freshness --------------------------------------------------------------------------------------------------


@requirement("cli.freshness")
def test_freshness_shows_ages(run: Run, harbour: Project):
    """Each member's age and its limit; recommendations go to stderr."""
    harbour.save(pack("pack", [member("notice"), member("desk", "collection"), member("sheet")]))
    made = format_timestamp(datetime.now(UTC) - timedelta(days=6))
    members = [
        {"id": "notice", "status": "success", "generated_at": made},
        {"id": "sheet", "status": "success", "generated_at": format_timestamp(datetime.now(UTC))},
    ]
    document = {"collection_id": "pack", "members": members, "generated_at": made}
    harbour.write("outputs/pack/manifest.json", msgspec.json.encode(document))
    result = run("freshness", "pack")
    assert result.stdout.splitlines() == [
        "notice\tstale\t6.0 of 7\t█████████████████░░░",
        "desk\texpired\tnever built\t████████████████████",
        "sheet\tfresh\t0.0 of 7\t░░░░░░░░░░░░░░░░░░░░",
    ]
    assert result.stderr == "regenerate_expired\n"
    harbour.write("there/manifest.json", msgspec.json.encode(document))
    assert (
        loads(run("freshness", "pack", "-o", "there", "--json"))["metadata"]["manifest_path"] == "there/manifest.json"
    )


# -- trace ------------------------------------------------------------------------------------------------------


@requirement("cli.trace")
def test_trace_shows_what_changed(run: Run, harbour: Project):
    """Each dependency with what changed since the last build; `--inputs` lists all inputs."""
    harbour.save(artifact("notice", [child("word"), child("gone", required=False)]))
    before = run("trace", "notice")
    assert before.stdout.splitlines()[0] == "word\tmissing\trequired\tup to date"
    assert before.stdout.splitlines()[1].startswith("gone\tmissing\toptional\tThere is no content config")
    assert before.stderr == "notice is incomplete: it was never assembled\n"
    run("assemble", "notice")
    listed = run("trace", "notice", "--inputs").stdout
    assert "word ← configs/content/word.json" in listed
    harbour.save(content("word", pattern={"type": "jinja2", "template": "Closed\n"}))
    after = run("trace", "notice")
    assert after.stdout.splitlines()[0].startswith("word\tready\trequired\tconfigs/content/word.json")
    assert loads(run("trace", "notice", "--json"))["dependencies"][0]["metadata"]["versions_available"] == 1


def test_trace_of_an_up_to_date_artifact(run: Run, harbour: Project):
    """The output says that nothing has changed."""
    run("assemble", "sheet")
    assert run("trace", "sheet").stderr == "sheet is ready: its files are up to date\n"


# -- jobs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(harbour: Project, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a job that was interrupted, as its process ended."""

    async def leave() -> str:
        loaded = settings.load(harbour.root, {}, {"jobs.call_budget": 0.05})
        async with open_engine(harbour.root, loaded.settings) as engine:
            arguments = msgspec.json.encode({"content_config_id": "word", "context": {"day": "Monday"}})
            answer = await TOOLS["regenerate_content"].run_tool(engine, arguments, Call("http"))
            return msgspec.json.decode(answer.body)["job"]

    async def never(*arguments: Any) -> Any:
        await trio.sleep_forever()

    with monkeypatch.context() as patch:
        patch.setattr(Generator, "generate_text", never)
        return trio.run(leave)


@requirement("cli.jobs", "jobs.interrupted")
def test_jobs_are_listed_and_shown(run: Run, job: str):
    """A job whose process ended is interrupted; a result is printed unchanged."""
    (row,) = run("jobs").stdout.splitlines()
    assert row.split("\t")[:3] == [job, "regenerate_content", "interrupted"]
    assert run("jobs", job).stdout.splitlines() == [row]
    listed = loads(run("jobs", "--json"))
    assert (listed["success"], [each["job_id"] for each in listed["jobs"]]) == (True, [job])
    shown = loads(run("jobs", job, "--json"))
    assert (shown["success"], shown["status"], shown["result"]) == (True, "interrupted", None)
    assert shown["arguments"]["content_config_id"] == "word"
    assert "key" not in shown


@requirement("cli.jobs")
def test_a_job_that_has_ended_stays_as_it_is(run: Run, job: str):
    """Cancelling it changes nothing; --cancel requires an id."""
    assert loads(run("jobs", job, "--cancel", "--json"))["status"] == "interrupted"
    assert "needs the id" in run("jobs", "--cancel", code=2).stderr


@requirement("cli.jobs")
def test_a_finished_job_shows_its_result(run: Run, harbour: Project):
    """The tool's answer."""

    async def finish() -> str:
        async with open_engine(
            harbour.root, settings.load(harbour.root, {}, {"jobs.call_budget": 1e-9}).settings
        ) as engine:
            asked = msgspec.json.encode({"content_config_id": "word"})
            answer = await TOOLS["regenerate_content"].run_tool(engine, asked, Call("http"))
            job_id = msgspec.json.decode(answer.body)["job"]
            while engine.jobs.find_job(job_id).status == "running":
                await trio.sleep(0.01)
            return job_id

    job_id = trio.run(finish)
    assert json.loads(run("jobs", job_id).stdout)["content"] == "Open daily"
    assert loads(run("jobs", job_id, "--json"))["result"]["content"] == "Open daily"
    assert run("jobs").stdout.split("\t")[2] == "done"


# -- ls ---------------------------------------------------------------------------------------------------------


@requirement("cli.ls")
def test_ls_lists_every_config(run: Run, harbour: Project):
    """One row each; configs that can't be read go to stderr."""
    harbour.write("configs/content/broken.json", "{")
    assert run("ls").stdout.splitlines() == [
        "notice\tnotice\tFalse\toutputs/notice.md",
        "sheet\tsheet\tFalse\toutputs/sheet.md",
    ]
    contents = run("ls", "content")
    assert contents.stdout.splitlines() == ["fixed\tdemonstration\tFalse\t", "word\tjinja2\tFalse\t"]
    assert contents.stderr.startswith("configs/content/broken.json: ")
    assert run("ls", "configs").stdout.splitlines()[1] == "word\tjinja2\tconfigs/content/word.json\tAbout word"
    assert len(run("ls", "generators").stdout.splitlines()) == 5
    run("ls", "unicorns", code=2)


# -- gc ---------------------------------------------------------------------------------------------------------


@requirement("cli.gc", "storage.retention-automatic")
def test_gc_removes_old_texts(run: Run, harbour: Project):
    """The newest three texts of a content stay; a dry run only reports."""

    async def fill() -> None:
        async with open_engine(harbour.root, settings.load(harbour.root, {}).settings) as engine:
            for age in (60, 50, 40, 35, 1):
                moment = format_timestamp(datetime.now(UTC) - timedelta(days=age))
                version = Version(
                    content_id="word",
                    body="0123456789",
                    sha256=sha256(b"0123456789"),
                    fingerprint=f"sha256:{age}",
                    generator="jinja2",
                    generator_version="1",
                    generated_at=moment,
                )
                await engine.store.add_version(version)

    trio.run(fill)
    result = run("gc", "--dry-run").stdout
    assert result == "2 texts (20 bytes), 0 drafts, 0 jobs and 0 rows of events and measurements would be deleted\n"
    assert loads(run("gc", "--dry-run", "--json"))["versions"] == 2
    done = loads(run("gc", "--json"))
    assert {name: done[name] for name in ("success", "dry_run", "versions", "bytes_freed", "drafts")} == {
        "success": True,
        "dry_run": False,
        "versions": 2,
        "bytes_freed": 20,
        "drafts": 0,
    }
    assert run("gc").stdout.startswith("0 texts (0 bytes)")


# -- validate ---------------------------------------------------------------------------------------------------


@requirement("cli.validate")
def test_validate_exits_1_on_errors(run: Run, harbour: Project):
    """Findings on stdout, their count on stderr; warnings alone exit 0."""
    fine = run("validate", "fixed")
    assert "0 errors" in fine.stderr
    short = run("validate", "fixed", "--rules", '[{"type": "length", "config": {"min": 100}, "severity": "warning"}]')
    assert "1 warning" in short.stderr or "warning" in short.stdout
    wrong = run(
        "validate", "fixed", "--rules", '[{"type": "required_fields", "config": {"fields": ["children"]}}]', code=1
    )
    assert "error fixed" in wrong.stdout or "error" in wrong.stdout
    assert "[missing_required_field]" in wrong.stdout
    found = loads(
        run("validate", "fixed", "--rules", '[{"type": "required_fields", "fields": ["children"]}]', "--json", code=1)
    )
    assert (found["success"], found["valid"], found["error_count"]) == (True, False, 1)


@requirement("cli.validate")
def test_validate_a_collection(run: Run, harbour: Project):
    """Together with the configs of its members."""
    run("validate", "pack", "--collection")
    harbour.save(pack("pack", [member("gone"), member("notice")]))
    result = run("validate", "pack", "--collection", code=1)
    assert "gone" in result.stdout


def test_check_counts_every_file_that_would_be_written():
    """That is every file that is neither unchanged nor adopted as equal."""
    actions = ["create", "update", "unchanged", "adopt", "merge", "overwrite", "refuse"]
    current = [action for action in actions if not collect_command.is_stale({"action": action, "conflicts": 0})]
    assert current == ["unchanged", "adopt"]
    assert collect_command.is_stale({"action": "unchanged", "conflicts": 1})


def test_orphans_beyond_those_of_the_result_are_counted(capsys: pytest.CaptureFixture[str]):
    """The result has the first of them; each is a line, with what a person did to it."""
    files = [{"path": f"{name}.md", "reason": "it is gone", "edited": name == "b"} for name in "ab"]
    hint = "`chora gc --outputs` deletes orphans that are as chora wrote them\n"
    lines = "orphan: a.md: it is gone\norphan: b.md: it is gone, and it was edited\n"
    for count, said in ((2, hint), (1202, f"and 1,200 more; {hint}")):
        collect_command.print_orphans({"count": count, "files": files})
        assert capsys.readouterr() == ("", lines + said)
    collect_command.print_orphans({"count": 0, "files": []})
    assert capsys.readouterr() == ("", "")


@requirement("outputs.orphans", "outputs.orphans-kept")
def test_orphans_are_reported_and_deleted_on_request(harbour: Project, run: Run):
    """By `collect`, its plan and its check (exit 1), and by `doctor`; `gc --outputs` deletes them, and with --plan it
    only says so."""
    run("collect", "pack")
    path = "outputs/pack/desk/sheet/sheet.md"
    assert harbour.read(path)
    harbour.save(pack("pack", [member("notice")]))
    said = f"orphan: {path}: pack has no member desk any more"
    assert said in run("collect", "pack", "--plan").stderr
    checked = run("collect", "pack", "--check", code=1)
    assert said in checked.stderr
    assert "is up to date" not in checked.stdout
    assert said in run("collect", "pack").stderr
    [step] = [step for step in loads(run("doctor", "--json"))["steps"] if step["name"] == "outputs"]
    assert (step["ok"], step["warning"], path in step["reason"]) == (True, True, True)
    planned = run("gc", "--outputs", "--plan").stdout
    assert planned == f"would be deleted: {path}: pack has no member desk any more\n1 orphan would be deleted, 0 kept\n"
    assert harbour.read(path)
    shown = loads(run("gc", "--outputs", "--json"))
    assert (shown["deleted_count"], shown["kept_count"], shown["deleted"][0]["path"]) == (1, 0, path)
    assert not (harbour.root / "outputs/pack/desk/sheet").exists()
    assert run("gc", "--outputs").stdout == "0 orphans deleted, 0 kept\n"
    assert "is up to date" in run("collect", "pack", "--check").stdout


@requirement("outputs.orphans-kept")
def test_an_orphan_that_was_edited_is_kept(harbour: Project, run: Run):
    """`gc --outputs` says so, and `assemble --check` fails as long as it is there."""
    run("assemble", "sheet")
    document = artifact("sheet", [child("fixed")], {"file": "outputs/new.md", "format": "markdown"})
    harbour.save(document)
    harbour.write("outputs/sheet.md", "Mine.\n")
    run("assemble", "sheet")
    assert "outputs/sheet.md" in run("assemble", "sheet", "--check", code=1).stderr
    kept = run("gc", "--outputs").stdout
    assert "kept: outputs/sheet.md was edited: sheet has no such output any more" in kept
    assert harbour.read("outputs/sheet.md") == "Mine.\n"
    (harbour.root / "outputs/sheet.md").unlink()
    run("assemble", "sheet", "--check")
