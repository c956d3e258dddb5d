"""Spending on models: budgets are kept, answers are paid for once, and every cost is recorded."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import trio.testing

from chora import llm, settings
from chora.engine.budget import Budget, Budgets
from chora.errors import BudgetExceeded, GenerationFailed
from chora.store import SqliteStore
from chora.store.records import Completion, Cost
from chora.timestamps import format_timestamp
from tests.anthropic_server import KEY, message, serving
from tests.conftest import requirement
from tests.patience import PATIENCE

PRICE = 0.01
"""What a request of `asking` may cost at most: 1,000 tokens out at $10 a million, and next to nothing in."""


class Model:
    """Answers when the test lets it; a failure is raised instead."""

    def __init__(self) -> None:
        self.asked: list[llm.ModelRequest] = []
        self.may_answer = trio.Event()
        self.may_answer.set()
        self.failures: list[GenerationFailed] = []

    async def complete_request(self, request: llm.ModelRequest) -> llm.ModelReply:
        self.asked.append(request)
        number = len(self.asked)
        await self.may_answer.wait()
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        dollars = llm.cost_of(request.model, 0, 500)
        return llm.ModelReply(
            text=f"answer {number}",
            input_tokens=0,
            output_tokens=500,
            model=request.model,
            usd=None if dollars is None else sum(dollars),
        )


@pytest.fixture
async def store() -> AsyncGenerator[SqliteStore]:
    opened = SqliteStore(None)
    yield opened
    opened.close()


@pytest.fixture
def model() -> Model:
    return Model()


def spending(store: SqliteStore, model: Any, run: float = 0.0, day: float = 0.0, project: float = 0.0) -> Budgets:
    return Budgets(store, model, settings.LlmSettings(budget_run=run, budget_day=day, budget_project=project))


def asking(prompt: str = "x", model: str = "claude-sonnet-5") -> llm.ModelRequest:
    return llm.ModelRequest(model=model, prompt=prompt, max_tokens=1000)


async def spent(store: SqliteStore, usd: float, hours_ago: float) -> None:
    """Record an earlier cost."""
    at = format_timestamp(datetime.now(UTC) - timedelta(hours=hours_ago))
    cost = Cost(at=at, content_id="other", model="m", input_tokens=1, output_tokens=1, usd=usd)
    completion = Completion(key=f"old {hours_ago}", model="m", text="", input_tokens=1, output_tokens=1, at=at)
    await store.add_completion(completion, cost)


async def refused(budget: Budget, request: llm.ModelRequest) -> dict[str, Any]:
    """The details of the refusal of a request that exceeds a budget."""
    with pytest.raises(BudgetExceeded) as exceeded:
        await budget.complete_request("note", request)
    error = exceeded.value
    assert error.message.endswith(".")
    assert str(error.details["setting"]) in str(error.hint)
    return error.details


@pytest.mark.slow("imports the model's SDK")
async def test_an_answer_and_its_cost_are_kept(store: SqliteStore):
    """The answer for the next time, the cost for the budgets, and the sum for the run; all from the response's own
    usage.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANTHROPIC_API_KEY", KEY)
        async with serving(message("hi", tokens=(1000, 500))) as server:
            limits = settings.LlmSettings(base_url=server.url)
            budget = Budgets(store, llm.Anthropic(limits), limits).open_budget()
            with trio.fail_after(PATIENCE):
                first = await budget.complete_request("note", asking())
                again = await budget.complete_request("other", asking())
    assert len(server.asked) == 1
    assert (first.cached, first.usd) == (False, pytest.approx(0.007))
    assert again == llm.ModelReply(
        text="hi", input_tokens=1000, output_tokens=500, model="claude-sonnet-5", cached=True, usd=0.0
    )
    (cost,) = store.costs()
    assert (cost.content_id, cost.model, cost.usd) == ("note", "claude-sonnet-5", pytest.approx(0.007))
    assert budget.spent == pytest.approx(0.007)


async def test_a_fresh_request_replaces_the_cached_answer(store: SqliteStore, model: Model):
    """Regenerating asks the model again, and later requests get the new answer."""
    budget = spending(store, model).open_budget()
    assert (await budget.complete_request("note", asking())).text == "answer 1"
    assert (await budget.complete_request("note", asking(), fresh=True)).text == "answer 2"
    assert (await budget.complete_request("note", asking())).text == "answer 2"
    assert len(store.costs()) == 2


