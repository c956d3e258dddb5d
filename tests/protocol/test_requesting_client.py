"""Requests from the server to the client (elicitation, roots, sampling) in both eras, and log messages."""

import base64
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
import trio
from msgspec import UNSET
from trio.testing import MockClock

from chora.access import LOCAL, Principal
from chora.engine.engine import Engine
from chora.metrics import Metrics
from chora.protocol import requesting_client, wire
from chora.protocol.requesting_client import NoAnswer, Question, RequestingClient, StateSigner
from chora.protocol.server import McpServer
from chora.protocol.session import Session
from chora.protocol.types import InputRequired
from chora.protocol.wire import RequestParams, RpcError
from chora.provider import project_server
from chora.tools import TOOLS
from tests.conftest import Asking, Project, artifact, child, requirement, text
from tests.patience import PATIENCE

FORMS = {"elicitation": {}}
NAME = Question("elicitation/create", {"message": "Who are you?"})
ROOTS = Question("roots/list", {})


@pytest.fixture
def server(engine: Engine) -> McpServer:
    return project_server(engine, TOOLS, Metrics())


class Client:
    """A client of either era that can answer requests; `messages` is what it got besides responses."""

    def __init__(self, server: McpServer, revision: str, capabilities: dict[str, Any] | None = None) -> None:
        self.server = server
        self.session = Session("memory", LOCAL)
        self.messages: list[dict[str, Any]] = []
        self.revision = wire.REVISIONS[revision]
        self.meta: dict[str, Any] = {}
        if self.revision.era == "handshake":
            self.session.revision = self.revision
            self.session.capabilities = capabilities or {}
        else:
            self.meta = {wire.VERSION_KEY: revision, wire.CAPABILITIES_KEY: capabilities or {}}
        self.reply: Callable[[dict[str, Any]], Awaitable[None]] | None = None

    async def notify(self, message: bytes) -> None:
        self.messages.append(msgspec.json.decode(message))
        if "id" in self.messages[-1] and self.reply is not None:
            await self.reply(self.messages[-1])

    async def send(self, message: dict[str, Any]) -> Any:
        body = msgspec.json.encode({"jsonrpc": "2.0", **message})
        answer = await self.server.answer(self.session, body, self.notify)
        return None if answer is None else msgspec.json.decode(answer.body)

    async def call(self, tool: str, arguments: dict[str, Any], **params: Any) -> Any:
        meta = {**self.meta, **params.pop("_meta", {})}
        sent = {"name": tool, "arguments": arguments, **params, **({"_meta": meta} if meta else {})}
        return await self.send({"id": 1, "method": "tools/call", "params": sent})

    def answering_all(self, **result: Any) -> "Client":
        """Answer every request of the server with this result."""

        async def reply(question: dict[str, Any]) -> None:
            await self.send({"id": question["id"], "result": result})

        self.reply = reply
        return self


async def draft(ask: Asking, body: str, config_id: str = "note") -> str:
    made = await ask("draft_config", config_type="content", config_data=text(config_id, body))
    return made["draft_id"]


def structured(answer: Any) -> dict[str, Any]:
    return msgspec.json.decode(answer["result"]["content"][0]["text"])


YES = {"action": "accept", "content": {"confirm": True}}
NO: list[dict[str, Any]] = [
    {"action": "decline"},
    {"action": "cancel"},
    {"action": "decline", "content": {"confirm": True}},
    {"content": {"confirm": True}},
    {"action": "accept", "content": {"confirm": False}},
    {"action": "accept", "content": {"confirm": "true"}},
    {"action": "accept"},
    {},
]


# -- elicitation: confirming an overwrite -----------------------------------------------------------------------


@requirement("server.elicitation")
async def test_a_user_may_confirm_that_a_config_is_replaced(server: McpServer, ask: Asking, project: Project):
    """In the handshake era the elicitation is a request, and the call continues with its response."""
    project.save(text("note", "old"))
    client = Client(server, "2025-11-25", FORMS).answering_all(**YES)
    saved = await client.call("save_config", {"draft_id": await draft(ask, "new"), "config_id": "note"})
    assert structured(saved)["success"] is True
    assert structured(saved)["backup_path"]
    (question,) = client.messages
    assert question["method"] == "elicitation/create"
    assert "note" in question["params"]["message"]
    assert question["params"]["requestedSchema"] == {
        "type": "object",
        "properties": {"confirm": {"type": "boolean", "title": "Yes, do it", "default": False}},
        "required": ["confirm"],
    }
    assert "new" in project.read("configs/content/note.json")


