"""What the command line prints on a terminal and elsewhere, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
import trio
from click.testing import CliRunner, Result

from chora.cli import COMMANDS, _project_first, program
from chora.cli.examples import EXAMPLES
from chora.cli.run import parse_context, print_table
from chora.cli.terminal import INTERRUPTED, echo
from chora.errors import InvalidInput, exit_code_of
from tests.conftest import Project, artifact, child, content, requirement, text, unchanged, unmeasured_environment
from tests.patience import PATIENCE

CLI = Path(__file__).parents[2] / "chora/cli"
HOSTILE = "[bold]x[/x] [/] \x1b]0;title\x07\x1b[31mred\x9b2J \u202eevil\u2066"


@pytest.fixture
def run(project: Project) -> Callable[..., Result]:
    """Run a command in the project."""

    def invoke(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(program, ["--project", str(project.root), *arguments])
        assert result.exit_code == code, result.output
        return result

    return invoke


def run_process(*arguments: str, **rest: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "chora", *arguments]
    return subprocess.run(command, text=True, capture_output="stdout" not in rest, timeout=PATIENCE, **rest)


# -- controls and markup ----------------------------------------------------------------------------------------


def test_commands_print_with_echo_alone():
    """So that none can forget what is in the texts of others."""
    for file in CLI.glob("*.py"):
        if file.name != "terminal.py":
            assert not re.search(r"click\.s?echo\(|(?<![\w.])print\(", file.read_text()), file


@requirement("cli.controls")
@pytest.mark.parametrize(
    "arguments",
    [
        ("ls",),
        ("ls", "configs"),
        ("ls", "collections"),
        ("ls", "--json"),
        ("validate", "note"),
        ("validate", "pack", "--collection"),
        ("trace", "sheet"),
        ("assemble", "sheet", "--diff"),
        ("collect", "pack", "--plan"),
        ("generate", "broken"),
        ("preview", "broken", "--json"),
        ("tools",),
    ],
    ids=" ".join,
)
def test_nothing_a_config_says_is_carried_out(
    project: Project, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
):
    """Titles, descriptions, errors and file names, on a terminal and elsewhere; what is printed is still there."""
    note = text("note", "x")
    note["metadata"]["description"] = HOSTILE
    note["validation"] = {"rules": [{"id": HOSTILE, "check_type": "regex", "check_config": {"pattern": HOSTILE}}]}
    sheet = artifact("sheet", [child("note")])
    sheet["metadata"]["title"] = HOSTILE
    broken = content(
        "broken", pattern={"type": "jinja2", "template": "{{ x." + "y }}\n{% include '" + HOSTILE + "' %}"}
    )
    pack = {
        "type": "collection",
        "id": "pack",
        "name": HOSTILE,
        "members": [{"id": "sheet", "type": "artifact", "path": f"{HOSTILE}.json"}],
        "output": {"base_path": "outputs/pack"},
    }
    project.save(note, sheet, broken, pack)
    for is_terminal in (False, True):
        monkeypatch.setattr("chora.cli.run.sys.stdout.isatty", partial(bool, is_terminal), raising=False)
        result = CliRunner().invoke(program, ["--project", str(project.root), *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert not re.search("[\x07\x1b\x9b\u202e\u2066]", result.output)


@requirement("cli.controls")
def test_brackets_in_a_table_are_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Also on a terminal, where others would be markup."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    print_table(("Name", "Arguments"), [("x", "[context]"), ("y", "a [/x] b"), ("z", "\x1b[31m")])
    shown = capsys.readouterr().out
    assert "[context]" in shown
    assert "a [/x] b" in shown
    assert "\\u001b[31m" in shown


@requirement("cli.controls")
def test_a_generated_text_is_exact_where_no_terminal_reads_it(project: Project, run: Callable[..., Result]):
    """A file or a pipe gets each byte."""
    project.save(text("note", f"{HOSTILE}\r\nend"))
    assert run("generate", "note").stdout_bytes.decode() == f"{HOSTILE}\r\nend\n"


# -- how it ends ------------------------------------------------------------------------------------------------


@requirement("cli.interrupted")
@pytest.mark.parametrize("group", [False, True])
def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch, group: bool):
    """Alone, or in a group from a nursery."""

    def interrupt() -> None:
        raise BaseExceptionGroup("x", [KeyboardInterrupt()]) if group else KeyboardInterrupt

    monkeypatch.setattr(program, "get_command", lambda *_: click.Command("ls", callback=interrupt))
    result = CliRunner().invoke(program, ["ls"])
    assert (result.exit_code, result.stderr) == (INTERRUPTED, "interrupted\n")


@requirement("cli.interrupted")
async def test_ctrl_c_ends_a_process_with_130(project: Project):
    """While it works in nurseries and template workers."""
    endless = "{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}{% endfor %}{% endfor %}"
    loop = f"{{% set r = range(100000) %}}{endless}"
    project.save(content("slow", pattern={"type": "jinja2", "template": loop}))
    command = [sys.executable, "-m", "chora", "--project", str(project.root), "generate", "slow"]
    # An interrupted process would leave coverage's own lock held, and wait for it at its end.
    process = await trio.lowlevel.open_process(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=unmeasured_environment()
    )
    with trio.fail_after(PATIENCE):
        while not (project.root / ".chora/storage.db").exists():
            await trio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert await process.wait() == INTERRUPTED
    assert process.stderr is not None
    assert (await process.stderr.receive_some()).decode() == "interrupted\n"
    for stream in (process.stdout, process.stderr):
        assert stream is not None
        await stream.aclose()


@requirement("cli.stdout")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("arguments", [["tools"], ["tools", "--json"], ["--help"], ["schema", "content"]])
def test_a_full_disk_is_one_line(arguments: list[str]):
    """And exit 1."""
    with open("/dev/full", "w") as full:
        ended = run_process(*arguments, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 1
    assert ended.stderr == "error: stdout can't be written: No space left on device\n"


@requirement("cli.stdout")
def test_a_reader_that_has_enough_is_no_error():
    """As `head` is; and a process may begin without stdin and stdout."""
    script = f'"{sys.executable}" -m chora tools --json'
    for command in (f"{script} | head -1", f"{script} >&-", f"{script} <&- >&- 2>&-"):
        ended = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE)
        assert ended.stderr == ""


@requirement("cli.no-color")
@pytest.mark.parametrize(("value", "colored"), [("1", False), ("", True), (None, True)])
def test_no_color(monkeypatch: pytest.MonkeyPatch, value: str | None, colored: bool):
    """For what is printed in colour on a terminal."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)
    monkeypatch.setattr(program, "get_command", lambda *_: click.Command("ls", callback=lambda: echo("x", fg="red")))
    result = CliRunner().invoke(program, ["ls"], color=True)
    assert ("\x1b[31m" in result.output) is colored


