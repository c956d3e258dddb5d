"""Requests to a language model: real sockets, the real SDK, and a scripted server on loopback."""

from __future__ import annotations

import gzip
import logging
import sys
import traceback
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from chora import llm, settings
from chora.errors import GenerationFailed
from chora.secrets import Secret
from tests.anthropic_server import KEY, Answer, AnthropicServer, message, refusal, serving
from tests.conftest import requirement
from tests.patience import PATIENCE


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)


@pytest.fixture(autouse=True, scope="module")
def sdk() -> None:
    """Import the SDK before any limit runs: that takes seconds."""
    import anthropic

    assert anthropic.AsyncAnthropic


def asking(**changes: Any) -> llm.ModelRequest:
    """A request that tries again at once."""
    given: dict[str, Any] = {"model": "claude-sonnet-5", "prompt": "Say hi", "retry_delay": 0.0, "timeout": 5.0}
    given.update(changes)
    return msgspec.convert(given, llm.ModelRequest)


def client(server: AnthropicServer) -> llm.Anthropic:
    return llm.Anthropic(settings.LlmSettings(base_url=server.url))


async def failure(server: AnthropicServer, **changes: Any) -> GenerationFailed:
    """The error of a request that must fail."""
    with trio.fail_after(PATIENCE), pytest.raises(GenerationFailed) as failed:
        await client(server).complete_request(asking(**changes))
    error = failed.value
    assert error.message.endswith((".", "…"))
    assert error.hint
    assert error.details["model"] == "claude-sonnet-5"
    return error


# -- requests ---------------------------------------------------------------------------------------------------


@pytest.mark.slow("imports the model's SDK")
async def test_an_answer_comes_with_its_cost():
    """The text of every text block, the tokens, and their price in US dollars."""
    blocks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    async with serving(message("", content=blocks)) as server:
        with trio.fail_after(PATIENCE):
            reply = await client(server).complete_request(asking(system="Be brief", max_tokens=777))
    assert reply == llm.ModelReply(
        text="ab", input_tokens=1000, output_tokens=500, model="claude-sonnet-5", usd=0.002 + 0.005
    )
    (asked,) = server.asked
    assert asked.line == "POST /v1/messages HTTP/1.1"
    assert asked.body == {
        "model": "claude-sonnet-5",
        "max_tokens": 777,
        "system": "Be brief",
        "messages": [{"role": "user", "content": "Say hi"}],
    }
    assert KEY in asked.headers.get("x-api-key", "") + asked.headers.get("authorization", "")


@pytest.mark.parametrize(
    "tokens", [(-1_000_000, 5), (5, -1_000_000), (10**18, 5), (5, 10**18), (6 + llm.OVERHEAD + 1, 5), (5, 101)]
)
@requirement("generators.code-generation.usage")
async def test_tokens_that_an_answer_cannot_have_taken_are_not_believed(
    tokens: tuple[int, int], caplog: pytest.LogCaptureFixture
):
    """The most that it can have taken is counted: the budgets are neither given money nor used up by a number."""
    async with serving(message("hi", tokens=tokens)) as server:
        with trio.fail_after(PATIENCE):
            reply = await client(server).complete_request(asking(max_tokens=100))
    assert (reply.text, reply.input_tokens, reply.output_tokens) == ("hi", 6 + llm.OVERHEAD, 100)
    assert reply.usd == pytest.approx((6 + llm.OVERHEAD) * 2e-6 + 100 * 1e-5)
    assert "can't be" in caplog.text


async def test_the_most_tokens_that_an_answer_can_have_taken_are_believed(caplog: pytest.LogCaptureFixture):
    """The bytes of the prompt and what the API adds; as many as the request allows."""
    async with serving(message("hi", tokens=(6 + llm.OVERHEAD, 100))) as server:
        with trio.fail_after(PATIENCE):
            reply = await client(server).complete_request(asking(max_tokens=100))
    assert (reply.input_tokens, reply.output_tokens) == (6 + llm.OVERHEAD, 100)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "usage",
    [b'{"input_tokens": 9223372036854775808, "output_tokens": 1}', b'{"input_tokens": 1, "output_tokens": 1e400}'],
)
async def test_tokens_that_are_no_numbers_of_ours_cost_no_traceback(usage: bytes):
    """What doesn't fit the store, or isn't a number, is counted as the most, or refused."""
    body = b'{"content": [{"type": "text", "text": "hi"}], "stop_reason": "end_turn", "usage": ' + usage + b"}"
    outcome = llm._parse_answer(body, asking(max_tokens=100))
    if isinstance(outcome, llm.ModelReply):
        assert (outcome.input_tokens, outcome.output_tokens) == (6 + llm.OVERHEAD, 100)
    else:
        assert outcome.error_type == "BrokenAnswer"