@pytest.mark.parametrize("answer", NO)
@pytest.mark.parametrize("revision", ["2025-06-18", "2026-07-28"])
async def test_any_answer_but_an_accepted_confirmation_keeps_the_config(
    server: McpServer, ask: Asking, project: Project, revision: str, answer: dict[str, Any]
):
    """The error says that a user decided and doesn't mention `overwrite`, so that the model doesn't simply pass it."""
    project.save(text("note", "old"))
    client = Client(server, revision, FORMS).answering_all(**answer)
    arguments = {"draft_id": await draft(ask, "new"), "config_id": "note"}
    said = await client.call("save_config", arguments)
    if revision == "2026-07-28":
        state = said["result"]["requestState"]
        said = await client.call("save_config", arguments, inputResponses={"confirm": answer}, requestState=state)
    error = structured(said)["error"]
    assert error["code"] == "save_failed"
    assert "chose to keep it" in error["message"]
    assert "overwrite" not in error["hint"]
    assert "old" in project.read("configs/content/note.json")


@pytest.mark.parametrize(
    ("revision", "capabilities"),
    [
        ("2025-11-25", {}),
        ("2025-11-25", {"elicitation": {"url": {}}}),
        ("2025-11-25", {"elicitation": None}),
        ("2025-03-26", FORMS),
        ("2026-07-28", {"sampling": {}}),
    ],
)
async def test_a_client_without_form_elicitation_gets_the_overwrite_hint(
    server: McpServer, ask: Asking, project: Project, revision: str, capabilities: dict[str, Any]
):
    """The server sends no request; the error's hint names `overwrite: true`."""
    project.save(text("note", "old"))
    client = Client(server, revision, capabilities)
    said = await client.call("save_config", {"draft_id": await draft(ask, "new"), "config_id": "note"})
    assert "overwrite: true" in structured(said)["error"]["hint"]
    assert client.messages == []


@requirement("server.elicitation.bound")
async def test_in_the_modern_era_elicitation_is_an_input_required_result(
    server: McpServer, ask: Asking, project: Project
):
    """The client repeats the call with the answer; the answer is void if the file changed meanwhile."""
    project.save(text("note", "old"))
    client = Client(server, "2026-07-28", FORMS)
    arguments = {"draft_id": await draft(ask, "new"), "config_id": "note"}
    asked = (await client.call("save_config", arguments))["result"]
    assert asked["resultType"] == "input_required"
    assert asked["inputRequests"]["confirm"]["method"] == "elicitation/create"
    assert asked["_meta"][wire.SERVER_KEY]["name"] == "chora"
    answered: dict[str, Any] = {"inputResponses": {"confirm": YES}, "requestState": asked["requestState"]}

    unsealed = await client.call("save_config", arguments, inputResponses={"confirm": YES})
    assert unsealed["result"]["resultType"] == "input_required", "a yes to nothing in particular is none"

    project.save(text("note", "changed by another process"))
    again = (await client.call("save_config", arguments, **answered))["result"]
    assert again["resultType"] == "input_required", "the yes was to replacing another file"

    saved = await client.call(
        "save_config", arguments, inputResponses={"confirm": YES}, requestState=again["requestState"]
    )
    assert structured(saved)["success"] is True
    assert client.messages == []


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
async def test_a_user_may_confirm_that_a_referenced_text_is_deleted(
    server: McpServer, ask: Asking, project: Project, revision: str
):
    """The question names the artifact that refers to the text."""
    project.save(text("part", "x"))
    project.save(artifact("page", [child("part")]))
    await ask("generate_content", content_config_id="part")
    client = Client(server, revision, FORMS).answering_all(**YES)
    said = await client.call("delete_content", {"content_id": "part"})
    if revision == "2026-07-28":
        question = said["result"]["inputRequests"]["confirm"]
        state = said["result"]["requestState"]
        said = await client.call(
            "delete_content", {"content_id": "part"}, inputResponses={"confirm": YES}, requestState=state
        )
    else:
        (question,) = client.messages
    assert question["params"]["message"] == "part is a part of page. Delete its texts anyway?"
    assert structured(said)["status"] == "deleted"