@requirement("cli.exit-codes")
@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("config_not_found", 3),
        ("invalid_input", 2),
        ("output_edited", 4),
        ("permission_denied", 4),
        ("generation_failed", 1),
        ("busy", 1),
        ("of another server", 1),
    ],
)
def test_a_failure_on_a_server_has_the_exit_code_of_one_here(code: str, exit_code: int):
    """By its wire code."""
    assert exit_code_of(code) == exit_code


# -- wrong calls ------------------------------------------------------------------------------------------------


@requirement("cli.usage")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("colect", "x"), "There is no command colect. Did you mean collect?"),
        (("make-coffee",), "There is no command make-coffee."),
        (("ls", "--jsn"), "--jsn"),
        (("ls", "everything"), "collections"),
        (("generate",), "CONTENT_ID"),
        (("collect", "a", "b"), "b"),
        (("assemble", "x", "-o", "-", "--plan"), "-o - prints the text"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_call_is_said_as_asked_for(run: Callable[..., Result], arguments: tuple[str, ...], said: str):
    """Exit 2; with --json, stdout is one object."""
    wrong = run(*arguments, code=2)
    assert said in wrong.stderr
    assert wrong.stdout == ""
    as_json = json.loads(run(*arguments, "--json", code=2).stdout)
    assert (as_json["success"], as_json["error"]["code"]) == (False, "usage_error")
    assert said in as_json["error"]["message"]


@requirement("cli.examples")
def test_every_command_has_examples_of_itself():
    """Which name options that it has."""
    assert set(EXAMPLES) == set(COMMANDS)
    for name, examples in EXAMPLES.items():
        shown = CliRunner().invoke(program, [name, "--help"]).output
        for example in examples:
            assert re.search(rf"\bchora (--project \S+ )?{name}\b", example), example
            assert example.split("'")[0].strip() in shown
            for option in re.findall(r" (--[a-z-]+)", example.partition(f" {name}")[2]):
                assert option in shown or name in ("token",), example


@requirement("cli.examples")
def test_no_summary_is_cut():
    """Each command's first sentence is whole in the list of commands."""
    shown = CliRunner().invoke(program, ["--help"]).output
    assert "..." not in shown.partition("Commands:")[2]


@requirement("cli.usage")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["ls", "--project", "x"], ["--project", "x", "ls"]),
        (["ls", "--project=x", "--json"], ["--project=x", "ls", "--json"]),
        (["--project", "x", "ls"], ["--project", "x", "ls"]),
        (["--project", "x", "ls", "--project", "y"], ["--project", "y", "ls"]),
        (["call", "t", "--", "--project", "x"], ["call", "t", "--", "--project", "x"]),
        (["ls", "--project"], ["ls", "--project"]),
    ],
)
def test_the_project_may_follow_the_command(given: list[str], expected: list[str]):
    """The last one counts; after -- nothing is an option."""
    assert _project_first(given) == expected


