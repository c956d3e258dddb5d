"""Requests to a language model, their prices, and a client of Anthropic's Messages API."""

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
from chora.fetch import ConnectFailed, parse_address
from chora.fetch.proxies import find_proxy
from chora.hashing import sha256
from chora.nesting import decode_json
from chora.secrets import API_KEY, FoundSecret, Secret, find_secret

if TYPE_CHECKING:
    import anthropic
    import httpx2

DEFAULT_BASE_URL = "https://api.anthropic.com"
RETRIED_STATUSES = frozenset({500, 502, 503, 529})
"""HTTP statuses after which a retry may succeed, besides 429, which says when."""
RETRY_AFTER_LIMIT = 60.0
"""The longest Retry-After that is waited for, in seconds; beyond it the request fails at once."""
REPLY_LIMIT = 16 * 1024 * 1024
"""The largest answer, in bytes; compressed ones aren't accepted, because a few may become gigabytes (CWE-409)."""

log = logging.getLogger("chora.llm")


class ModelRequest(Struct, frozen=True, kw_only=True):
    """A request to a model, with timeout and retries."""

    model: str
    prompt: str
    system: str = ""
    temperature: float | None = None
    """None for the model's default; reasoning models accept none."""
    max_tokens: int = 4096
    timeout: float = 30.0
    """Seconds for one attempt."""
    retries: int = 3
    """Attempts after the first one."""
    retry_delay: float = 1.0
    """Seconds before the second attempt; doubled before each further one."""

    @property
    def key(self) -> str:
        """A hash of everything that determines the answer."""
        parts = (self.model, self.system, self.prompt, self.temperature, self.max_tokens)
        return sha256(msgspec.json.encode(parts))


class ModelReply(Struct, frozen=True, kw_only=True):
    """A model's answer, with tokens and cost."""

    text: str
    input_tokens: int
    output_tokens: int
    model: str
    cached: bool = False
    """Whether it is a stored answer, which cost nothing now."""
    usd: float | None = None
    """US dollars; None for a model of unknown price."""


# -- prices ----------------------------------------------------------------------------------------------------


class ModelNotAsked(GenerationFailed):
    """An answer that isn't known yet, where nothing may be spent; `request` and `outlook` are in the details."""


class ModelPrice(NamedTuple):
    """US dollars per million tokens; a prompt of more than `LONG_PROMPT` tokens costs `long_times` as much."""

    input: float
    output: float
    long_times: float = 1.0


LONG_PROMPT = 100_000
OVERHEAD = 4096
"""Tokens that a request may have beyond the bytes of its prompt, none of which are less than a token."""

PRICES: dict[str, ModelPrice] = {
    "claude-3-opus": ModelPrice(15, 75),
    "claude-opus-4-0": ModelPrice(15, 75),
    "claude-opus-4-1": ModelPrice(15, 75),
    "claude-opus-4-2025": ModelPrice(15, 75),
    "claude-opus-4-5": ModelPrice(5, 25),
    "claude-opus-4-6": ModelPrice(5, 25),
    "claude-opus-4-7": ModelPrice(5, 25),
    "claude-opus-4-8": ModelPrice(5, 25),
    "claude-opus-5": ModelPrice(5, 25),
    "claude-opus-5-5": ModelPrice(4, 20),
    "claude-3-sonnet": ModelPrice(3, 15),
    "claude-3-5-sonnet": ModelPrice(3, 15),
    "claude-3-7-sonnet": ModelPrice(3, 15),
    "claude-sonnet-4": ModelPrice(3, 15),
    "claude-sonnet-5": ModelPrice(2, 10),
    "claude-3-haiku": ModelPrice(0.25, 1.25),
    "claude-3-5-haiku": ModelPrice(0.8, 4),
    "claude-haiku-4": ModelPrice(1, 5),
    "claude-haiku-5-5": ModelPrice(0.1, 0.5, 5),
    "claude-fable-5": ModelPrice(10, 50),
}
"""Prices by prefix of the model's name; the longest match wins. Other models have no known price."""

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


