"""Budgets for language models: stored replies are free, and a request that would exceed a budget isn't sent.

A model without a known price may be used, or a new model would need a new chora first; its calls count as free, which
previews and results say. Of other processes, only completed calls count, not those in flight.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import trio

from chora import llm, settings
from chora.errors import BudgetExceeded, GenerationFailed
from chora.store.records import Completion, Cost
from chora.store.store import Store
from chora.timestamps import format_timestamp, now


class BudgetState(NamedTuple):
    """A limit, and how much of it is used; amounts in US dollars."""

    name: str
    limit: float
    spent: float
    in_flight: float


class Budgets:
    """The budgets of one project.

    Args:
        store: where answers and costs are kept.
        anthropic: the client of the language model.
        settings: the budgets.
    """

    def __init__(self, store: Store, anthropic: llm.Anthropic, settings: settings.LlmSettings) -> None:
        self.store = store
        self.anthropic = anthropic
        self.settings = settings
        self.in_flight = 0.0
        """US dollars that the calls under way may cost at most."""
        self.requests_under_way: dict[str, trio.Event] = {}
        """Requests under way, by key; the event is set when they end, with or without a reply."""

    def open_budget(self) -> Budget:
        """The budget of one run: everything that one tool call requests."""
        return Budget(self)

    def preview_cost(self, request: llm.ModelRequest) -> dict[str, Any]:
        """What the request would cost and what was spent so far, in US dollars; nothing is sent.

        `estimated_usd` is the most it should cost, None for a model whose price isn't known; `would_exceed` is the
        budget that would be exceeded, if any; `warning` says when no budget can limit the model.
        """
        cached = self.store.completion(request.key) is not None
        estimated = 0.0 if cached else llm.estimate_cost(request)
        budgets = self.list_budgets(0.0, 0.0)
        exceeded = _exceeded_budget(budgets, estimated or 0.0)
        unlimited = estimated is None and any(budget.limit for budget in budgets)
        return {
            "model": request.model,
            "estimated_usd": None if estimated is None else round(estimated, 6),
            "cached": cached,
            "spent_day_usd": round(budgets[1].spent, 6),
            "spent_project_usd": round(budgets[2].spent, 6),
            **{f"budget_{budget.name}_usd": budget.limit for budget in budgets},
            "would_exceed": exceeded.name if exceeded else None,
            "warning": f"What {request.model} costs isn't known, so the budgets can't limit it" if unlimited else None,
        }

    def list_budgets(self, run_spent: float, run_in_flight: float) -> list[BudgetState]:
        """Every budget: of the run, the day and the project."""
        settings = self.settings
        day_ago = format_timestamp(datetime.now(UTC) - timedelta(hours=24))
        return [
            BudgetState("run", settings.budget_run, run_spent, run_in_flight),
            BudgetState("day", settings.budget_day, self.store.total_cost(day_ago), self.in_flight),
            BudgetState("project", settings.budget_project, self.store.total_cost(), self.in_flight),
        ]


class Budget:
    """The budget of one run.

    Args:
        budgets: the budgets of the project.
    """

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self.spent = 0.0
        """US dollars this run has spent."""
        self._in_flight = 0.0

    async def complete_request(
        self, content_id: str, request: llm.ModelRequest, *, fresh: bool = False
    ) -> llm.ModelReply:
        """The model's reply: the stored one to the same request, or a new one if the budgets allow it.

        Equal requests at the same time are sent once.

        Args:
            content_id: the content that the cost is recorded for.
            request: the request.
            fresh: send it even if its reply is stored.

        Raises:
            BudgetExceeded: it could cost more than is left; nothing was spent.
            GenerationFailed: there is no usable reply. If it was paid for, the cost is recorded.
            StorageError: the reply couldn't be stored.
        """
        spending = self._budgets
        while not fresh:
            if known := self._stored_reply(request):
                return known
            if (under_way := spending.requests_under_way.get(request.key)) is None:
                break
            await under_way.wait()
        with self._reserve_cost(request), _register_request(spending.requests_under_way, request.key):
            try:
                reply = await spending.anthropic.complete_request(request)
            except GenerationFailed as error:
                if error.details.get("output_tokens") is not None:
                    await self._store_unusable_reply(content_id, request, error.details)
                raise
            await self._store_reply(content_id, request.key, reply)
            return reply

    async def recall_reply(self, request: llm.ModelRequest) -> llm.ModelReply:
        """The stored reply to this request.

        Raises:
            ModelNotAsked: there is none; the details say what the request would cost.
        """
        known = self._stored_reply(request)
        if known is None:
            raise llm.ModelNotAsked(
                f"{request.model} was never asked this, and nothing may be spent here.",
                "generate_content asks it; preview_generation with spend: true does so without storing the text.",
                error_type="NotAsked",
                request=request,
                outlook=self._budgets.preview_cost(request),
            )
        return known

    def _stored_reply(self, request: llm.ModelRequest) -> llm.ModelReply | None:
        known = self._budgets.store.completion(request.key)
        if known is None:
            return None
        return llm.ModelReply(
            text=known.text,
            input_tokens=known.input_tokens,
            output_tokens=known.output_tokens,
            model=known.model,
            cached=True,
            usd=0.0,
        )

    @contextmanager
    def _reserve_cost(self, request: llm.ModelRequest) -> Generator[None]:
        """Reserve the most that the call may cost until it is over."""
        estimated = llm.estimate_cost(request) or 0.0
        budget = _exceeded_budget(self._budgets.list_budgets(self.spent, self._in_flight), estimated)
        if budget is not None:
            setting = f"llm.budget_{budget.name}"
            raise BudgetExceeded(
                f"Asking {request.model} could cost ${estimated:.4f}, and of the {budget.name}'s ${budget.limit:g} "
                f"${budget.spent + budget.in_flight:.4f} are spent or promised.",
                f"Raise the setting {setting}, choose a cheaper model, or lower generation_config.max_tokens.",
                budget=budget.name,
                limit_usd=budget.limit,
                spent_usd=round(budget.spent, 6),
                in_flight_usd=round(budget.in_flight, 6),
                estimated_usd=round(estimated, 6),
                setting=setting,
            )
        self._in_flight += estimated
        self._budgets.in_flight += estimated
        try:
            yield
        finally:
            self._in_flight -= estimated
            self._budgets.in_flight -= estimated

    async def _store_reply(self, content_id: str, key: str, reply: llm.ModelReply) -> None:
        """Store a reply and its cost; it was paid for, so it is stored even if the caller cancels now."""
        self.spent += reply.usd or 0.0
        moment = now()
        completion = Completion(
            key=key,
            model=reply.model,
            text=reply.text,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            at=moment,
        )
        cost = Cost(
            at=moment,
            content_id=content_id,
            model=reply.model,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            usd=reply.usd,
        )
        with trio.CancelScope(shield=True):
            await self._budgets.store.add_completion(completion, cost)

    async def _store_unusable_reply(self, content_id: str, request: llm.ModelRequest, details: dict[str, Any]) -> None:
        """Store the cost of an unusable reply, under a key that no request has."""
        tokens: tuple[int, int] = details["input_tokens"], details["output_tokens"]
        dollars = llm.cost_of(request.model, *tokens)
        reply = llm.ModelReply(
            text="",
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            model=request.model,
            usd=None if dollars is None else sum(dollars),
        )
        await self._store_reply(content_id, f"broken:{request.key}", reply)


def _exceeded_budget(budgets: list[BudgetState], estimated: float) -> BudgetState | None:
    """The first budget that this amount would exceed; a limit of 0 is no limit."""
    return next(
        (
            budget
            for budget in budgets
            if budget.limit > 0 and budget.spent + budget.in_flight + estimated > budget.limit
        ),
        None,
    )


@contextmanager
def _register_request(pending: dict[str, trio.Event], key: str) -> Generator[None]:
    """Register this request as under way, unless it already is."""
    if key in pending:
        yield
        return
    pending[key] = over = trio.Event()
    try:
        yield
    finally:
        del pending[key]
        over.set()
