"""The account of what is held for peers: shares, refusals, and that everything is given back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from chora import peer_memory
from chora.errors import Busy, LimitExceeded, UsageError
from chora.peer_memory import MIB, TRIM_AFTER, Holding, PeerMemory, limit_by_settings
from chora.settings import LimitSettings
from tests.conftest import requirement


@requirement("server.memory")
def test_a_peer_may_hold_half_of_what_the_others_leave():
    """One alone half of all, the next a quarter: however many are greedy, the next one finds room."""
    memory = PeerMemory(1000)
    with memory.hold("a") as a, memory.hold("a") as more_of_a, memory.hold("b") as b, memory.hold("c") as c:
        a.charge(500)
        with pytest.raises(Busy) as refused:
            more_of_a.charge(1)
        assert (refused.value.http_status, refused.value.details["limit"]) == (503, "limits.memory")
        assert (a.refused, more_of_a.refused) == (False, True)
        b.charge(250)
        with pytest.raises(Busy):
            b.charge(1)
        c.charge(125)
        assert memory.held == {"a": 500, "b": 250, "c": 125}
        a.charge(-300)
        b.charge(80)
        assert memory.total == 655
    assert (memory.held, memory.total) == ({}, 0)


def test_what_only_is_counted_leaves_less_for_all():
    """Sessions belong to no block."""
    memory = PeerMemory(1000)
    counted = 400
    memory.count_also(lambda: counted)
    with memory.hold("a") as a:
        a.charge(300)
        with pytest.raises(Busy):
            a.charge(1)
        counted = 0
        a.charge(200)


def test_a_refused_charge_changes_nothing():
    """Nor does one that is assigned to a peer that holds much already."""
    memory = PeerMemory(1000)
    with memory.hold("a") as a, memory.hold("b") as b:
        a.charge(100)
        with pytest.raises(LimitExceeded):
            a.resize(900)
        assert (a.bytes, memory.held) == (100, {"a": 100})
        b.charge(300)
        b.assign("a")
        assert memory.held == {"a": 400}
    assert memory.held == {}


def test_what_can_never_fit_is_no_matter_of_time():
    """More than one peer may ever hold is another error than what may fit later."""
    memory = PeerMemory(1000)
    with memory.hold("a") as a, memory.hold("a") as b:
        a.charge(100)
        b.charge(100)
        with pytest.raises(Busy):
            a.charge(400)
        with pytest.raises(LimitExceeded) as refused:
            a.charge(401)
        assert refused.value.details == {"limit": "limits.memory"}
        assert memory.held == {"a": 200}


@requirement("server.memory.given-back")
def test_there_is_no_charge_without_an_end():
    """Charges exist within a block only, and one that outlives its block can't be charged any more."""
    memory = PeerMemory(1000)
    with memory.hold("a") as a:
        a.charge(10)
    with pytest.raises(RuntimeError):
        a.charge(1)
    kept: list[Holding] = []
    for end in (KeyboardInterrupt, GeneratorExit, RuntimeError):
        with contextlib.suppress(end), memory.hold("a") as holding:
            kept.append(holding)
            holding.charge(10)
            raise end
    assert (memory.held, [each.bytes for each in kept]) == ({}, [0, 0, 0])


@requirement("server.memory.given-back")
async def test_nothing_is_held_after_a_storm(autojump_clock: trio.testing.MockClock):
    """Of blocks that nest, fail, are cancelled at any point, change their peer and are refused; from the same seed."""
    memory, chance = PeerMemory(10_000), random.Random(20261130)

    async def work(depth: int) -> None:
        with memory.hold(chance.choice("abc")) as holding:
            for _ in range(chance.randrange(5)):
                match chance.randrange(6):
                    case 0:
                        holding.assign(chance.choice("abcd"))
                    case 1:
                        await trio.sleep(chance.random())
                    case 2 if depth < 4:
                        await work(depth + 1)
                    case 3:
                        raise ValueError
                    case _:
                        holding.resize(chance.randrange(3000))

    async def surely(scope: trio.CancelScope) -> None:
        with scope, contextlib.suppress(Busy, LimitExceeded, ValueError):
            await work(0)

    scopes = [trio.CancelScope() for _ in range(2000)]
    async with trio.open_nursery() as nursery:
        for scope in scopes:
            nursery.start_soon(surely, scope)
        for scope in chance.sample(scopes, 1000):
            await trio.sleep(0.0001)
            assert memory.total == sum(memory.held.values())
            scope.cancel()
    assert (memory.held, memory.total) == ({}, 0)


def test_trimming_is_due_after_much_was_given_back():
    """In one piece or in many; then it is counted anew."""
    memory = PeerMemory(1000 * MIB)
    with memory.hold("a") as a:
        for _ in range(TRIM_AFTER // MIB - 1):
            a.charge(MIB)
            a.charge(-MIB)
        assert not memory.trim_due.is_set()
        a.charge(MIB)
    assert memory.trim_due.is_set()
    memory.trimmed()
    assert not memory.trim_due.is_set()


def files(found: dict[str, str]) -> Callable[[Path], str]:
    def read_text(path: Path) -> str:
        try:
            return found[str(path)]
        except KeyError:
            raise FileNotFoundError from None

    return read_text


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({}, 256 * MIB),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "max\n"}, 256 * MIB),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": f"{1024 * MIB}\n"}, 256 * MIB),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/memory.max": f"{400 * MIB}\n"}, 100 * MIB),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": "1000\n"}, 72 * MIB),
        (
            {
                "/proc/self/cgroup": "4:memory:/x\n0::/\n",
                "/sys/fs/cgroup/memory/x/memory.limit_in_bytes": f"{800 * MIB}\n",
            },
            200 * MIB,
        ),
        ({"/proc/self/cgroup": "nonsense\n"}, 256 * MIB),
    ],
)
def test_the_limit_follows_the_memory_of_the_container(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, str], expected: int
):
    """A quarter of it, 72 to 256 MiB, of either version of control groups."""
    monkeypatch.setattr(Path, "read_text", files(found))
    assert limit_by_settings(LimitSettings()) == expected


def test_the_limit_has_room_for_one_request():
    """One that is set too low is refused by name; a derived one grows with `limits.body`."""
    assert limit_by_settings(LimitSettings(memory=100 * MIB)) == 100 * MIB
    assert limit_by_settings(LimitSettings(body=1024, memory=8192)) == 8192
    assert limit_by_settings(LimitSettings(body=512 * MIB)) == 4096 * MIB
    with pytest.raises(UsageError, match=r"limits.memory is 100 bytes, .* need 8,192"):
        limit_by_settings(LimitSettings(body=1024, memory=100))
    assert 8 * LimitSettings().body <= peer_memory.DERIVED_LEAST