@requirement("generators.code-generation.budget")
@pytest.mark.parametrize("kind", ["run", "day", "project"])
async def test_a_budget_may_be_spent_to_the_last_cent(store: SqliteStore, model: Model, kind: str):
    """A request that is estimated at all that is left is made; one that is estimated at more isn't."""
    estimate = llm.estimate_cost(asking())
    assert estimate
    limits: dict[str, float] = {kind: estimate * 0.999}
    assert (await refused(spending(store, model, **limits).open_budget(), asking()))["budget"] == kind
    limits = {kind: estimate}
    assert (await spending(store, model, **limits).open_budget().complete_request("note", asking())).text == "answer 1"


@requirement("generators.code-generation.budget")
@pytest.mark.parametrize(
    ("limits", "before", "budget"),
    [
        ({"run": PRICE / 2}, [], "run"),
        ({"day": 0.02}, [(0.015, 23.0)], "day"),
        ({"project": 0.02}, [(0.015, 100.0)], "project"),
        ({"day": 0.02}, [(0.015, 25.0)], None),
        ({"run": 0.02}, [(9.0, 1.0)], None),
        ({}, [(9.0, 1.0)], None),
    ],
)
async def test_a_request_that_would_exceed_a_budget_is_refused(
    store: SqliteStore, model: Model, limits: dict[str, float], before: list[tuple[float, float]], budget: str | None
):
    """Of the run, of 24 hours, or in total; 0 is no limit."""
    for usd, hours in before:
        await spent(store, usd, hours)
    opened = spending(store, model, **limits)
    assert opened.preview_cost(asking())["would_exceed"] == budget
    if budget is None:
        await opened.open_budget().complete_request("note", asking())
        return
    details = await refused(opened.open_budget(), asking())
    assert details["budget"] == budget
    assert details["setting"] == f"llm.budget_{budget}"
    assert details["limit_usd"] == limits[budget]
    assert details["spent_usd"] == (before[0][0] if before else 0)
    assert details["estimated_usd"] == pytest.approx(PRICE, rel=0.01)
    assert model.asked == []
    assert len(store.costs()) == len(before)


async def test_a_run_has_its_own_sum(store: SqliteStore, model: Model):
    """One call's spending doesn't count for the next."""
    opened = spending(store, model, run=0.012)
    budget = opened.open_budget()
    await budget.complete_request("note", asking("a"))
    assert (await refused(budget, asking("b")))["spent_usd"] == 0.005
    await opened.open_budget().complete_request("note", asking("b"))


@pytest.mark.parametrize("together", [True, False])
async def test_calls_in_flight_count(store: SqliteStore, model: Model, together: bool):
    """Two concurrent requests can't both use money that suffices for one, in one run or in two."""
    opened = spending(store, model, **({"run": 0.016} if together else {"day": 0.016}))
    first = opened.open_budget()
    second = first if together else opened.open_budget()
    model.may_answer = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.complete_request, "note", asking("a"))
        await trio.testing.wait_all_tasks_blocked()
        details = await refused(second, asking("b"))
        assert (details["spent_usd"], details["in_flight_usd"]) == (0, pytest.approx(PRICE, rel=0.01))
        model.may_answer.set()
    assert opened.in_flight == pytest.approx(0)
    await second.complete_request("note", asking("b"))  # the first one took half of what it might have
    assert [request.prompt for request in model.asked] == ["a", "b"]


async def test_concurrent_equal_requests_are_made_once(store: SqliteStore, model: Model):
    """They share the answer."""
    opened = spending(store, model)
    model.may_answer = trio.Event()
    replies: list[llm.ModelReply] = []

    async def ask(content_id: str) -> None:
        replies.append(await opened.open_budget().complete_request(content_id, asking()))

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, f"note-{number}")
        await trio.testing.wait_all_tasks_blocked()
        model.may_answer.set()
    assert len(model.asked) == len(store.costs()) == 1
    assert sorted(reply.cached for reply in replies) == [False, True, True, True, True]
    assert opened.requests_under_way == {}


async def test_if_a_shared_request_fails_the_next_one_is_made(store: SqliteStore, model: Model):
    """Waiting requests don't hang, and a failure that cost nothing leaves no record."""
    opened = spending(store, model)
    model.may_answer = trio.Event()
    model.failures = [GenerationFailed("No.", "Later.", error_type="APIConnectionError")]
    replies: list[llm.ModelReply] = []
    failures: list[GenerationFailed] = []

    async def ask() -> None:
        try:
            replies.append(await opened.open_budget().complete_request("note", asking()))
        except GenerationFailed as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        model.may_answer.set()
    assert (len(failures), len(replies), len(model.asked), len(store.costs())) == (1, 2, 2, 1)


