"""Asking a language model: what a request is, what it may cost, and the Messages API that answers it."""

from __future__ import annotations

import importlib.util
import logging
import math
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import trio
from msgspec import Struct

from chora import settings
from chora.errors import GenerationFailed, UsageError
from chora.hashing import sha256
from chora.secrets import FoundSecret, Secret, find_secret

if TYPE_CHECKING:
    import anthropic
    import httpx2

SECRET = "ANTHROPIC_API_KEY"  # noqa: S105  (the name of the secret, not the secret)
RETRIED = frozenset({429, 500, 502, 503, 529})
"""HTTP statuses that another try can mend."""
RETRY_AFTER_LIMIT = 60.0
"""Seconds that the API may ask us to wait; beyond it the caller hears of it at once."""
REPLY_LIMIT = 16 * 1024 * 1024
"""Bytes of an answer."""

log = logging.getLogger("chora.llm")


class Request(Struct, frozen=True, kw_only=True):
    """One question to a model, and how long to try."""

    model: str
    prompt: str
    system: str = ""
    temperature: float | None = None
    """None leaves it to the model; the reasoning ones take none."""
    max_tokens: int = 4096
    timeout: float = 30.0
    """Seconds for one attempt."""
    retries: int = 3
    """Attempts after the first one."""
    retry_delay: float = 1.0
    """Seconds before the second attempt; doubled before each further one."""

    @property
    def key(self) -> str:
        """SHA-256 over all that decides the answer."""
        parts = (self.model, self.system, self.prompt, self.temperature, self.max_tokens)
        return sha256(msgspec.json.encode(parts))


class Reply(Struct, frozen=True, kw_only=True):
    """A model's answer, and what it took."""

    text: str
    input_tokens: int
    output_tokens: int
    model: str
    cached: bool = False
    """It was answered before, and cost nothing now."""
    usd: float | None = None
    """US dollars; None for a model whose price isn't known."""


# -- what it costs ----------------------------------------------------------------------------------------------


class ModelNotAsked(GenerationFailed):
    """An answer that isn't known yet, where nothing may be spent; `request` and `outlook` are in the details."""


class Price(NamedTuple):
    """US dollars per million tokens; a prompt of more than `LONG_PROMPT` tokens costs `long_times` as much."""

    input: float
    output: float
    long_times: float = 1.0


LONG_PROMPT = 100_000

PRICES: dict[str, Price] = {
    "claude-3-opus": Price(15, 75),
    "claude-opus-4-0": Price(15, 75),
    "claude-opus-4-1": Price(15, 75),
    "claude-opus-4-2025": Price(15, 75),
    "claude-opus-4-5": Price(5, 25),
    "claude-opus-4-6": Price(5, 25),
    "claude-opus-4-7": Price(5, 25),
    "claude-opus-4-8": Price(5, 25),
    "claude-opus-5": Price(5, 25),
    "claude-opus-5-5": Price(4, 20),
    "claude-3-sonnet": Price(3, 15),
    "claude-3-5-sonnet": Price(3, 15),
    "claude-3-7-sonnet": Price(3, 15),
    "claude-sonnet-4": Price(3, 15),
    "claude-sonnet-5": Price(2, 10),
    "claude-3-haiku": Price(0.25, 1.25),
    "claude-3-5-haiku": Price(0.8, 4),
    "claude-haiku-4": Price(1, 5),
    "claude-haiku-5-5": Price(0.1, 0.5, 5),
    "claude-fable-5": Price(10, 50),
}
"""By the beginning of the model's name, the longest match wins. A name beyond them has no known price."""

_SAMPLING = (
    "claude-3",
    "claude-opus-4-0",
    "claude-opus-4-1",
    "claude-opus-4-2025",
    "claude-opus-4-5",
    "claude-opus-4-6",
    "claude-sonnet-4",
    "claude-haiku-4",
)


def reasons(model: str) -> bool:
    """Whether a model thinks before it answers: it refuses a temperature, and its thoughts count as output."""
    return model.startswith("claude-") and not model.startswith(_SAMPLING)


def price_of(model: str) -> Price | None:
    """The price of a model, if it is known."""
    return PRICES.get(max((name for name in PRICES if model.startswith(name)), key=len, default=""))


def cost(model: str, input_tokens: int, output_tokens: int) -> tuple[float, float] | None:
    """US dollars for what went in and what came out, or None for a model whose price isn't known."""
    if (price := price_of(model)) is None:
        return None
    times = price.long_times if input_tokens > LONG_PROMPT else 1.0
    return price.input * times * input_tokens / 1e6, price.output * times * output_tokens / 1e6


