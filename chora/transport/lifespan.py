"""The start-up and shutdown of an ASGI app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from chora.transport.connection import App, Message


class LifespanFailed(Exception):
    """The app failed to start up or to shut down, or its lifespan ended in an error, which is the cause."""


class Lifespan:
    """The app's start-up and shutdown.

    hypercorn's own takes an app that fails while starting up for one without lifespan support, and serves on; importing
    it also imports the protocol stack. Here an app has no lifespan support if it fails before it receives an event.
    """

    def __init__(self, app: App, state: dict[str, Any]) -> None:
        self.dependents = trio.CancelScope()
        """Cancelled when the app's lifespan fails: the scope of everything that depends on the app."""
        self.stopping = trio.Event()
        self.ended = False
        self.failure: LifespanFailed | None = None
        self._app = app
        self._state = state
        self._started = trio.Event()
        self._phase = ""

    async def run_lifespan(self) -> None:
        """Run the app's lifespan to its end."""
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._receive, self._send)
        except* Exception as group:
            if self._phase:
                self._fail(f"The app failed {self._phase}.", group)
        self.ended = True
        self._started.set()

    async def wait_started(self, timeout: float) -> None:
        """Wait until the app has started up; one that hasn't after `timeout` seconds has failed."""
        with trio.move_on_after(timeout):
            await self._started.wait()
        if not self._started.is_set():
            self._fail(f"The app didn't start up within {timeout:g} seconds.")
        await trio.lowlevel.checkpoint_if_cancelled()

    def _fail(self, sentence: str, cause: BaseException | None = None) -> None:
        if self.failure is None:
            self.failure = LifespanFailed(sentence)
            self.failure.__cause__ = cause
            self.dependents.cancel()

    async def _receive(self) -> Message:
        if not self._phase:
            self._phase = "in start-up"
            return {"type": "lifespan.startup"}
        await self.stopping.wait()
        self._phase = "in shutdown"
        return {"type": "lifespan.shutdown"}

    async def _send(self, message: Message) -> None:
        if message["type"].endswith(".failed"):
            self._fail(f"The app failed {self._phase}: {message.get('message', '')}")
        elif message["type"] == "lifespan.startup.complete":
            self._phase = "while it served"
            self._started.set()