async def test_two_fresh_requests_are_both_made(store: SqliteStore, model: Model):
    """A third one that isn't fresh takes the first answer."""
    opened = spending(store, model)
    model.may_answer = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(lambda: opened.open_budget().complete_request("note", asking(), fresh=True))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(opened.open_budget().complete_request, "note", asking())
        await trio.testing.wait_all_tasks_blocked()
        model.may_answer.set()
    assert len(model.asked) == 2


async def test_an_unusable_answer_still_costs(store: SqliteStore, model: Model):
    """Its cost counts, and the next request is made again."""
    model.failures = [
        GenerationFailed("Cut off.", "More.", error_type="BrokenAnswer", input_tokens=0, output_tokens=1000)
    ]
    opened = spending(store, model, run=0.021)
    budget = opened.open_budget()
    with pytest.raises(GenerationFailed, match="Cut off"):
        await budget.complete_request("note", asking())
    assert budget.spent == store.total_cost() == pytest.approx(0.01)
    assert (await budget.complete_request("note", asking())).text == "answer 2"
    assert (await refused(budget, asking("more")))["spent_usd"] == pytest.approx(0.015)


async def test_a_cancelled_request_releases_its_reservation(store: SqliteStore, model: Model):
    """It no longer counts for the budgets."""
    opened = spending(store, model, run=0.012)
    budget = opened.open_budget()
    model.may_answer = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.complete_request, "note", asking())
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (opened.in_flight, budget.spent, opened.requests_under_way) == (0, 0, {})
    model.may_answer.set()
    await budget.complete_request("note", asking())


async def test_an_answer_is_stored_although_its_call_was_cancelled(store: SqliteStore, model: Model):
    """Storing it can't be cancelled, as it has been paid for."""
    budget = spending(store, model).open_budget()
    with trio.CancelScope() as scope:
        original = model.complete_request

        async def complete_and_leave(request: llm.ModelRequest) -> llm.ModelReply:
            reply = await original(request)
            scope.cancel()
            return reply

        model.complete_request = complete_and_leave
        await budget.complete_request("note", asking())
    assert store.completion(asking().key) is not None
    assert len(store.costs()) == 1


async def test_a_model_without_a_known_price_may_be_used(store: SqliteStore, model: Model):
    """It can't be counted; the estimate warns of that if a budget is set."""
    opened = spending(store, model, run=0.001)
    request = asking(model="unlisted-model")
    outlook = opened.preview_cost(request)
    assert (outlook["estimated_usd"], outlook["would_exceed"]) == (None, None)
    assert outlook["warning"] == "What unlisted-model costs isn't known, so the budgets can't limit it"
    assert spending(store, model).preview_cost(request)["warning"] is None
    reply = await opened.open_budget().complete_request("note", request)
    assert reply.usd is None
    assert store.costs()[0].usd is None


async def test_an_estimate_says_what_a_request_would_cost(store: SqliteStore, model: Model):
    """Before it is made; zero if the answer is cached."""
    await spent(store, 0.25, 1.0)
    await spent(store, 0.5, 48.0)
    opened = spending(store, model, run=1.0, day=10.0, project=100.0)
    assert opened.preview_cost(asking()) == {
        "model": "claude-sonnet-5",
        "estimated_usd": 0.010002,
        "cached": False,
        "spent_day_usd": 0.25,
        "spent_project_usd": 0.75,
        "budget_run_usd": 1.0,
        "budget_day_usd": 10.0,
        "budget_project_usd": 100.0,
        "would_exceed": None,
        "warning": None,
    }
    assert model.asked == []
    await opened.open_budget().complete_request("note", asking())
    outlook = opened.preview_cost(asking())
    assert (outlook["cached"], outlook["estimated_usd"]) == (True, 0.0)


async def test_a_cached_answer_needs_no_budget(store: SqliteStore, model: Model):
    """It is returned even when everything is spent."""
    await spending(store, model).open_budget().complete_request("note", asking())
    poor = spending(store, model, day=0.001)
    assert (await poor.open_budget().complete_request("note", asking())).cached
    await refused(poor.open_budget(), asking("other"))
