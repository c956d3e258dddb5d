"""The open HTTP sessions: how many there may be, when they end, and what ends with them."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Generator

import trio

from chora.access import Authenticator, Principal
from chora.errors import Unauthorized
from chora.metrics import Metrics
from chora.peer_memory import Holding, PeerMemory
from chora.protocol.broadcast import Broadcaster, NotificationQueue
from chora.protocol.session import STATE_LIMIT, Session
from chora.protocol.subscriptions import check_open_subscriptions
from chora.settings import LimitSettings
from chora.transport.replay import ReplayBuffer, SessionStreams

SWEEP_INTERVAL = 5.0
"""Seconds between two searches for sessions that have to end."""
QUEUE_LIMIT = 100
"""Messages that may wait for an SSE client; when there are more, the session ends."""


class HttpSession(Session):
    """A session that requests name by its id, with its event streams.

    Args:
        transport, principal: as of any session.
        now: the time of its first request.
        replay_buffer: bounds the memory of all sessions' streams together.
    """

    def __init__(
        self, transport: str, principal: Principal, now: float, replay_buffer: ReplayBuffer | None = None
    ) -> None:
        super().__init__(transport, principal)
        # 192 random bits: the id is a secret, although no request gets by without the principal's token (CWE-330).
        self.id = secrets.token_urlsafe(24)
        self.last_used = now
        self.expires_at: float | None = None
        """When the token of its last request expires; its open streams are closed then."""
        self.streams = SessionStreams(replay_buffer)
        self.stream_closers: set[Callable[[], None]] = set()
        """Each closes one open stream of this session."""

    @property
    def eviction_rank(self) -> tuple[bool, float]:
        """The order of eviction: sessions without calls in flight and open streams first, of those the longest idle."""
        return bool(self.in_flight or self.stream_closers), self.last_used

    def close_streams(self) -> None:
        for close in list(self.stream_closers):
            close()


class SseSession(HttpSession):
    """A session of the 2024-11-05 transport: its calls run beside its stream, and end with it.

    Args:
        principal, now: as of any session.
        holding: of its stream; what waits to be sent on it is charged to it.
    """

    def __init__(self, principal: Principal, now: float, holding: Holding) -> None:
        super().__init__("sse", principal, now)
        self.notifications = NotificationQueue(QUEUE_LIMIT, holding=holding)


class HttpSessions:
    """The open sessions of one server, and subscriptions that belong to none.

    Args:
        broadcaster: fills the notification queues of the sessions.
        authenticator: knows which tokens are still valid.
        limits: how many sessions there may be, and how long they may be idle.
        metrics: where sessions are counted.
        memory: the account of what is held for peers, which counts the sessions and their recorded streams.
    """

    def __init__(
        self,
        broadcaster: Broadcaster,
        authenticator: Authenticator,
        limits: LimitSettings,
        metrics: Metrics,
        memory: PeerMemory,
    ) -> None:
        self.memory = memory
        self.replay_buffer = ReplayBuffer(memory.limit // 4)
        memory.count_also(lambda: len(self._sessions) * STATE_LIMIT + self.replay_buffer.size)
        self._broadcaster = broadcaster
        self._authenticator = authenticator
        self._limits = limits
        self._metrics = metrics
        self._sessions: dict[str, HttpSession] = {}
        self._calls: trio.Nursery | None = None
        """Where calls run that are posted on one connection and answered on another; they end with their session."""
        self._stream_closers: set[Callable[[], None]] = set()
        """Each closes one open stream, when the server begins to stop."""
        self._subscriptions: dict[Session, float | None] = {}
        """Subscriptions without a session, and when the tokens expire that opened them."""
        self._single_calls: set[Session] = set()
        """Calls without a session, each with one of its own for as long as it lasts."""

    async def serve(
        self, draining: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """A service: ends sessions that are idle for `limits.idle`, and all streams once `draining` is set."""
        async with trio.open_nursery() as self._calls:
            task_status.started()
            while not draining.is_set():
                with trio.move_on_after(min(SWEEP_INTERVAL, self._limits.idle / 2)):
                    await draining.wait()
                self._sweep()
            for close in list(self._stream_closers):
                close()
            await trio.sleep_forever()

    def _sweep(self) -> None:
        """End what is idle, or whose token was revoked or has expired."""
        oldest = trio.current_time() - self._limits.idle
        for session in [each for each in self._sessions.values() if each.eviction_rank < (False, oldest)]:
            self.end_session(session, "idle")
        principals = {each.principal for each in (*self._sessions.values(), *self._subscriptions, *self._single_calls)}
        revoked = {each for each in principals if not self._authenticator.is_still_valid(each)}
        for session in [each for each in self._sessions.values() if each.principal in revoked]:
            self.end_session(session, "revoked")
        for session in [each for each in self._single_calls if each.principal in revoked]:
            session.cancel_calls()
        for subscription, expires_at in self._subscriptions.items():
            if subscription.principal in revoked or (expires_at is not None and expires_at < time.time()):
                subscription.close_subscriptions()
        for session in self._sessions.values():
            session.streams.remove_expired()
            if session.expires_at is not None and session.expires_at < time.time():
                session.close_streams()

    async def start_call(self, call: Callable[..., Awaitable[None]]) -> bool:
        """Run a call beside the request that posted it, until it has started; returns False when the service doesn't
        run. What it raises before it has started is raised here."""
        if self._calls is None:
            return False
        await self._calls.start(call)
        return True

    def add_session(self, session: HttpSession) -> None:
        """Add a session, evicting another one where there are too many (CWE-770)."""
        own = [each for each in self._sessions.values() if each.principal == session.principal]
        if len(own) >= self._limits.sessions_each:
            self.end_session(min(own, key=_eviction_rank), "evicted")
        elif len(self._sessions) >= self._limits.sessions:
            # The principal with the most sessions loses one, so that no principal can evict all others.
            counts = Counter(each.principal for each in (session, *self._sessions.values()))
            largest = counts.most_common(1)[0][0]
            candidates = [each for each in self._sessions.values() if each.principal == largest]
            self.end_session(min(candidates, key=_eviction_rank), "evicted")
        self._sessions[session.id] = session
        self._broadcaster.subscribe(session.notifications)
        self._update_metrics()

    def find_session(self, session_id: str, transport: str, principal: Principal) -> HttpSession | None:
        """The session of this id; None where it is unknown, or another principal's."""
        session = self._sessions.get(session_id)
        if session is None or session.transport != transport or session.principal != principal:
            return None
        return session

    def is_open(self, session: HttpSession) -> bool:
        """Whether the session hasn't ended."""
        return session.id in self._sessions

    def end_session(self, session: HttpSession, reason: str) -> None:
        """End a session with its streams and calls; the reason is counted."""
        if self._sessions.pop(session.id, None) is not None:
            self._broadcaster.unsubscribe(session.notifications)
            self._metrics.sessions_ended.count(reason)
            self._update_metrics()
        session.close_streams()
        session.cancel_calls()
        session.streams.clear()

    def is_still_valid(self, principal: Principal) -> bool:
        """Whether the token of a principal is still accepted, so that it may have the answer it has waited for."""
        return self._authenticator.is_still_valid(principal)

    def revoked_token(self) -> Unauthorized:
        """The error of a request whose token was revoked while it was waiting for its answer."""
        return Unauthorized("The token of this request was revoked.", "Send a valid one as `Authorization: Bearer …`.")

    @contextlib.contextmanager
    def cancelling_call(self, session: Session) -> Generator[None]:
        """Have a call that belongs to no session cancelled when its token is revoked."""
        self._single_calls.add(session)
        try:
            yield
        finally:
            self._single_calls.discard(session)

    @contextlib.contextmanager
    def closing_stream(self, session: HttpSession, close: Callable[[], None]) -> Generator[None]:
        """Have a stream closed when its session ends or the server begins to stop."""
        session.stream_closers.add(close)
        self._stream_closers.add(close)
        try:
            yield
        finally:
            session.stream_closers.discard(close)
            session.last_used = trio.current_time()
            self._stream_closers.discard(close)

    def check_subscriptions(self, principal: Principal) -> None:
        """Whether a principal may open another subscription.

        Raises:
            RpcError: -32600, it has too many open.
        """
        check_open_subscriptions(sum(each.principal == principal for each in self._subscriptions))

    @contextlib.contextmanager
    def closing_subscription(self, session: Session, expires_at: float | None) -> Generator[None]:
        """Have the subscription of one request closed when its token expires or the server begins to stop."""
        self._stream_closers.add(session.close_subscriptions)
        self._subscriptions[session] = expires_at
        try:
            yield
        finally:
            self._stream_closers.discard(session.close_subscriptions)
            del self._subscriptions[session]

    def _update_metrics(self) -> None:
        for transport in ("http", "sse"):
            open_now = sum(each.transport == transport for each in self._sessions.values())
            self._metrics.sessions.set(open_now, transport)


def _eviction_rank(session: HttpSession) -> tuple[bool, float]:
    return session.eviction_rank
