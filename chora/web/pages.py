"""The pages: /health, /ready, /metrics, /status.json and the status page at /."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from quart import Response, render_template
from quart_trio import QuartTrio

from chora import __version__
from chora.web.status import ServerState, ServerStatus


def make_pages(
    readiness: Callable[[], Awaitable[tuple[ServerState, list[str]]]],
    status: Callable[[], Awaitable[ServerStatus]],
    uptime: Callable[[], float],
    exposition: Callable[[], bytes],
) -> Any:
    """The ASGI app of the pages.

    Args:
        readiness: returns the state and its reasons.
        status: returns the whole status.
        uptime: returns the seconds since the process began.
        exposition: returns all metrics in the text format of Prometheus.
    """
    pages = QuartTrio("chora.web", root_path=str(_folder()))

    @pages.get("/health")
    async def health() -> dict[str, Any]:
        """Alive: this answers for as long as the event loop runs."""
        return {"status": "alive", "version": __version__, "uptime_seconds": round(uptime(), 3)}

    @pages.get("/ready")
    async def ready() -> tuple[dict[str, Any], int]:
        """Ready: 200 only when a call would really be served, else 503 with the reasons."""
        state, reasons = await readiness()
        return {"status": state, "reasons": reasons}, 200 if state == "ready" else 503

    @pages.get("/status.json")
    async def status_json() -> dict[str, Any]:
        return (await status()).as_dict()

    @pages.get("/metrics")
    async def metrics_page() -> Response:
        return Response(exposition(), content_type="text/plain; version=0.0.4; charset=utf-8")

    @pages.get("/")
    async def index() -> str:
        return await render_template("status.html", status=(await status()).as_dict())

    return pages


def _folder() -> str:
    """The folder of the templates, in a checkout, a wheel and the frozen binary alike."""
    from importlib.resources import files

    return str(files("chora.web"))
