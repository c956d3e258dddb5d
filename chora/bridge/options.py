"""The options of a bridge."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from chora.bridge.upstream import FindToken
from chora.fetch import Address
from chora.settings import LimitSettings


class BridgeOptions(Struct, frozen=True):
    """How to reach the server, and the limits of both sides.

    Args:
        address: where the server is.
        token: finds the access token; see `FindToken`.
        headers: sent with every request.
        trust: a PEM file that is trusted besides the system's certificates.
        transport: `auto` detects which one the server speaks.
        startup_time: seconds for which the first messages wait for a server that can't be reached yet.
        retry_time: seconds for which any other message does.
        line_limit, answer_limit: the longest message of the client and of the server, bytes.
        calls: how many may be in flight at once.
        grace: seconds that calls in flight get once the client has closed its end.
    """

    address: Address
    token: FindToken
    headers: tuple[tuple[str, str], ...] = ()
    trust: str = ""
    transport: Literal["auto", "http", "sse"] = "auto"
    startup_time: float = 50.0
    retry_time: float = 5.0
    line_limit: int = LimitSettings().body
    answer_limit: int = 64 * 1024 * 1024
    calls: int = 256
    grace: float = LimitSettings().grace
