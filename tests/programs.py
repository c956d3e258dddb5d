"""Programs of the system that some tests need: `just test-packages` installs them on Debian."""

import os
import shutil

import pytest

NO_SKIPS = bool(os.environ.get("NO_SKIPPED_TESTS"))


def need_programs(*names: str) -> None:
    """Skip a test whose programs are missing, and say so; with `NO_SKIPPED_TESTS`, as CI sets it, it fails instead."""
    if missing := [name for name in names if shutil.which(name) is None]:
        reason = f"NOT TRIED: {', '.join(missing)} missing; `just test-packages` installs what tests need"
        if NO_SKIPS:
            pytest.fail(reason)
        pytest.skip(reason)