async def test_a_question_names_ten_of_many(server: McpServer, ask: Asking, project: Project):
    """And says how many more there are."""
    project.save(text("part", "x"), *(artifact(f"page-{number:02}", [child("part")]) for number in range(12)))
    await ask("generate_content", content_config_id="part")
    client = Client(server, "2025-11-25", FORMS).answering_all(**YES)
    await client.call("delete_content", {"content_id": "part"})
    (question,) = client.messages
    named = ", ".join(f"page-{number:02}" for number in range(10))
    assert question["params"]["message"] == f"part is a part of {named} and 2 more. Delete its texts anyway?"


async def test_an_error_response_counts_as_a_client_without_elicitation(
    server: McpServer, ask: Asking, project: Project
):
    """The client failed to ask; that isn't a user who declined."""
    project.save(text("note", "old"))
    client = Client(server, "2025-11-25", FORMS)

    async def fail(question: dict[str, Any]) -> None:
        await client.send({"id": question["id"], "error": {"code": -1, "message": "no screen"}})

    client.reply = fail
    said = await client.call("save_config", {"draft_id": await draft(ask, "new"), "config_id": "note"})
    assert "overwrite: true" in structured(said)["error"]["hint"]


# -- requests to the client -------------------------------------------------------------------------------------


def handshake_peer(session: Session, notify: Any, revision: str = "2025-11-25") -> RequestingClient:
    return RequestingClient(
        session, wire.REVISIONS[revision], RequestParams(), "tools/call x", notify, None, StateSigner(b"k")
    )


def modern_peer(
    params: dict[str, Any], capabilities: Any = None, purpose: str = "tools/call x", **rest: Any
) -> RequestingClient:
    meta = {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {} if capabilities is None else capabilities}
    decoded = wire.decode_params(msgspec.json.encode({"_meta": {**meta, **rest}, **params}))
    session = Session("memory", LOCAL)
    return RequestingClient(session, wire.REVISIONS["2026-07-28"], decoded, purpose, None, None, StateSigner(b"k"))


async def test_a_request_without_a_response_times_out(mock_clock: MockClock):
    """After `ANSWER_TIMEOUT` the request is cancelled with a notification, and the session keeps no trace of it."""
    mock_clock.autojump_threshold = 0
    sent: list[dict[str, Any]] = []

    async def notify(message: bytes) -> None:
        sent.append(msgspec.json.decode(message))

    session = Session("memory", LOCAL)
    session.capabilities = FORMS
    with pytest.raises(NoAnswer, match="no answer within 300 s"):
        await handshake_peer(session, notify).ask_client({"name": NAME})
    assert trio.current_time() >= requesting_client.ANSWER_TIMEOUT
    assert [each["method"] for each in sent] == ["elicitation/create", "notifications/cancelled"]
    assert sent[1]["params"]["requestId"] == sent[0]["id"]
    assert session.pending_requests == {}


async def test_a_client_that_answers_with_an_error_is_quoted():
    """The reason says what the client said, as far as 200 characters go."""
    session = Session("memory", LOCAL)
    session.capabilities = FORMS

    async def notify(message: bytes) -> None:
        question = msgspec.json.decode(message)
        session.pending_requests[question["id"]].resolve(None, {"code": -1, "message": "no screen" + "x" * 300})

    with pytest.raises(NoAnswer, match=r"the client answered with an error: .*no screenx+$") as refused:
        await handshake_peer(session, notify).ask_client({"name": NAME})
    assert len(str(refused.value)) == len("the client answered with an error: ") + 200