def is_reasoning_model(model: str) -> bool:
    """Whether a model reasons before it answers: it rejects a temperature, and its reasoning counts as output."""
    return model.startswith("claude-") and not model.startswith(_SAMPLING)


def price_of(model: str) -> ModelPrice | None:
    """The price of a model, if it is known."""
    return PRICES.get(max((name for name in PRICES if model.startswith(name)), key=len, default=""))


def cost_of(model: str, input_tokens: int, output_tokens: int) -> tuple[float, float] | None:
    """US dollars for input and output, or None for a model of unknown price."""
    if (price := price_of(model)) is None:
        return None
    times = price.long_times if input_tokens > LONG_PROMPT else 1.0
    return price.input * times * input_tokens / 1e6, price.output * times * output_tokens / 1e6


def estimate_cost(request: ModelRequest) -> float | None:
    """The estimated maximum cost of an answer, in US dollars; None for a model of unknown price.

    A token counts as three bytes: tokens of most text are longer, and in scripts with shorter tokens, a letter has
    about three bytes.
    """
    tokens = math.ceil(len((request.system + request.prompt).encode("utf-8", "replace")) / 3)
    dollars = cost_of(request.model, tokens, request.max_tokens)
    return None if dollars is None else sum(dollars)


# -- requests ---------------------------------------------------------------------------------------------------


class _TokenUsage(Struct, frozen=True):
    input_tokens: int
    output_tokens: int


class _ContentBlock(Struct, frozen=True):
    type: str
    text: str = ""


class _ApiMessage(Struct, frozen=True):
    """The used part of the API's answer."""

    content: list[_ContentBlock]
    stop_reason: str | None
    usage: _TokenUsage


class _Failure(NamedTuple):
    """Why an attempt failed."""

    error_type: str
    reason: str
    """A sentence without its full stop."""
    hint: str
    status: int | None = None
    again: bool = False
    """Whether a retry may succeed."""
    wait: float | None = None
    """Seconds to wait, as the API requests."""
    usage: _TokenUsage | None = None
    """The tokens of an answer that was paid for and can't be used."""


_TRUNCATED_HINT = "Raise generation_config.max_tokens, or request less at once."
_STOP_REASONS = {
    "max_tokens": ("was cut off after {limit} tokens", _TRUNCATED_HINT),
    "model_context_window_exceeded": ("was cut off where the model's window ended", "Shorten the prompt."),
    "refusal": ("is a refusal", "Word the prompt differently, or choose another model."),
}
_RETRY_HINT = "Try again later; nothing was stored."
_ADDRESS_HINT = "Check llm.base_url: something other than the Messages API seems to answer there."


class Anthropic:
    """A client of Anthropic's Messages API. The key is looked up for every request.

    Args:
        settings: the model and the address of the API.
    """

    def __init__(self, settings: settings.LlmSettings) -> None:
        self._settings = settings

    def why_unavailable(self) -> str | None:
        """Why no model can be used, and what to do about it; None if one can.

        It may query the OS keyring, which can be slow: call it in a thread.
        """
        failure = _missing_package() if importlib.util.find_spec("anthropic") is None else None
        if failure is None:
            key = _find_key(self._settings.api_key)
            failure = None if isinstance(key, FoundSecret) else key
        return None if failure is None else f"{failure.reason}. {failure.hint}"

    async def complete_request(self, request: ModelRequest) -> ModelReply:
        """Send a request, with retries; cancellation ends the HTTP request.

        Raises:
            GenerationFailed: there is no answer; `details.error_type` says why: MissingPackage, MissingApiKey,
                AuthenticationError, RateLimitError, APIStatusError, APITimeoutError, APIConnectionError or
                BrokenAnswer, which has `input_tokens` and `output_tokens` when it was paid for.
        """
        # The keyring may prompt the user, and importing the SDK takes seconds: neither may block the event loop.
        key = await trio.to_thread.run_sync(_find_key, self._settings.api_key)
        if not isinstance(key, FoundSecret):
            raise _error(key, request, 0)
        client = await trio.to_thread.run_sync(_open_client, self._settings.base_url, key.secret)
        if client is None:
            raise _error(_missing_package(), request, 0)
        async with client:
            return await self._send_with_retries(client, key.secret, request)

    async def _send_with_retries(
        self, client: anthropic.AsyncAnthropic, key: Secret, request: ModelRequest
    ) -> ModelReply:
        delay = request.retry_delay
        attempt = 1
        while True:
            outcome = await _send_request(client, key, request)
            if isinstance(outcome, ModelReply):
                return outcome
            wait = min(delay, RETRY_AFTER_LIMIT) if outcome.wait is None else outcome.wait
            if not outcome.again or attempt > request.retries or wait > RETRY_AFTER_LIMIT:
                raise _error(outcome, request, attempt)
            log.warning(
                "a request to %s failed: %s; attempt %d of %d, the next one in %.1f s",
                request.model,
                outcome.reason,
                attempt,
                request.retries + 1,
                wait,
            )
            await trio.sleep(wait)
            delay *= 2
            attempt += 1


