"""The docs can't lie: links lead somewhere, code blocks run, names exist."""

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import chora
from chora import llm, settings
from chora.cli import COMMANDS
from chora.metrics import Counter, Metrics
from chora.tools import TOOLS
from tests.patience import PATIENCE

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


def test_every_promise_of_the_security_model_names_its_settings_and_tests():
    """Each row of its tables: settings that exist, and at least one test that does."""
    rows = re.findall(
        r"^\| (.+?) \| (.*?) \| (.*?) \| (.*?) \|$", (ROOT / "docs/explanation/security.md").read_text(), re.M
    )
    promises = [row for row in rows if "`test_" in row[3]]
    assert len(promises) > 60
    assert {row[0] for row in rows} - {row[0] for row in promises} == {"promise"}
    tests = {
        name for file in (ROOT / "tests").rglob("*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    keys = {row["key"] for row in settings.settings_table(settings.load(ROOT, {}))}
    for promise, _, named_settings, named_tests in promises:
        assert set(re.findall(r"`(.+?)`", named_settings)) <= keys, promise
        assert set(re.findall(r"`(.+?)`", named_tests)) <= tests, promise


def test_the_readme_shows_the_two_commands():
    """What a new person types first."""
    text = (ROOT / "README.md").read_text()
    for recipe in ("demo", "test"):
        assert f"python3 -m venv .venv && .venv/bin/pip install -q rust-just && .venv/bin/just {recipe}" in text


@pytest.mark.parametrize("page", [ROOT / "docs/tutorial/first-artifact.md"], ids=["first-artifact"])
@pytest.mark.slow("runs a dozen commands")
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


@pytest.mark.slow("runs several commands")
def test_the_readme_names_the_package_that_is_installed():
    """With extras that there are; the wheel itself is built and tried by `just dist`."""
    readme = (ROOT / "README.md").read_text("utf-8")
    package = importlib.metadata.distribution("chora-mcp")
    assert package.version == chora.__version__
    named = re.findall(r"(?:uv tool|pipx) install '([\w-]+)\[(\w+)\]'", readme)
    assert len(named) == 2
    for name, extra in named:
        assert name == package.name
        assert extra in package.metadata.get_all("Provides-Extra", [])
    assert "pip install 'chora-mcp[llm]'" in llm._missing_package().hint


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
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=os.environ)
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def test_every_tool_command_and_metric_is_in_its_reference():
    """Nothing is undocumented; `just check` sees that nothing is stale."""
    reference = ROOT / "docs/reference"
    for name in TOOLS:
        assert f"## {name}\n" in (reference / "tools.md").read_text()
    for name in COMMANDS:
        assert f"## chora {name}\n" in (reference / "cli.md").read_text()
    for metric in Metrics().list_metrics():
        name = f"{metric.name}_total" if type(metric) is Counter else metric.name
        assert f"`{name}`" in (reference / "metrics.md").read_text()


def test_the_project_speaks_of_itself_alone():
    """No path of a developer's machine, no registry host."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "uv.lock" not in tracked
    for name in tracked:
        text = (ROOT / name).read_text("utf-8", errors="replace") if (ROOT / name).is_file() else ""
        assert str(ROOT) + "/" not in text, name
    assert "://" not in (ROOT / "requirements.lock").read_text()


@pytest.mark.slow("runs a dozen commands")
def test_a_collection_can_be_built_to_the_letter(tmp_path: Path):
    """In the project that `init` makes: a plan with its reason, a build, and a second run with nothing to do."""
    _shell("chora init .", tmp_path)
    ran: list[str] = []
    for kind, text in blocks(ROOT / "docs/howto/build-a-collection.md"):
        if named := re.search(r"file=(\S+)", kind):
            target = tmp_path / named[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, "utf-8")
        elif kind == "sh":
            ran += [_shell(line, tmp_path) for line in text.splitlines()]
    plan, first, second, check, freshness = ran
    assert "hello: it was never assembled" in plan
    assert "Generated artifact: outputs/pack/hello/hello.md" in first
    assert (tmp_path / "outputs/pack/hello/hello.md").read_text().startswith("# Hello, everybody!")
    assert "Cache hits: 1, misses: 0 (100% hit rate)" in second
    assert "pack is up to date (1 member)" in check
    assert "fresh" in freshness


@pytest.mark.slow("builds the reference twice")
def test_the_pages_are_built_once_and_then_only_what_changed(tmp_path: Path):
    """The documentation of this repository is a collection: a second build renders nothing, and a template that is
    touched rebuilds exactly what used it."""
    for part in ("configs", "build/docs", "docs/reference"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "chora.toml", tmp_path / "chora.toml")

    def build() -> tuple[list[str], str]:
        lines = _shell("chora collect docs", tmp_path).splitlines()
        made = [line.removeprefix("Generated artifact: ") for line in lines if line.startswith("Generated artifact: ")]
        return made, lines[-1]

    build()
    members = len(json.loads((ROOT / "configs/collection/docs.json").read_text())["members"])
    assert build() == ([], f"Cache hits: {members}, misses: 0 (100% hit rate)")
    template = tmp_path / "configs/templates/reference/tools.md.j2"
    template.write_text(template.read_text() + "\nMore.\n")
    assert build()[0] == ["docs/reference/tools.md"]
    types = tmp_path / "configs/templates/reference/types.j2"
    types.write_text(types.read_text().replace("{{ field.type }}", "a {{ field.type }}"))
    users = [path for path in template.parent.glob("*.j2") if "reference/types.j2" in path.read_text()]
    assert sorted(build()[0]) == sorted(f"docs/reference/{user.name.removesuffix('.j2')}" for user in users)


@pytest.fixture(scope="module", autouse=True)
def the_data_of_the_pages() -> None:
    """What the code says of itself, as `just docs` gathers it."""
    subprocess.run([sys.executable, ROOT / "docs/build.py", "--gather"], check=True)
