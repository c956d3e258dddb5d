"""The ends of a conversation, by themselves."""

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from chora.transport.pipes import LineReader, LineTooLong, PolledPipe, ThreadedPipe, open_pipe
from tests.patience import PATIENCE

ENDS = [PolledPipe, ThreadedPipe]


@pytest.mark.parametrize("kind", ENDS)
async def test_what_goes_in_comes_out(kind: type[PolledPipe] | type[ThreadedPipe]):
    """More than a pipe holds at once, with a slow reader; and an end."""
    incoming, outgoing = os.pipe()
    sent, received = os.urandom(300_000), bytearray()
    with trio.fail_after(PATIENCE):
        async with kind(outgoing) as sink, kind(incoming) as source, trio.open_nursery() as nursery:
            await sink.wait_send_all_might_not_block()
            nursery.start_soon(sink.send_all, sent)
            while len(received) < len(sent):
                received += await source.receive_some(50_000)
            await sink.aclose()
            assert await source.receive_some() == b""
    assert received == sent


@pytest.mark.parametrize("kind", ENDS)
async def test_a_closed_reader_breaks_the_pipe(kind: type[PolledPipe] | type[ThreadedPipe]):
    """That is a broken pipe, however it is written to."""
    incoming, outgoing = os.pipe()
    os.close(incoming)
    async with kind(outgoing) as sink:
        with pytest.raises(trio.BrokenResourceError):
            await sink.send_all(b"x")


async def test_a_closed_end_is_closed():
    """Also for a task that is waiting, and twice."""
    incoming, outgoing = os.pipe()
    source, sink = PolledPipe(incoming), PolledPipe(outgoing)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await source.receive_some()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await source.aclose()
        await source.aclose()
        await sink.aclose()
        for use in (source.receive_some(), sink.send_all(b"x"), sink.wait_send_all_might_not_block()):
            with pytest.raises(trio.ClosedResourceError):
                await use


async def test_what_cannot_be_read_is_broken():
    """A descriptor for writing only."""
    incoming, outgoing = os.pipe()
    async with PolledPipe(incoming), PolledPipe(outgoing) as sink:
        with pytest.raises(trio.BrokenResourceError):
            await sink.receive_some()


async def test_a_file_is_read_through_a_thread(tmp_path: Path):
    """The event loop can't wait for it."""
    path = tmp_path / "file"
    path.write_bytes(b"text")
    async with open_pipe(os.open(path, os.O_RDONLY)) as source:
        assert isinstance(source, ThreadedPipe)
        assert await source.receive_some(2) == b"te"
        assert await source.receive_some() == b"xt"


@pytest.mark.parametrize("piece", [1, 5, 100], ids=["bytes", "pieces", "whole"])
@pytest.mark.parametrize("end", [b"\n", b""], ids=["line", "end-of-stream"])
async def test_a_line_may_be_as_long_as_the_limit(piece: int, end: bytes):
    """Without its end, however it arrives; one byte more is refused, and the line after it is received."""
    sent = b"x" * 11 + b"\n" + b"y" * 10 + end
    sink, source = trio.testing.memory_stream_one_way_pair()
    for start in range(0, len(sent), piece):
        await sink.send_all(sent[start : start + piece])
    await sink.aclose()
    lines = LineReader(source, 10)
    with trio.fail_after(PATIENCE):
        with pytest.raises(LineTooLong):
            await lines.receive_line()
        assert await lines.receive_line() == b"y" * 10
        assert await lines.receive_line() is None


async def test_a_line_that_grows_to_the_limit_is_received():
    """Its end may come when all of it has been searched."""
    sink, source = trio.testing.memory_stream_one_way_pair()
    lines, received = LineReader(source, 10), list[bytes | None]()

    async def receive() -> None:
        received.append(await lines.receive_line())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            for piece in (b"12345", b"67890", b"\n"):
                await trio.testing.wait_all_tasks_blocked()
                await sink.send_all(piece)
    assert received == [b"1234567890"]