async def _send_request(client: anthropic.AsyncAnthropic, key: Secret, request: ModelRequest) -> ModelReply | _Failure:
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
            return _status_failure(error, key)
        except anthropic.APIConnectionError as error:
            cause = error.__cause__ or error
            if isinstance(cause, httpx2.DecodingError):  # ours, of `_open_client`; each attempt would be paid for
                return _Failure("BrokenAnswer", f"the answer {cause}", _ADDRESS_HINT, 200)
            reason = f"the model's API can't be reached ({type(cause).__name__})"
            return _Failure("APIConnectionError", reason, _RETRY_HINT, again=True)
        return _parse_answer(response.content, request)
    return _Failure(
        "APITimeoutError",
        f"the model didn't answer within {request.timeout:g} s",
        "Raise generation_config.timeout, or request less at once.",
    )


def _parse_answer(answer: bytes, request: ModelRequest) -> ModelReply | _Failure:
    """Parse the API's answer; incomplete ones are failures."""
    try:
        message: _ApiMessage = decode_json(answer, _ApiMessage)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Failure("BrokenAnswer", "the answer is not a message of the API", _ADDRESS_HINT, 200)
    usage = _plausible_usage(message.usage, request)
    text = "".join(block.text for block in message.content if block.type == "text")
    if message.stop_reason not in ("end_turn", "stop_sequence"):
        reason, hint = _STOP_REASONS.get(
            str(message.stop_reason), (f"stopped for {message.stop_reason!r}", _RETRY_HINT)
        )
        reason = reason.format(limit=request.max_tokens)
        return _Failure("BrokenAnswer", f"the answer {reason}", hint, 200, usage=usage)
    if not text.strip():
        return _Failure("BrokenAnswer", "the answer is empty", "Word the prompt differently.", 200, usage=usage)
    dollars = cost_of(request.model, usage.input_tokens, usage.output_tokens)
    return ModelReply(
        text=text,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        model=request.model,
        usd=None if dollars is None else sum(dollars),
    )


def _plausible_usage(usage: _TokenUsage, request: ModelRequest) -> _TokenUsage:
    """The numbers of tokens that an answer says it took, or the most that it can have taken where they can't be true.

    The budgets count by them: a negative number would give money back, and an absurd one use all of it up.
    """
    most = _TokenUsage(len((request.system + request.prompt).encode("utf-8", "replace")) + OVERHEAD, request.max_tokens)
    if 0 <= usage.input_tokens <= most.input_tokens and 0 <= usage.output_tokens <= most.output_tokens:
        return usage
    log.warning(
        "%s says that an answer took %d and %d tokens, which can't be: the most that it can take is counted",
        request.model,
        usage.input_tokens,
        usage.output_tokens,
    )
    return most


