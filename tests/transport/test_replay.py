"""Streams that survive their connection."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chora.transport import replay
from chora.transport.replay import EventStream, ReplayBuffer, SessionStreams, encode_event
from tests.patience import PATIENCE


def test_an_event_is_written_as_its_parts():
    """One without data has no kind: it only tells where to come back to, and when."""
    assert encode_event(b"{}") == b"event: message\r\ndata: {}\r\n\r\n"
    assert encode_event(b"/x", kind=b"endpoint") == b"event: endpoint\r\ndata: /x\r\n\r\n"
    assert encode_event(b"", identity="1.2", retry=0.5) == b"id: 1.2\r\nretry: 500\r\ndata: \r\n\r\n"


class Connection:
    """Takes what is written."""

    def __init__(self) -> None:
        self.written = b""

    async def write(self, frame: bytes) -> None:
        self.written += frame

    @property
    def data(self) -> list[str]:
        return [line[6:].decode() for line in self.written.split(b"\r\n") if line.startswith(b"data: ")]


async def test_what_is_put_is_written_before_put_returns():
    """A sender is slowed down to what the peer takes."""
    stream, connection = EventStream("1"), Connection()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.write_events, connection.write)
        await wait_all_tasks_blocked()
        await stream.send_event(b"a")
        assert connection.data == ["a"]
        await stream.send_event(b"b")
        assert connection.data == ["a", "b"]
        stream.end_stream()
    assert connection.written.count(b"id: 1.") == 2


async def test_without_a_connection_nothing_waits():
    """What is put then is there for the one that comes."""
    stream, connection = EventStream("1"), Connection()
    with trio.fail_after(PATIENCE):
        for each in (b"a", b"b", b"c"):
            await stream.send_event(each)
        stream.end_stream()
        assert await stream.write_events(connection.write, after=1) is True
    assert connection.data == ["b", "c"]


async def test_a_dropped_connection_lets_the_work_go_on():
    """The task that waited for its write is set free, and the next connection gets the rest."""
    stream, second = EventStream("1"), Connection()
    ended: list[bool] = []

    async def stuck(frame: bytes) -> None:
        await trio.sleep_forever()

    async def write(after: int) -> None:
        ended.append(await stream.write_events(stuck if not ended else second.write, after))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, 0)
            await wait_all_tasks_blocked()
            nursery.start_soon(stream.send_event, b"a")
            await wait_all_tasks_blocked()
            stream.disconnect()
            await wait_all_tasks_blocked()
            assert ended == [False]
            nursery.start_soon(write, 0)
            await stream.send_event(b"b")
            stream.end_stream()
    assert second.data == ["a", "b"]
    assert ended == [False, True]


async def test_a_new_connection_takes_over():
    """A client that is back doesn't wait until its old connection is known to be gone."""
    stream, second = EventStream("1"), Connection()
    ended: list[str] = []

    async def stuck(frame: bytes) -> None:
        await trio.sleep_forever()

    async def write(name: str, to: replay.Write) -> None:
        await stream.write_events(to)
        ended.append(name)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, "old", stuck)
            await wait_all_tasks_blocked()
            stream.add_event(b"a")
            await wait_all_tasks_blocked()
            nursery.start_soon(write, "new", second.write)
            await wait_all_tasks_blocked()
            assert ended == ["old"]
            assert second.data == ["a"]
            await stream.send_event(b"b")
            stream.end_stream()
    assert second.data == ["a", "b"]


