"""What is sent to systemd, over a real socket."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from chora import systemd
from chora.systemd import STATUS_INTERVAL, notify_reloading, notify_systemd, status_state
from tests.conftest import requirement
from tests.patience import PATIENCE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="systemd is notified over a Unix socket")


@pytest.fixture
def notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket of systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


def received(notices: socket.socket) -> list[str]:
    """All that was sent by now."""
    found: list[str] = []
    notices.setblocking(False)
    while True:
        try:
            found.append(notices.recv(4096).decode())
        except BlockingIOError:
            return found


@requirement("server.systemd")
def test_states_are_one_message(notices: socket.socket):
    """And a status is one line of bounded length, whatever is in it."""
    notify_systemd("READY=1", status_state("ready\nREADY=0\t at  home"))
    assert received(notices) == ["READY=1\nSTATUS=ready READY=0 at home"]
    assert len(status_state("x" * 1000)) == len("STATUS=") + 200


@requirement("server.systemd")
@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_a_socket_may_be_abstract(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Its name begins with @ then."""
    name = f"chora-{tmp_path}"[:90]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify_systemd("READY=1")
        assert received(receiver) == ["READY=1"]


@requirement("server.systemd")
def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Nor is a socket that is gone an error."""
    notify_systemd("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    notify_systemd("READY=1")


@requirement("server.systemd")
def test_a_reload_ends_with_being_ready_also_when_it_fails(notices: socket.socket):
    """Otherwise systemd would wait for it."""
    with pytest.raises(ValueError, match="a mistake"), notify_reloading():
        raise ValueError("a mistake")
    reloading, ready = received(notices)
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert ready == "READY=1"


async def describe() -> str:
    return "ready"


@requirement("server.systemd")
async def test_the_status_is_sent_now_and_then(notices: socket.socket, autojump_clock: trio.testing.MockClock):
    """Without a watchdog, that the process is alive isn't sent."""
    with trio.move_on_after(3 * STATUS_INTERVAL - 1):
        await systemd.serve(describe)
    assert received(notices) == ["STATUS=ready"] * 3


@requirement("server.systemd-watchdog")
@pytest.mark.parametrize(("seconds", "within", "times"), [(6, 5, 3), (6, 7, 4), (600, 15, 2)])
async def test_the_watchdog_hears_three_times_within_its_limit(
    notices: socket.socket,
    autojump_clock: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    within: float,
    times: int,
):
    """And at least as often as the status is sent."""
    monkeypatch.setenv("WATCHDOG_USEC", str(seconds * 1_000_000))
    with trio.move_on_after(within):
        await systemd.serve(describe)
    assert received(notices) == ["WATCHDOG=1\nSTATUS=ready"] * times


@requirement("server.systemd-watchdog")
async def test_the_watchdog_hears_nothing_while_the_store_does_not_answer(
    notices: socket.socket, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
):
    """However long; once it answers, the process is alive again."""
    monkeypatch.setenv("WATCHDOG_USEC", "6000000")
    answers = trio.Event()

    async def ask() -> str:
        await answers.wait()
        return "failing: The disk is full."

    async with trio.open_nursery() as nursery:
        nursery.start_soon(systemd.serve, ask)
        await trio.sleep(100)
        assert received(notices) == []
        answers.set()
        await trio.sleep(1)
        assert received(notices) == ["WATCHDOG=1\nSTATUS=failing: The disk is full."]
        nursery.cancel_scope.cancel()