def estimate(request: Request) -> float | None:
    """The most that one answer should cost, in US dollars; None for a model whose price isn't known.

    A token is taken for three bytes: the tokenizers make longer ones of most text, and a letter of a script that
    they cut finer has as many bytes.
    """
    tokens = math.ceil(len((request.system + request.prompt).encode("utf-8", "replace")) / 3)
    dollars = cost(request.model, tokens, request.max_tokens)
    return None if dollars is None else sum(dollars)


# -- asking -----------------------------------------------------------------------------------------------------


class _Usage(Struct):
    input_tokens: int
    output_tokens: int


class _Block(Struct):
    type: str
    text: str = ""


class _Message(Struct):
    """The part of the API's answer that is looked at."""

    content: list[_Block]
    stop_reason: str | None
    usage: _Usage


class _Failure(NamedTuple):
    """Why an attempt came to nothing."""

    error_type: str
    reason: str
    """A sentence without its full stop."""
    hint: str
    status: int | None = None
    again: bool = False
    """Whether another attempt can help."""
    wait: float | None = None
    """Seconds the API asked us to wait."""
    usage: _Usage | None = None
    """An answer that was paid for and can't be used."""


_CUT_OFF = "Raise generation_config.max_tokens, or ask for less at once."
_STOPPED = {
    "max_tokens": ("was cut off after {limit} tokens", _CUT_OFF),
    "model_context_window_exceeded": ("was cut off where the model's window ended", "Shorten the prompt."),
    "refusal": ("is a refusal", "Word the prompt differently, or choose another model."),
}
_LATER = "Try again later; nothing was stored."


class Anthropic:
    """Asks Anthropic's Messages API. The key is looked up anew for every request.

    Args:
        settings: the model and where the API is.
    """

    def __init__(self, settings: settings.LlmSettings) -> None:
        self._settings = settings

    def unavailable(self) -> str | None:
        """Why no model can be asked, and what to do about it; None if one can.

        It may ask the OS keyring, which takes a moment: where others wait, call it in a thread.
        """
        failure = _missing_package() if importlib.util.find_spec("anthropic") is None else None
        if failure is None:
            key = _find_key(self._settings.api_key)
            failure = None if isinstance(key, FoundSecret) else key
        return None if failure is None else f"{failure.reason}. {failure.hint}"

    async def complete(self, request: Request) -> Reply:
        """The model's answer. What another attempt can mend is attempted again; a cancelled call ends its request.

        Raises:
            GenerationFailed: there is none; `details.error_type` says why: MissingPackage, MissingApiKey,
                AuthenticationError, RateLimitError, APIStatusError, APITimeoutError, APIConnectionError or
                BrokenAnswer, which has `input_tokens` and `output_tokens` when it was paid for.
        """
        # The keyring may ask a person, and importing the SDK takes seconds: neither may stop the others.
        key = await trio.to_thread.run_sync(_find_key, self._settings.api_key)
        if not isinstance(key, FoundSecret):
            raise _error(key, request, 0)
        client = await trio.to_thread.run_sync(_open, self._settings.base_url, key.secret)
        if client is None:
            raise _error(_missing_package(), request, 0)
        async with client:
            return await self._persist(client, key.secret, request)

    async def _persist(self, client: anthropic.AsyncAnthropic, key: Secret, request: Request) -> Reply:
        delay = request.retry_delay
        attempt = 1
        while True:
            outcome = await _attempt(client, key, request)
            if isinstance(outcome, Reply):
                return outcome
            wait = min(delay, RETRY_AFTER_LIMIT) if outcome.wait is None else outcome.wait
            if not outcome.again or attempt > request.retries or wait > RETRY_AFTER_LIMIT:
                raise _error(outcome, request, attempt)
            log.warning(
                "%s: %s; attempt %d of %d, the next in %.1f s",
                request.model,
                outcome.reason,
                attempt,
                request.retries + 1,
                wait,
            )
            await trio.sleep(wait)
            delay *= 2
            attempt += 1


async def _attempt(client: anthropic.AsyncAnthropic, key: Secret, request: Request) -> Reply | _Failure:
    import anthropic
    import httpx2

    body: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": [{"role": "user", "content": request.prompt}],
    }
    if request.system:
        body["system"] = request.system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    with trio.move_on_after(request.timeout):
        try:
            response = await client.post("/v1/messages", cast_to=httpx2.Response, body=body)
        except anthropic.APIStatusError as error:
            return _refused(error, key)
        except anthropic.APIConnectionError as error:
            cause = type(error.__cause__ or error).__name__
            return _Failure("APIConnectionError", f"the model's API can't be reached ({cause})", _LATER, again=True)
        return _read(response.content, request)
    return _Failure(
        "APITimeoutError",
        f"the model didn't answer within {request.timeout:g} s",
        "Raise generation_config.timeout, or ask for less at once.",
    )