async def test_a_takeover_leaves_the_new_connection_in_charge():
    """What is put waits for it, and it is the one that is dropped."""
    stream, second = EventStream("1"), Connection()
    released = trio.Event()

    async def stuck(frame: bytes) -> None:
        await trio.sleep_forever()

    async def slow(frame: bytes) -> None:
        await released.wait()
        await second.write(frame)

    ended: list[bool] = []

    async def write(to: replay.Write) -> None:
        ended.append(await stream.write_events(to))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, stuck)
            await wait_all_tasks_blocked()
            nursery.start_soon(write, slow)
            await wait_all_tasks_blocked()
            nursery.start_soon(stream.send_event, b"a")
            await wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 2, "a write, and a put that waits for it"
            stream.disconnect()
            await wait_all_tasks_blocked()
            assert ended == [False, False]
            nursery.start_soon(write, slow)
            await wait_all_tasks_blocked()
            stream.add_event(b"b")
            stream.end_stream()
            released.set()
    assert second.data == ["a", "b"]


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """In number and in size; the newest is there in any case, because it may be the answer."""
    many = EventStream("1")
    for number in range(replay.STREAM_EVENTS_LIMIT + 10):
        many.add_event(b"%d" % number)
    assert len(many.events_after(0)) == replay.STREAM_EVENTS_LIMIT
    full = EventStream("3")
    frame = len(replay.encode_event(b"x", identity="3.1"))
    monkeypatch.setattr(replay, "STREAM_BYTES_LIMIT", 3 * frame)
    for _ in range(4):
        full.add_event(b"x")
    assert [each.number for each in full.events_after(0)] == [2, 3, 4]
    assert full.size == 3 * frame
    monkeypatch.undo()
    large = EventStream("2")
    for _ in range(4):
        large.add_event(b"x" * (replay.STREAM_BYTES_LIMIT // 2))
    assert len(large.events_after(0)) == 1
    large.add_event(b"y" * (2 * replay.STREAM_BYTES_LIMIT))
    assert [each.number for each in large.events_after(0)] == [5]


def test_a_stream_is_found_by_any_of_its_events():
    """And by nothing that isn't one."""
    known = SessionStreams()
    stream = known.open_stream()
    for _ in range(7):
        stream.add_event(b"x")
    assert known.find_event(f"{stream.name}.7") == (stream, 7)
    assert known.find_event(f"{stream.name}.0") == (stream, 0)
    for odd in (
        "1.8",
        "1.999999999",
        "1.٣",
        "1.+7",
        "1. 7",
        "1.7_0",
        "1.7e0",
        "01.7",
        "１.7",
        "",
        "1",
        "1.",
        "1.x",
        "1.-1",
        "1.²",
        "9.1",
        "1.99999999999",
        "..",
        "1.1.1",
    ):
        assert known.find_event(odd) is None, odd


async def test_ended_streams_are_forgotten(mock_clock: MockClock):
    """Some of them after a while, the oldest of too many at once, and running ones never."""
    known = SessionStreams()
    running = known.open_stream()
    running.add_event(b"x")
    ended = [known.open_stream() for _ in range(replay.ENDED_STREAMS_LIMIT + 3)]
    for stream in ended:
        stream.add_event(b"x")
        stream.end_stream()
    known.remove_expired()
    assert [known.find_event(f"{each.name}.1") is not None for each in ended] == [False] * 3 + [
        True
    ] * replay.ENDED_STREAMS_LIMIT
    mock_clock.jump(replay.ENDED_STREAM_LIFETIME + 1)
    known.remove_expired()
    assert not any(known.find_event(f"{each.name}.1") for each in ended)
    assert known.find_event(f"{running.name}.1") is not None


async def test_a_standalone_stream_ends_with_its_connection(mock_clock: MockClock):
    """It is kept for who comes back soon, who takes over from the connection that may still be there."""
    known = SessionStreams()
    stream = known.open_stream(is_standalone=True)
    for _ in range(2):
        with stream.attach_connection():
            stream.add_event(b"news")
            mock_clock.jump(replay.ENDED_STREAM_LIFETIME + 1)
            known.remove_expired()
        known.remove_expired()
        assert known.find_event(f"{stream.name}.1") is not None
    with stream.attach_connection() as first:
        with stream.attach_connection():
            assert first.cancel_called
        first.shield = True
    mock_clock.jump(replay.ENDED_STREAM_LIFETIME + 1)
    known.remove_expired()
    assert known.find_event(f"{stream.name}.1") is None


async def test_the_stream_that_ended_last_is_forgotten_last(mock_clock: MockClock):
    """However early it began: a long call's answer is the one that a client is likely to resume."""
    known = SessionStreams()
    long = known.open_stream()
    long.add_event(b"answer")
    for _ in range(replay.ENDED_STREAMS_LIMIT + 1):
        mock_clock.jump(1)
        known.open_stream().end_stream()
    mock_clock.jump(1)
    long.end_stream()
    known.open_stream()
    assert known.find_event(f"{long.name}.1") == (long, 1)


async def test_a_stream_that_was_never_read_is_removed(mock_clock: MockClock):
    """A client that asks for one and is gone before its first byte leaves nothing behind."""
    known = SessionStreams()
    for _ in range(3 * replay.ENDED_STREAMS_LIMIT):
        known.open_stream(is_standalone=True)
    assert len(known._streams) <= replay.ENDED_STREAMS_LIMIT + 1
    mock_clock.jump(replay.ENDED_STREAM_LIFETIME + 1)
    known.remove_expired()
    assert not known._streams


async def test_ended_streams_may_fill_the_limit(monkeypatch: pytest.MonkeyPatch):
    """As many bytes as it says are kept; with one more the oldest stream goes."""
    frame = len(replay.encode_event(b"x", identity="1.1"))
    for limit, kept in ((3 * frame, 3), (3 * frame - 1, 2)):
        monkeypatch.setattr(replay, "REPLAY_BYTES_LIMIT", limit)
        streams = SessionStreams(ReplayBuffer())
        ended = [streams.open_stream() for _ in range(3)]
        for stream in ended:
            stream.add_event(b"x")
            stream.end_stream()
        assert [streams.find_event(f"{each.name}.1") is not None for each in ended] == [kept == 3, True, True]


async def test_the_streams_of_all_sessions_are_limited(monkeypatch: pytest.MonkeyPatch):
    """The oldest of what has ended is forgotten first; what runs, and the newest answer, never."""
    monkeypatch.setattr(replay, "REPLAY_BYTES_LIMIT", 5_000)
    buffer = ReplayBuffer()
    sessions = [SessionStreams(buffer) for _ in range(3)]
    running = sessions[0].open_stream()
    running.add_event(b"x" * 4_000)
    ended = [sessions[number % 3].open_stream() for number in range(6)]
    for stream in ended:
        stream.add_event(b"x" * 2_000)
        stream.end_stream()
    assert [
        owner.find_event(f"{each.name}.1") is not None for owner, each in zip(sessions * 2, ended, strict=True)
    ] == 4 * [False] + [True, True]
    assert sessions[0].find_event(f"{running.name}.1") is not None
    running.add_event(b"x" * 9_000)
    running.end_stream()
    assert sessions[0].find_event(f"{running.name}.1") is not None
    assert sessions[1].find_event(f"{ended[4].name}.1") is None
    assert buffer.size == running.size
    sessions[0].clear()
    assert buffer.size == 0
    late = sessions[0].open_stream()
    late.add_event(b"x")
    sessions[0].clear()
    late.end_stream()
    assert buffer.size == 0
    news = sessions[1].open_stream(is_standalone=True)
    with news.attach_connection():
        news.add_event(b"x" * 1_000)
    assert buffer.size == news.size
    with news.attach_connection():
        news.add_event(b"x" * 1_000)
    assert buffer.size == news.size


async def test_the_end_of_an_old_connection_is_not_that_of_the_new_one():
    """A client that is back already isn't thrown out when its old connection is found to be dead."""
    stream, second = EventStream("1"), Connection()
    leave: list[Callable[[], None]] = []
    ended: list[bool] = []

    async def stuck(frame: bytes) -> None:
        await trio.sleep_forever()

    async def write(to: replay.Write) -> None:
        ended.append(await stream.write_events(to, 0, leave.append))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, stuck)
            await wait_all_tasks_blocked()
            stream.add_event(b"a")
            await wait_all_tasks_blocked()
            nursery.start_soon(write, second.write)
            await wait_all_tasks_blocked()
            leave[0]()
            await wait_all_tasks_blocked()
            await stream.send_event(b"b")
            stream.end_stream()
    assert second.data == ["a", "b"]
    assert ended == [False, True]