async def test_only_the_first_response_to_a_request_counts(server: McpServer, ask: Asking, project: Project):
    """A second response with the same id is ignored."""
    project.save(text("note", "old"))
    client = Client(server, "2025-11-25", FORMS)

    async def reply(question: dict[str, Any]) -> None:
        for result in (NO[0], YES):
            await client.send({"id": question["id"], "result": result})

    client.reply = reply
    answer = await client.call("save_config", {"draft_id": await draft(ask, "new"), "config_id": "note"})
    assert structured(answer)["success"] is False


async def test_only_the_session_that_was_asked_can_answer(server: McpServer, ask: Asking, project: Project):
    """A response from another session that guessed the id is ignored, and so is one whose id has another type."""
    project.save(text("note", "old"))
    client, other = Client(server, "2025-11-25", FORMS), Client(server, "2025-11-25", FORMS)

    async def reply(question: dict[str, Any]) -> None:
        await other.send({"id": question["id"], "result": YES})
        await client.send({"id": int(question["id"].removeprefix("chora-")), "result": YES})
        await client.send({"id": question["id"], "result": NO[0]})

    client.reply = reply
    answer = await client.call("save_config", {"draft_id": await draft(ask, "new"), "config_id": "note"})
    assert structured(answer)["success"] is False


async def test_other_calls_go_on_while_a_user_is_asked(server: McpServer, ask: Asking, project: Project):
    """A user may take minutes to answer; other configs can be saved meanwhile."""
    project.save(text("note", "old"))
    client = Client(server, "2025-11-25", FORMS)
    drafts = [await draft(ask, "new"), await draft(ask, "other", "other")]

    async def reply(question: dict[str, Any]) -> None:
        saved = await ask("save_config", draft_id=drafts[1], config_id="other")
        assert saved["success"] is True
        await client.send({"id": question["id"], "result": YES})

    client.reply = reply
    with trio.fail_after(PATIENCE):
        answer = await client.call("save_config", {"draft_id": drafts[0], "config_id": "note"})
    assert structured(answer)["success"] is True


async def test_a_cancelled_call_cancels_its_request_to_the_client():
    """Otherwise the client would go on showing a form that is no longer needed."""
    sent: list[dict[str, Any]] = []
    session = Session("memory", LOCAL)
    session.capabilities = {"roots": {}}
    with trio.fail_after(PATIENCE), trio.CancelScope() as scope:

        async def notify(message: bytes) -> None:
            sent.append(msgspec.json.decode(message))
            scope.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()

        await handshake_peer(session, notify).ask_client({"roots": ROOTS})
    assert sent[-1]["method"] == "notifications/cancelled"
    assert session.pending_requests == {}


async def test_responses_that_match_no_request_are_dropped(server: McpServer):
    """Unknown ids, missing ids, neither result nor error: none of them gets a response."""
    client = Client(server, "2025-11-25")
    for odd in (
        {"id": "chora-1", "result": {}},
        {"id": 7, "result": {}},
        {"id": None, "error": {"code": 1, "message": "x"}},
        {"result": {}},
        {"id": "chora-1"},
    ):
        assert await client.send(odd) is None


@pytest.mark.parametrize(
    ("method", "capabilities", "can"),
    [
        ("elicitation/create", {"elicitation": {}}, True),
        ("elicitation/create", {"elicitation": {"form": {}}}, True),
        ("elicitation/create", {"elicitation": {"url": {}}}, False),
        ("elicitation/create", {"elicitation": True}, False),
        ("elicitation/create", {}, False),
        ("sampling/createMessage", {"sampling": {}}, True),
        ("sampling/createMessage", {"elicitation": {}}, False),
        ("roots/list", {"roots": {"listChanged": True}}, True),
    ],
)
def test_a_client_supports_the_requests_it_declared_capabilities_for(
    method: str, capabilities: dict[str, Any], can: bool
):
    """In both eras, and no others; a handshake client also needs a stream that requests can be sent on."""
    assert modern_peer({}, capabilities).supports(method) is can
    session = Session("memory", LOCAL)
    session.capabilities = capabilities

    async def notify(message: bytes) -> None: ...

    assert handshake_peer(session, notify).supports(method) is can
    assert handshake_peer(session, None).supports(method) is False