async def test_an_answer_nested_too_deep_is_broken():
    """On every Python alike."""
    deep = b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    outcome = llm._parse_answer(deep, asking())
    assert isinstance(outcome, llm._Failure)
    assert outcome.error_type == "BrokenAnswer"


@pytest.mark.parametrize(
    ("temperature", "sent"), [(None, {}), (0.0, {"temperature": 0.0}), (0.5, {"temperature": 0.5})]
)
async def test_a_temperature_is_sent_only_where_there_is_one(temperature: float | None, sent: dict[str, float]):
    """None leaves the field out: the newer models refuse it."""
    async with serving(message("hi")) as server:
        with trio.fail_after(PATIENCE):
            await client(server).complete_request(asking(temperature=temperature))
    assert {name: value for name, value in server.asked[0].body.items() if name == "temperature"} == sent
    assert "system" not in server.asked[0].body


async def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch):
    """Neither proxies nor the SDK's own variables change a request."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY", "ANTHROPIC_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-odd: yes\nauthorization: Bearer other\nx-api-key: other")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "other")
    async with serving(message("hi")) as server:
        with trio.fail_after(PATIENCE):
            assert (await client(server).complete_request(asking())).text == "hi"
    headers = server.asked[0].headers
    assert "x-odd" not in headers
    assert "other" not in " ".join(headers.values())
    assert KEY in " ".join(headers.values())


async def test_the_key_is_looked_up_for_every_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A key that changes while the server runs is used next."""
    async with serving(message("hi")) as server:
        asks = client(server)
        with trio.fail_after(PATIENCE):
            await asks.complete_request(asking())
            (tmp_path / "key").write_text("sk-second\n")
            monkeypatch.setenv("ANTHROPIC_API_KEY_FILE", str(tmp_path / "key"))
            await asks.complete_request(asking())
    assert KEY in " ".join(server.asked[0].headers.values())
    assert "sk-second" in " ".join(server.asked[1].headers.values())


async def test_without_a_key_no_request_is_made(monkeypatch: pytest.MonkeyPatch):
    """The error names every place for a key, and so does `why_unavailable`."""
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    async with serving(message("hi")) as server:
        error = await failure(server)
        assert client(server).why_unavailable() == f"There is no API key for the language model. {error.hint}".replace(
            "There is", "there is"
        )
    assert server.asked == []
    assert error.details["error_type"] == "MissingApiKey"
    assert error.details["attempts"] == 0
    for place in ("ANTHROPIC_API_KEY_FILE", "/run/secrets", "CREDENTIALS_DIRECTORY", "keyring", "ANTHROPIC_API_KEY."):
        assert place in str(error.hint)


async def test_a_key_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A configured file is required; no other place is tried."""
    monkeypatch.setenv("ANTHROPIC_API_KEY_FILE", str(tmp_path / "gone"))
    async with serving(message("hi")) as server:
        error = await failure(server)
        assert str(tmp_path / "gone") in str(client(server).why_unavailable())
    assert error.details["error_type"] == "MissingApiKey"
    assert str(tmp_path / "gone") in error.message


@pytest.mark.parametrize("odd", ["sk-a\nb", "“sk-ab”", "sk ab"])
async def test_an_invalid_key_is_not_sent(monkeypatch: pytest.MonkeyPatch, odd: str):
    """It has a line break or a typographic quote; the error doesn't show it."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", odd)
    async with serving(message("hi")) as server:
        error = await failure(server)
        assert "no key has" in str(client(server).why_unavailable())
    assert server.asked == []
    assert (error.details["error_type"], error.details["attempts"]) == ("MissingApiKey", 0)
    assert "environment ANTHROPIC_API_KEY" in error.message
    assert odd not in str(error.as_dict())


