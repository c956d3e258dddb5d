"""Builds dist/chora, the one-folder binary, and prints its size."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    environment = {
        **os.environ,
        # The same sources give the same bytes.
        "SOURCE_DATE_EPOCH": "1767225600",
        "PYTHONHASHSEED": "0",
    }
    subprocess.run(
        [
            *(sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean", "--log-level", "WARN"),
            *("--distpath", ROOT / "dist", "--workpath", ROOT / "build" / "pyinstaller"),
            ROOT / "packaging" / "chora.spec",
        ],
        check=True,
        cwd=ROOT,
        env=environment,
    )
    size = sum(file.stat().st_size for file in (ROOT / "dist" / "chora").rglob("*") if file.is_file())
    print(f"dist/chora: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