@requirement("cli.values")
@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("v=1.10", "1.10"),
        ("v=007", "007"),
        ("v=1e3", "1e3"),
        ("v=-0", "-0"),
        ("v=12345678901234567890123", 12345678901234567890123),
        ("v=3", 3),
        ("v=1.5", 1.5),
        ("v=true", True),
        ("v=null", None),
        ("v=[1.10]", [1.1]),
        ("v=plain", "plain"),
        ("v=", ""),
        ('v="3"', "3"),
        ("v:=1.10", 1.1),
        ('v:={"a": [1]}', {"a": [1]}),
    ],
)
def test_values_mean_what_they_show(given: str, value: Any):
    """A number only if it is printed as it was given."""
    assert parse_context([given]) == {"v": value}


@requirement("cli.values")
def test_what_should_be_json_and_is_not_is_refused():
    """With what to write for text."""
    with pytest.raises(InvalidInput, match="The value of v is not JSON"):
        parse_context(["v:=plain"])


@requirement("cli.assemble.stdout")
def test_assemble_prints_a_text_and_writes_nothing(project: Project, run: Callable[..., Result]):
    """The first output, in its encoding."""
    output = {"file": "outputs/sheet.txt", "format": "text", "encoding": "latin-1"}
    project.save(text("note", "Grüße\n"), artifact("sheet", [child("note")], output))
    with unchanged(project):
        assert run("assemble", "sheet", "-o", "-").stdout_bytes == "Grüße\n".encode("latin-1")
    assert run("assemble", "missing", "-o", "-", code=3).stdout == ""


@requirement("cli.completion")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(run: Callable[..., Result], shell: str):
    """They ask the program itself."""
    assert "_CHORA_COMPLETE" in run("completion", shell).stdout
    asked = CliRunner(env={"_CHORA_COMPLETE": "bash_complete", "COMP_WORDS": "chora col", "COMP_CWORD": "1"})
    assert "collect" in asked.invoke(program, [], prog_name="chora").stdout


@requirement("cli.ls")
def test_ls_lists_collections(project: Project, run: Callable[..., Result]):
    """With their sizes; files that are none are named."""
    project.save(
        {
            "type": "collection",
            "id": "pack",
            "name": "The pack",
            "members": [{"id": "sheet", "type": "artifact", "path": "sheet.json"}],
            "output": {"base_path": "outputs/pack"},
        }
    )
    project.write("configs/collection/broken.json", "{")
    listed = run("ls", "collections")
    assert listed.stdout == "pack\tThe pack\t1\tconfigs/collection/pack.json\n"
    assert "configs/collection/broken.json" in listed.stderr
    assert json.loads(run("ls", "collections", "--json").stdout)["collections"][0]["id"] == "pack"