def _status_failure(error: anthropic.APIStatusError, key: Secret) -> _Failure:
    """The failure for an HTTP status other than success."""
    status = error.status_code
    message = str(error.api_message or "").replace(key.reveal(), "***")[:300].rstrip(".")
    detail = f": {message}" if message else ""
    match status:
        case 401:
            hint = f"Check the key: {_search_order()}"
            return _Failure("AuthenticationError", f"the model's API refused the key{detail}", hint, status)
        case 429:
            wait = _parse_retry_after(error.response.headers.get("retry-after"))
            return _Failure(
                "RateLimitError",
                f"the model's API limits the rate of requests{detail}",
                _RETRY_HINT,
                status,
                True,
                wait,
            )
        case _:
            hint = _RETRY_HINT if status >= 500 else "Check generation_config, above all model, and llm.base_url."
            return _Failure(
                "APIStatusError", f"the model's API answered {status}{detail}", hint, status, status in RETRIED_STATUSES
            )


def _parse_retry_after(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header: a number, or a date (RFC 9110, 10.2.3)."""
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


def _error(failure: _Failure, request: ModelRequest, attempts: int) -> GenerationFailed:
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
    hint = "Install it with: pip install 'chora-mcp[llm]'"
    return _Failure("MissingPackage", "the package anthropic is not installed", hint)


def _find_key(reference: str) -> FoundSecret | _Failure:
    try:
        found = find_secret(API_KEY.name, reference=reference)
    except UsageError as error:
        return _Failure("MissingApiKey", error.message.rstrip("."), _search_order())
    if found is None:
        return _Failure("MissingApiKey", "there is no API key for the language model", _search_order())
    if not all("!" <= character <= "~" for character in found.secret.reveal()):
        reason = f"the API key ({found.origin}) holds characters that no key has"
        return _Failure("MissingApiKey", reason, "Copy it once more, without quotes or line breaks.")
    return found


def _search_order() -> str:
    return (
        f"chora looks for it in the file that {API_KEY.name}_FILE names, in /run/secrets and $CREDENTIALS_DIRECTORY "
        f"({API_KEY.name.lower()}), in the OS keyring (chora, {API_KEY.name.lower()}) and in {API_KEY.name}."
    )


def model_proxy(httpx2: Any, base_url: str) -> Any:
    """The proxy for the API, by the environment; None if there is none.

    Raises:
        UsageError: the environment names something else.
    """
    try:
        found = find_proxy(parse_address(base_url or DEFAULT_BASE_URL).origin)
    except ConnectFailed as failed:
        hint = "Mend the variable, or list the host in NO_PROXY."
        raise UsageError(f"The model's API can't be reached: {failed}.", hint) from None
    except ValueError:  # the client refuses the address
        return None
    if found is None:
        return None
    headers = {} if found.authorization is None else {"proxy-authorization": found.authorization}
    return httpx2.Proxy(f"http://{found.netloc}", headers=headers)


def _open_client(base_url: str, key: Secret) -> anthropic.AsyncAnthropic | None:
    """A client for one request and its retries, or None without the package.

    It uses our settings and our key, and of the environment nothing but the proxy.
    """
    try:
        import anthropic
        import httpx2
    except ImportError:
        return None

    class BoundedStream(httpx2.AsyncByteStream):
        """The bytes of an answer, up to a limit (CWE-770)."""

        def __init__(self, stream: httpx2.AsyncByteStream) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = REPLY_LIMIT
            async for part in self._stream:
                left -= len(part)
                if left < 0:
                    raise httpx2.DecodingError(f"is larger than {REPLY_LIMIT:,} bytes")
                yield part

        async def aclose(self) -> None:
            await self._stream.aclose()

    async def bound(response: httpx2.Response) -> None:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise httpx2.DecodingError("is compressed, which wasn't requested")
        response.stream = BoundedStream(response.stream)  # pyright: ignore[reportArgumentType]

    client = anthropic.AsyncAnthropic(
        api_key=key.reveal(),
        base_url=base_url or DEFAULT_BASE_URL,
        max_retries=0,
        timeout=None,
        open_telemetry=False,
        http_client=httpx2.AsyncClient(
            trust_env=False,
            proxy=model_proxy(httpx2, base_url),
            timeout=None,
            headers={"accept-encoding": "identity"},
            event_hooks={"response": [bound]},
        ),
    )
    client._custom_headers = {}  # headers that the SDK read from ANTHROPIC_CUSTOM_HEADERS could replace the key
    return client
