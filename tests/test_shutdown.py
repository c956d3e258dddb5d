"""How a process ends: by itself, by a signal, by a second one, or by a thread when nothing else helps."""

import subprocess
import sys

import pytest

from tests.conftest import requirement
from tests.patience import PATIENCE

PROGRAM = """
import logging, os, signal, sys, time
import trio
from chora import shutdown

shutdown.FORCED_EXIT_DELAY, shutdown.PARENT_INTERVAL = 0.1, 0.05

async def main():
    async with shutdown.stop_on_signals(0.1) as stopping:
{steps}

trio.run(main)
"""
TERM = "os.kill(os.getpid(), signal.SIGTERM)"
INT = "os.kill(os.getpid(), signal.SIGINT)"
BLOCK = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])"
"""Lets another thread receive the signal, and so doesn't interrupt what the main thread is doing."""


def run(*steps: str) -> "subprocess.CompletedProcess[bytes]":
    """A process that takes these steps."""
    program = PROGRAM.format(steps="\n".join(f"        {step}" for step in steps))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE, check=False)


@pytest.mark.skipif(sys.platform == "win32", reason="a process there can't send itself a signal that it handles")
@pytest.mark.parametrize(
    ("steps", "code", "said"),
    [
        (["pass"], 0, b""),
        ([TERM, "await stopping.wait()"], 0, b""),
        (["stopping.set()", "await trio.sleep(0)"], 0, b""),
        (["stopping.set()", TERM, "await trio.sleep(0.02)"], 0, b""),
        ([TERM, "await stopping.wait()", TERM, "await trio.sleep(60)"], 1, b"received SIGTERM again"),
        ([TERM, "await stopping.wait()", INT, "await trio.sleep(60)"], 1, b"received SIGINT again"),
        ([TERM, TERM, "time.sleep(60)"], 1, b"received SIGTERM again"),
        ([TERM, "time.sleep(60)"], 1, b"hasn't stopped 0.2 s after the signal"),
        ([TERM, "await trio.sleep(60)"], 1, b"hasn't stopped 0.2 s after the signal"),
        (["stopping.set()", "await trio.sleep(0.02)", "time.sleep(60)"], 1, b"hasn't stopped 0.2 s after the signal"),
        ([BLOCK, TERM, "await stopping.wait()"], 0, b""),
        ([BLOCK, TERM, "time.sleep(300)"], 1, b"hasn't stopped 0.2 s after the signal"),
        ([TERM, "logging.lastResort.acquire(); time.sleep(300)"], 1, b""),
    ],
    ids=[
        "orderly",
        "signal",
        "event",
        "signal-after-event",
        "second-signal",
        "second-signal-of-the-other-kind",
        "second-signal-while-stuck",
        "stuck",
        "slow",
        "stuck-after-event",
        "signal-in-another-thread",
        "stuck-where-no-handler-runs",
        "stuck-in-the-log",
    ],
)
@requirement("server.watchdog")
def test_a_process_ends_one_way_or_the_other(steps: list[str], code: int, said: bytes):
    """A first signal asks, a second one ends it at once; a process that is stuck is ended, one that isn't is let be."""
    ended = run(*steps)
    assert ended.returncode == code, ended.stderr
    assert b"Traceback" not in ended.stderr
    assert said in ended.stderr
    assert said or not ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there a process without its parent gets no other one")
def test_a_process_that_lost_its_parent_is_stopped():
    """A process whose starter goes away ends in order."""
    child = PROGRAM.format(
        steps="        async with trio.open_nursery() as services:\n"
        "            await services.start(shutdown.end_with_parent, stopping)\n"
        "            print('ready', flush=True)\n"
        "            await stopping.wait()\n"
        "            services.cancel_scope.cancel()"
    )
    starter = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE)\n"
        "os.write(1, child.stdout.readline())\n"
        "os._exit(0)\n"
    )
    # It holds our stderr open, which so ends with it.
    with subprocess.Popen(
        [sys.executable, "-c", starter, child], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        output, log = process.communicate(timeout=PATIENCE)
    assert (output, log) == (b"ready\n", b"")
    assert process.returncode == 0