async def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    """The SDK is an extra."""
    async with serving(message("hi")) as server:
        assert client(server).why_unavailable() is None
        monkeypatch.setitem(sys.modules, "anthropic", None)
        error = await failure(server)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert "pip install 'chora-mcp[llm]'" in str(client(server).why_unavailable())
    assert error.details["error_type"] == "MissingPackage"
    assert "pip install 'chora-mcp[llm]'" in str(error.hint)


# -- retries ----------------------------------------------------------------------------------------------------


@requirement("generators.code-generation.retries")
@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
async def test_transient_errors_are_retried(status: int):
    """With an identical request."""
    async with serving(refusal(status), refusal(status), message("hi")) as server:
        with trio.fail_after(PATIENCE):
            assert (await client(server).complete_request(asking())).text == "hi"
    assert server.prompts == ["Say hi"] * 3


@requirement("generators.code-generation.retries")
async def test_retries_are_limited():
    """The error says how many attempts were made."""
    async with serving(refusal(529, "overloaded")) as server:
        error = await failure(server, retries=2)
    assert len(server.asked) == 3
    assert error.details["error_type"] == "APIStatusError"
    assert (error.details["status"], error.details["attempts"]) == (529, 3)
    assert "overloaded" in error.message


@requirement("generators.code-generation.retries")
@pytest.mark.parametrize(("status", "error_type"), [(400, "APIStatusError"), (401, "AuthenticationError")])
@pytest.mark.parametrize("more", [0, 3])
async def test_permanent_errors_are_not_retried(status: int, error_type: str, more: int):
    """A wrong key or request stays wrong."""
    async with serving(refusal(status + more, "not so")) as server:
        error = await failure(server)
    assert len(server.asked) == 1
    assert error.details["status"] == status + more
    assert error.details["error_type"] == (error_type if not more else "APIStatusError")
    assert "not so" in error.message


async def test_a_redirect_is_not_followed():
    """The key is only sent to the address in the settings."""
    async with (
        serving(message("hi")) as other,
        serving(refusal(307, "go", location=f"{other.url}/v1/messages")) as server,
    ):
        error = await failure(server)
    assert other.asked == []
    assert error.details["status"] == 307


async def test_a_rate_limit_is_waited_for(autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch):
    """Retry-After wins over our own delay, also as a date; ours doubles."""
    waits = await _waits(
        monkeypatch,
        llm._Failure("RateLimitError", "slow", "later", 429, True, 7.0),
        llm._Failure("RateLimitError", "slow", "later", 429, True),
        llm._Failure("RateLimitError", "slow", "later", 429, True),
        llm.ModelReply(text="hi", input_tokens=1, output_tokens=1, model="m"),
    )
    assert waits == [0.0, 7.0, 7.0 + 5.0, 7.0 + 5.0 + 10.0]


async def test_a_minute_is_waited_for_and_no_more(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
):
    """Our own delay grows up to a minute, and one that the server asks for is refused beyond it."""
    limited = llm._Failure("RateLimitError", "slow", "later", 429, True)
    reply = llm.ModelReply(text="hi", input_tokens=1, output_tokens=1, model="m")
    assert await _waits(monkeypatch, limited, limited, limited, reply, retry_delay=25.0) == [0.0, 25.0, 75.0, 135.0]
    asked = limited._replace(wait=llm.RETRY_AFTER_LIMIT)
    assert await _waits(monkeypatch, asked, reply) == [0.0, llm.RETRY_AFTER_LIMIT]
    with pytest.raises(GenerationFailed) as refused:
        await _waits(monkeypatch, limited._replace(wait=llm.RETRY_AFTER_LIMIT + 0.5), reply)
    assert refused.value.details["error_type"] == "RateLimitError"


async def _waits(monkeypatch: pytest.MonkeyPatch, *outcomes: Any, retry_delay: float = 2.5) -> list[float]:
    """When the attempts with these outcomes were made, in seconds of a clock that jumps."""
    moments: list[float] = []
    start = trio.current_time()
    script = list(outcomes)

    async def attempt(*_: Any) -> Any:
        moments.append(round(trio.current_time() - start, 3))
        return script.pop(0)

    monkeypatch.setattr(llm, "_send_request", attempt)
    secret: Any = Secret("x")
    none: Any = None
    await llm.Anthropic(settings.LlmSettings())._send_with_retries(none, secret, asking(retry_delay=retry_delay))
    return moments