async def test_a_missing_capability_is_named_in_the_error():
    """The client learns which capabilities it would have to declare."""
    with pytest.raises(RpcError) as caught:
        await modern_peer({}, {"sampling": {}}).ask_client({"name": NAME, "roots": ROOTS})
    assert caught.value.code == wire.MISSING_CAPABILITY
    assert caught.value.data == {"requiredCapabilities": {"elicitation": {}, "roots": {}}}
    assert wire.HTTP_STATUS[wire.MISSING_CAPABILITY] == 400


async def test_only_missing_answers_are_requested_again():
    """Answers to questions that weren't asked are ignored."""
    capabilities = {"elicitation": {}, "roots": {}}
    some = modern_peer({"inputResponses": {"name": {"action": "accept"}, "other": {}}}, capabilities)
    with pytest.raises(InputRequired) as caught:
        some.require_answers({"name": NAME, "roots": ROOTS})
    assert caught.value.result["inputRequests"] == {"roots": {"method": "roots/list", "params": {}}}
    assert "requestState" not in caught.value.result
    both = modern_peer({"inputResponses": {"name": {"action": "accept"}, "roots": {"roots": []}}}, capabilities)
    assert await both.ask_client({"name": NAME, "roots": ROOTS}) == {
        "name": {"action": "accept"},
        "roots": {"roots": []},
    }


@pytest.mark.parametrize("answers", [None, 3, [], {"name": 12345}, {"name": "Ada"}, {"name": None}])
def test_malformed_input_responses_are_refused(answers: Any):
    """Each answer must be an object; anything else is a fault of the client, and the error says so."""
    with pytest.raises(RpcError, match="inputResponses") as caught:
        modern_peer({"inputResponses": answers})
    assert caught.value.code == wire.INVALID_PARAMS


def test_client_capabilities_must_be_an_object():
    """The error names `clientCapabilities`."""
    with pytest.raises(RpcError, match="clientCapabilities"):
        modern_peer({}, [1])


# -- requestState -----------------------------------------------------------------------------------------------


def test_a_signed_state_is_verified_unchanged():
    """Any JSON value, for the purpose it was signed for."""
    signer = StateSigner(b"key")
    for state in ("x", {"round": 2}, [1, None], "ü"):
        assert signer.verify("tools/call a", signer.sign("tools/call a", state)) == state


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text + "-TAMPERED",
        lambda text: text[:-1],
        lambda text: "A" + text[1:] if text[0] != "A" else "B" + text[1:],
        lambda text: "",
        lambda text: "ü",
        lambda text: text + "=",
        lambda text: " " + text,
        lambda text: StateSigner(b"another key").sign("tools/call a", 1),
    ],
)
def test_a_tampered_state_is_refused(spoil: Callable[[str], str]):
    """Any byte changed, added or removed, or a signature with another server's key."""
    signer = StateSigner(b"key")
    with pytest.raises(RpcError) as caught:
        signer.verify("tools/call a", spoil(signer.sign("tools/call a", 1)))
    assert caught.value.code == wire.INVALID_PARAMS


def test_a_state_has_one_base64_spelling():
    """The padding bits that base64 ignores must be those that the signer wrote, so that a token can't be varied."""
    signer = StateSigner(b"k")
    text = next(text for size in range(4) if (text := signer.sign("x", "y" * size)).endswith("="))
    last = text.rstrip("=")[-1]
    again = text.replace(f"{last}=", f"{chr(ord(last) + 1)}=")
    assert base64.urlsafe_b64decode(again) == base64.urlsafe_b64decode(text)
    assert signer.verify("x", text) is not None
    with pytest.raises(RpcError, match="not one given for this request"):
        signer.verify("x", again)


def test_a_state_is_for_one_purpose_and_one_principal():
    """A confirmation of one tool's call isn't valid for another tool or for another principal."""
    state = StateSigner(b"k").sign(f"{LOCAL.name} tools/call x", 5)
    assert modern_peer({"requestState": state}).state == 5
    with pytest.raises(RpcError, match="not one given for this request"):
        modern_peer({"requestState": state}, purpose="tools/call y")
    decoded = wire.decode_params(
        msgspec.json.encode(
            {"_meta": {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {}}, "requestState": state}
        )
    )
    other = Session("memory", Principal("other"))
    with pytest.raises(RpcError, match="not one given for this request"):
        RequestingClient(other, wire.REVISIONS["2026-07-28"], decoded, "tools/call x", None, None, StateSigner(b"k"))