def _read(answer: bytes, request: Request) -> Reply | _Failure:
    """The API's answer as a reply, if it is a whole one."""
    try:
        message = msgspec.json.decode(answer, type=_Message)
    except msgspec.DecodeError:
        hint = "Check llm.base_url: something else than the Messages API seems to answer there."
        return _Failure("BrokenAnswer", "the answer is not a message of the API", hint, 200)
    text = "".join(block.text for block in message.content if block.type == "text")
    if message.stop_reason not in ("end_turn", "stop_sequence"):
        reason, hint = _STOPPED.get(str(message.stop_reason), (f"stopped for {message.stop_reason!r}", _LATER))
        reason = reason.format(limit=request.max_tokens)
        return _Failure("BrokenAnswer", f"the answer {reason}", hint, 200, usage=message.usage)
    if not text.strip():
        return _Failure("BrokenAnswer", "the answer is empty", "Word the prompt differently.", 200, usage=message.usage)
    dollars = cost(request.model, message.usage.input_tokens, message.usage.output_tokens)
    return Reply(
        text=text,
        input_tokens=message.usage.input_tokens,
        output_tokens=message.usage.output_tokens,
        model=request.model,
        usd=None if dollars is None else sum(dollars),
    )


def _refused(error: anthropic.APIStatusError, key: Secret) -> _Failure:
    """What a status other than success means."""
    status = error.status_code
    said = str(error.api_message or "").replace(key.reveal(), "***")[:300].rstrip(".")
    heard = f": {said}" if said else ""
    match status:
        case 401:
            hint = f"Check the key: {_search_order()}"
            return _Failure("AuthenticationError", f"the model's API refused the key{heard}", hint, status)
        case 429:
            wait = _seconds(error.response.headers.get("retry-after"))
            return _Failure("RateLimitError", f"the model's API is asked too much{heard}", _LATER, status, True, wait)
        case _:
            hint = _LATER if status >= 500 else "Check generation_config, above all model, and llm.base_url."
            return _Failure(
                "APIStatusError", f"the model's API answered {status}{heard}", hint, status, status in RETRIED
            )


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for: seconds, or a date."""
    if not retry_after:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        from email.utils import parsedate_to_datetime
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _error(failure: _Failure, request: Request, attempts: int) -> GenerationFailed:
    paid: dict[str, Any] = msgspec.to_builtins(failure.usage) if failure.usage else {}
    return GenerationFailed(
        f"{failure.reason[:1].upper()}{failure.reason[1:]}.",
        failure.hint,
        error_type=failure.error_type,
        status=failure.status,
        attempts=attempts,
        model=request.model,
        **({} if failure.wait is None else {"retry_after": failure.wait}),
        **paid,
    )


# -- the SDK and its key ----------------------------------------------------------------------------------------


def _missing_package() -> _Failure:
    hint = "Install it with: pip install 'chora[llm]'"
    return _Failure("MissingPackage", "the package anthropic is not installed", hint)


def _find_key(reference: str) -> FoundSecret | _Failure:
    try:
        found = find_secret(SECRET, reference=reference)
    except UsageError as error:
        return _Failure("MissingApiKey", error.message.rstrip("."), _search_order())
    if found is None:
        return _Failure("MissingApiKey", "there is no API key for the language model", _search_order())
    if not all("!" <= character <= "~" for character in found.secret.reveal()):
        reason = f"the API key ({found.origin}) has characters in it that no key has"
        return _Failure("MissingApiKey", reason, "Copy it once more, without quotes or line breaks.")
    return found


def _search_order() -> str:
    return (
        f"chora looks for it in the file that {SECRET}_FILE names, in /run/secrets and $CREDENTIALS_DIRECTORY "
        f"({SECRET.lower()}), in the OS keyring (chora, {SECRET.lower()}) and in {SECRET}."
    )


def _open(base_url: str, key: Secret) -> anthropic.AsyncAnthropic | None:
    """A client for one request and its retries, or None without the package.

    It knows our settings and our key, and nothing of the environment.
    """
    try:
        import anthropic
        import httpx2
    except ImportError:
        return None

    class Bounded(httpx2.AsyncByteStream):
        """An answer's bytes, up to a limit."""

        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            room = REPLY_LIMIT
            async for part in self._stream:
                room -= len(part)
                if room < 0:
                    raise httpx2.RemoteProtocolError("the answer is too large")
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(response: httpx2.Response) -> None:
        response.stream = Bounded(response.stream)  # pyright: ignore[reportArgumentType]

    client = anthropic.AsyncAnthropic(
        api_key=key.reveal(),
        base_url=base_url or "https://api.anthropic.com",
        max_retries=0,
        timeout=None,
        open_telemetry=False,
        http_client=httpx2.AsyncClient(trust_env=False, timeout=None, event_hooks={"response": [bound]}),
    )
    client._custom_headers = {}  # what the SDK read from ANTHROPIC_CUSTOM_HEADERS could replace the key
    return client
