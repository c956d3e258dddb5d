"""What the two sides of a bridge know of each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import trio

from chora.bridge.messages import BridgedMessage, Key, PendingCall, SessionMemory
from chora.bridge.options import BridgeOptions
from chora.peer_memory import PeerMemory


class UpstreamTransport(Protocol):
    """The server's side: a server that is reached over one transport."""

    def cancels_by_closing(self, call: PendingCall) -> bool:
        """Whether the server learns from the end of its connection that a call is cancelled."""
        ...

    async def forward_call(self, call: PendingCall) -> None:
        """Have a call answered.

        Raises:
            CallFailure: it wasn't.
        """
        ...

    async def forward_notification(self, line: bytes) -> None:
        """Pass on a message that has no answer; a failure is logged."""
        ...

    def start_listening(self) -> None:
        """Open the stream of the session, where the transport has one of its own."""
        ...

    async def end_session(self) -> None:
        """End the session with the server."""
        ...


class ClientSide(Protocol):
    """The client's side, as the transports use it."""

    options: BridgeOptions
    services: trio.Nursery
    """Where what runs beside the calls is started."""
    memory: SessionMemory
    answers_held: PeerMemory
    """The account of what has arrived of the server's messages, by call."""
    calls: dict[Key, PendingCall]
    """The client's calls that wait for their answer."""

    @property
    def transport_known(self) -> bool:
        """Whether it is known which transport the server speaks."""
        ...

    def use_transport(self, transport: UpstreamTransport) -> None:
        """Use the transport from now on: the server has answered over it."""
        ...

    def wait_time(self, call: PendingCall) -> float:
        """Seconds for which a call waits for a server that can't be reached."""
        ...

    async def deliver(
        self,
        line: bytes,
        message: BridgedMessage,
        calls: Mapping[Key, PendingCall],
        owner: PendingCall | None = None,
    ) -> None:
        """Pass on a message of the server.

        Args:
            line, message: the message.
            calls: those that it may answer.
            owner: the call that it belongs to, if that is certain.
        """
        ...

    async def send(self, message: bytes) -> None:
        """Write a message to the client."""
        ...