def test_an_old_state_is_refused(monkeypatch: pytest.MonkeyPatch):
    """A state expires after `STATE_LIFETIME`."""
    signer = StateSigner(b"key")
    state = signer.sign("a", 1)
    later = requesting_client.time.time() + requesting_client.STATE_LIFETIME + 1
    monkeypatch.setattr(requesting_client.time, "time", lambda: later)
    with pytest.raises(RpcError, match="not one given for this request"):
        signer.verify("a", state)


# -- log messages -----------------------------------------------------------------------------------------------


@requirement("server.logging")
async def test_a_client_gets_the_log_messages_of_its_level(server: McpServer, hello: Project):
    """Each event of a call at or above the level that the client set is sent as a log message before the response."""
    client = Client(server, "2025-11-25")
    arguments = {"content_config_id": "greeting", "force": True}
    await client.call("generate_content", arguments)
    assert client.messages == []
    assert (await client.send({"id": 2, "method": "logging/setLevel", "params": {"level": "info"}}))["result"] == {}
    await client.call("generate_content", arguments)
    assert client.messages
    for message in client.messages:
        assert message["method"] == "notifications/message"
        assert message["params"]["level"] == "info"
        assert message["params"]["logger"] == message["params"]["data"]["event_type"]
    client.messages.clear()
    await client.send({"id": 3, "method": "logging/setLevel", "params": {"level": "error"}})
    await client.call("generate_content", arguments)
    assert client.messages == []


async def test_in_the_modern_era_each_request_sets_its_log_level(server: McpServer, hello: Project):
    """`logging/setLevel` doesn't exist there."""
    client = Client(server, "2026-07-28")
    arguments = {"content_config_id": "greeting", "force": True}
    await client.call("generate_content", arguments, _meta={wire.LEVEL_KEY: "debug"})
    assert {each["method"] for each in client.messages} == {"notifications/message"}
    client.messages.clear()
    await client.call("generate_content", arguments)
    assert client.messages == []
    params = {"level": "info", "_meta": client.meta}
    error = (await client.send({"id": 2, "method": "logging/setLevel", "params": params}))["error"]
    assert error["code"] == wire.METHOD_NOT_FOUND


@pytest.mark.parametrize("level", ["verbose", "", None, 3])
async def test_an_unknown_log_level_is_refused(server: McpServer, level: Any):
    """The error lists the levels."""
    client = Client(server, "2025-11-25")
    error = (await client.send({"id": 2, "method": "logging/setLevel", "params": {"level": level}}))["error"]
    assert error["code"] == wire.INVALID_PARAMS
    modern = Client(server, "2026-07-28")
    error = (await modern.call("hello_world", {}, _meta={wire.LEVEL_KEY: level}))["error"]
    assert error["code"] == wire.INVALID_PARAMS
    assert "emergency" in error["message"]


async def test_a_call_that_requests_log_messages_may_require_input(server: McpServer, ask: Asking, project: Project):
    """The `input_required` result is the same as without log messages."""
    project.save(text("note", "old"))
    client = Client(server, "2026-07-28", FORMS)
    arguments = {"draft_id": await draft(ask, "new"), "config_id": "note"}
    asked = await client.call("save_config", arguments, _meta={wire.LEVEL_KEY: "debug"})
    assert asked["result"]["resultType"] == "input_required"


def test_unsent_log_messages_are_limited():
    """Beyond `LOG_QUEUE_LIMIT` the oldest are dropped."""

    async def notify(message: bytes) -> None: ...

    session = Session("memory", LOCAL)
    session.log_level = "debug"
    peer = handshake_peer(session, notify)
    for number in range(requesting_client.LOG_QUEUE_LIMIT + 50):
        peer.queue_log_message("info", number)
    assert len(peer._logs) == requesting_client.LOG_QUEUE_LIMIT  # pyright: ignore[reportPrivateUsage]
    assert peer.progress is None
    assert peer.state is None
    assert RequestParams().meta is UNSET