async def test_a_retry_after_header_is_honored():
    """In seconds or as a date; one that asks for more than a minute ends the trying."""
    async with serving(refusal(429, "slow", retry_after="0"), message("hi")) as server:
        with trio.fail_after(PATIENCE):
            assert (await client(server).complete_request(asking(retry_delay=60.0))).text == "hi"
    past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    async with serving(refusal(429, "slow", retry_after=past), message("hi")) as server:
        with trio.fail_after(PATIENCE):
            assert (await client(server).complete_request(asking(retry_delay=60.0))).text == "hi"
    async with serving(refusal(429, "slow", retry_after="3600")) as server:
        error = await failure(server)
    assert len(server.asked) == 1
    assert error.details["error_type"] == "RateLimitError"
    assert error.details["retry_after"] == 3600.0
    async with serving(refusal(429, "slow", retry_after="soon"), message("hi")) as server:
        with trio.fail_after(PATIENCE):
            assert (await client(server).complete_request(asking())).text == "hi"


async def test_a_lost_connection_is_tried_again():
    """In the middle of a response, or refused."""
    async with serving(Answer(body=b'{"content"', closes_early=True), message("hi")) as server:
        with trio.fail_after(PATIENCE):
            assert (await client(server).complete_request(asking())).text == "hi"
    error = await failure(server, retries=1)  # it no longer listens
    assert error.details["error_type"] == "APIConnectionError"
    assert (error.details["status"], error.details["attempts"]) == (None, 2)


async def test_a_slow_response_times_out():
    """It isn't retried, as it would be paid for twice."""
    async with serving(Answer(never=True)) as server:
        error = await failure(server, timeout=2.0)
        with trio.fail_after(PATIENCE):
            await server.left.wait()
    assert len(server.asked) == 1
    assert error.details["error_type"] == "APITimeoutError"
    assert "within 2 s" in error.message


async def test_a_cancelled_call_ends_its_request():
    """Its connection is closed."""
    async with serving(Answer(never=True)) as server, trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            nursery.start_soon(client(server).complete_request, asking(timeout=60.0))
            while not server.asked:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.fail_after(PATIENCE):
            await server.left.wait()


# -- invalid responses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said", "paid"),
    [
        (Answer(body=b"<html>"), "not a message", False),
        (Answer(body=b"{}"), "not a message", False),
        (Answer(body=b""), "not a message", False),
        (message(" \n"), "is empty", True),
        (message("", content=[]), "is empty", True),
        (message("def f(", "max_tokens"), "cut off after 999 tokens", True),
        (message("x", "model_context_window_exceeded"), "window ended", True),
        (message("I won't", "refusal"), "is a refusal", True),
        (message("x", "pause_turn"), "'pause_turn'", True),
    ],
)
async def test_an_invalid_response_is_an_error(answer: Answer, said: str, paid: bool):
    """Nothing of it is taken as text; its cost is in the details."""
    async with serving(answer) as server:
        error = await failure(server, max_tokens=999)
    assert len(server.asked) == 1
    assert error.details["error_type"] == "BrokenAnswer"
    assert said in error.message
    assert error.details.get("output_tokens") == (500 if paid else None)


async def test_an_endless_response_is_bounded(monkeypatch: pytest.MonkeyPatch):
    """It can't fill the memory; and it isn't asked for again, because it was paid for."""
    monkeypatch.setattr(llm, "REPLY_LIMIT", 1000)
    async with serving(message("x" * 2000)) as server:
        error = await failure(server, retries=3)
    assert error.details["error_type"] == "BrokenAnswer"
    assert error.message == "The answer is larger than 1,000 bytes."
    assert len(server.asked) == 1


@requirement("generators.code-generation.bounded")
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "GZIP, gzip", "unheard-of"])
async def test_a_compressed_answer_is_refused(status: int, coding: str):
    """A megabyte may unpack to gigabytes, whatever it is bounded to when it arrives. None is asked for."""
    packed = gzip.compress(bytes(50 * 1024 * 1024))
    async with serving(Answer(status, packed, (("content-encoding", coding),))) as server:
        tracemalloc.start()
        try:
            error = await failure(server, retries=3)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert server.asked[0].headers["accept-encoding"] == "identity"
    assert (error.details["error_type"], len(server.asked)) == ("BrokenAnswer", 1)
    assert error.message == "The answer is compressed, which wasn't requested."
    assert peak < 20 * 1024 * 1024


# -- the secret -------------------------------------------------------------------------------------------------


