"""The docs can't lie: links lead somewhere, code blocks run, names exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from chora.cli import COMMANDS
from chora.metrics import Metrics
from chora.tools import TOOLS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page: what stands behind the fence, and the text."""
    return re.findall(r"^```(.*?)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    """Every relative link names a file or folder of the repository."""
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_readme_shows_the_two_commands():
    """What a new person types first."""
    text = (ROOT / "README.md").read_text()
    for recipe in ("demo", "test"):
        assert f"python3 -m venv .venv && .venv/bin/pip install -q rust-just && .venv/bin/just {recipe}" in text


@pytest.mark.parametrize("page", [ROOT / "docs/tutorial/first-artifact.md"], ids=["first-artifact"])
def test_a_tutorial_can_be_followed_to_the_letter(page: Path, tmp_path: Path):
    """Files are saved where it says, commands are run in order, and none of them fails."""
    run: list[str] = []
    for kind, text in blocks(page):
        if named := re.search(r"file=(\S+)", kind):
            target = tmp_path / named[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
        elif kind == "sh":
            for line in text.splitlines():
                run.append(_shell(line, tmp_path))
    assert "# Hello, sailor!" in "\n".join(run)
    assert "- Ines: morning" in "\n".join(run)
    assert '"status": "skipped"' in run[-1]


def test_the_readme_session_says_what_happens(tmp_path: Path):
    """The console block is what a person sees."""
    (session,) = [text for kind, text in blocks(ROOT / "README.md") if kind == "console"]
    folder, expected, seen = tmp_path, [], []
    for line in session.splitlines():
        if line.startswith("$ "):
            command = line[2:].partition("#")[0].strip()
            if command.endswith("&& cd notes"):
                _shell(command.partition("&&")[0], folder)
                folder = folder / "notes"
            else:
                seen += _shell(command, folder).splitlines()
        else:
            expected.append(line)
    assert seen == expected


def _shell(line: str, folder: Path) -> str:
    words = shlex.split(line)
    command = [sys.executable, "-m", "chora", *words[1:]] if words[0] == "chora" else words
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def test_every_tool_command_and_metric_is_in_its_reference():
    """Nothing is undocumented; `just check` sees that nothing is stale."""
    reference = ROOT / "docs/reference"
    for name in TOOLS:
        assert f"## {name}\n" in (reference / "tools.md").read_text()
    for name in COMMANDS:
        assert f"## chora {name}\n" in (reference / "cli.md").read_text()
    for metric in Metrics().all():
        assert f"`{metric.name}`" in (reference / "metrics.md").read_text()


def test_the_project_speaks_of_itself_alone():
    """No path of a developer's machine, no registry host."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "uv.lock" not in tracked
    for name in tracked:
        text = (ROOT / name).read_text("utf-8", errors="replace") if (ROOT / name).is_file() else ""
        assert str(ROOT) + "/" not in text, name
    assert "://" not in (ROOT / "requirements.lock").read_text()
