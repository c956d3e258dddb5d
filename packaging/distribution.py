"""Builds the source distribution and the wheel into dist/, checks them, and installs and tries the wheel.

The wheel is built from the source distribution, as package managers do when there is no wheel, and both are built
twice: the same sources give the same bytes.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import smoke

ROOT = Path(__file__).resolve().parent.parent
NAME = "chora_mcp"
BIN = Path(sys.executable).parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = (build(Path(folder) / number) for number in ("1", "2"))
        assert digests(first) == digests(second), "two builds differ"
        check_content(first)
        run(BIN / "twine", "check", "--strict", *first)
        (ROOT / "dist").mkdir(exist_ok=True)
        for old in (ROOT / "dist").glob(f"{NAME}-*"):
            old.unlink()
        built = [Path(shutil.copy(file, ROOT / "dist")) for file in first]
        program = install(Path(folder) / "tools")
        smoke.smoke(program, frozen=False)
    for file in built:
        print(f"dist/{file.name}: {file.stat().st_size / 1e3:.0f} kB")


def build(folder: Path) -> list[Path]:
    """The source distribution and the wheel."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    made = folder / "made"
    run(BIN / "hatchling", "build", "-t", "sdist", "-d", made, cwd=ROOT, env=environment)
    (source,) = made.iterdir()
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    run(
        BIN / "hatchling",
        "build",
        "-t",
        "wheel",
        "-d",
        made,
        cwd=folder / source.name.removesuffix(".tar.gz"),
        env=environment,
    )
    return sorted(made.iterdir())


def digests(files: list[Path]) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def check_content(files: list[Path]) -> None:
    """Both hold every file of the package that git knows, and no other one of it."""
    listed = subprocess.run(["git", "ls-files", "chora"], cwd=ROOT, check=True, capture_output=True, text=True)
    wanted = set(listed.stdout.split())
    wheel, source = sorted(files, key=lambda file: file.suffix == ".gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(source) as archive:
        in_source = {name.partition("/")[2] for name in archive.getnames()}
    assert in_wheel == wanted, in_wheel ^ wanted
    assert in_source == wanted | {"README.md", "LICENSE", "PKG-INFO", "pyproject.toml", ".gitignore"}, (
        in_source ^ wanted
    )


def install(folder: Path) -> Path:
    """Install as the README says, but from dist/ and with the locked versions; the command."""
    environment = {**os.environ, "UV_TOOL_DIR": str(folder), "UV_TOOL_BIN_DIR": str(folder / "bin")}
    run(
        *(BIN / "uv", "tool", "install", "-q", "--system-certs", "--python", sys.executable),
        *("--find-links", ROOT / "dist", "--constraints", ROOT / "requirements.lock", "chora-mcp[llm]"),
        env=environment,
    )
    return folder / "bin" / "chora"


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, cwd=cwd, env=env)


if __name__ == "__main__":
    main()