@requirement("generators.code-generation.key")
@pytest.mark.parametrize(
    "answer",
    [refusal(401, f"bad key {KEY}"), refusal(500, f"oh {KEY}"), Answer(closes_early=True), message("x", "refusal")],
    ids=["401", "500", "closed", "refusal"],
)
async def test_the_key_is_never_shown(answer: Answer, caplog: pytest.LogCaptureFixture):
    """Not in the error, its traceback or the debug log, even if the API repeats it."""
    caplog.set_level(logging.DEBUG)
    for name in ("anthropic", "httpx2", "httpcore2", "chora"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with serving(answer) as server:
        error = await failure(server, retries=1)
    texts = [str(error), repr(error), str(error.as_dict()), *traceback.format_exception(error), caplog.text]
    assert len(caplog.records) > 1
    assert not [text for text in texts if KEY in text]
    assert error.__cause__ is None
    assert error.__context__ is None


# -- what it costs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("claude-3-opus-20240229", (15, 75)),
        ("claude-opus-4-1-20250805", (15, 75)),
        ("claude-opus-4-20250514", (15, 75)),
        ("claude-opus-4-5", (5, 25)),
        ("claude-opus-5", (5, 25)),
        ("claude-opus-5-5", (4, 20)),
        ("claude-3-5-sonnet-20241022", (3, 15)),
        ("claude-sonnet-4-5-20250929", (3, 15)),
        ("claude-sonnet-5-5", (2, 10)),
        ("claude-3-haiku-20240307", (0.25, 1.25)),
        ("claude-haiku-4-5", (1, 5)),
        ("claude-haiku-5-5", (0.1, 0.5)),
    ],
)
def test_prices_go_by_the_model(model: str, price: tuple[float, float]):
    """US dollars per million tokens, by the longest name that fits."""
    assert llm.price_of(model) is not None
    assert llm.cost_of(model, 100_000, 100_000) == pytest.approx((price[0] / 10, price[1] / 10))


def test_written_tokens_cost_five_times_as_much_as_read_ones():
    """A price that breaks the rule of all models so far is probably a slip."""
    assert {name for name, price in llm.PRICES.items() if price.output != 5 * price.input} == set()


def test_a_long_prompt_may_cost_more():
    """Where a model has two prices, the length of the prompt decides."""
    assert llm.cost_of("claude-haiku-5-5", 1_000_000, 0) == (0.5, 0.0)
    assert llm.cost_of("claude-sonnet-5", 1_000_000, 0) == (2.0, 0.0)


@requirement("generators.code-generation.cost")
def test_an_unknown_model_has_no_price():
    """Not a wrong one."""
    assert llm.cost_of("gpt-5", 1, 1) is None
    assert llm.estimate_cost(asking(model="claude-next")) is None


def test_an_estimate_is_what_it_may_cost_at_most():
    """Three bytes per input token, and all allowed output tokens."""
    assert llm.estimate_cost(asking(prompt="x" * 4, system="yy", max_tokens=1000)) == pytest.approx(2 * 2e-6 + 0.01)
    assert llm.estimate_cost(asking(prompt="x" * 4, max_tokens=1)) == pytest.approx(2 * 2e-6 + 1e-5)
    assert llm.estimate_cost(asking(prompt="漢字", max_tokens=1)) == pytest.approx(2 * 2e-6 + 1e-5)


def test_a_key_covers_what_decides_the_answer():
    """And nothing else: how long to try isn't asked of the model."""
    same = {asking().key, asking(timeout=1.0).key, asking(retries=0).key, asking(retry_delay=9.0).key}
    others = [
        asking(model="m"),
        asking(prompt="p"),
        asking(system="s"),
        asking(temperature=0.0),
        asking(max_tokens=1),
        asking(system="Say hi", prompt=""),
    ]
    assert len(same) == 1
    assert len({other.key for other in others} | same) == len(others) + 1
    assert same.pop().startswith("sha256:")


def test_reasoning_models_are_known():
    """They take no temperature; models of other makers do as far as we know."""
    assert llm.is_reasoning_model("claude-sonnet-5")
    assert llm.is_reasoning_model("claude-opus-4-7")
    assert not llm.is_reasoning_model("claude-sonnet-4-5")
    assert not llm.is_reasoning_model("claude-3-5-sonnet-20241022")
    assert not llm.is_reasoning_model("llama-4")
