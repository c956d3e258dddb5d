"""Asking the client, in both eras, and telling it what happens."""

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
    """A client of either era that may be asked, and what it got besides answers."""

    def __init__(self, server: McpServer, revision: str, capabilities: dict[str, Any] | None = None) -> None:
        self.server = server
        self.session = Session("memory", LOCAL)
        self.heard: list[dict[str, Any]] = []
        self.revision = wire.REVISIONS[revision]
        self.meta: dict[str, Any] = {}
        if self.revision.era == "handshake":
            self.session.revision = self.revision
            self.session.capabilities = capabilities or {}
        else:
            self.meta = {wire.VERSION_KEY: revision, wire.CAPABILITIES_KEY: capabilities or {}}
        self.reply: Callable[[dict[str, Any]], Awaitable[None]] | None = None

    async def notify(self, message: bytes) -> None:
        self.heard.append(msgspec.json.decode(message))
        if "id" in self.heard[-1] and self.reply is not None:
            await self.reply(self.heard[-1])

    async def send(self, message: dict[str, Any]) -> Any:
        body = msgspec.json.encode({"jsonrpc": "2.0", **message})
        answer = await self.server.answer(self.session, body, self.notify)
        return None if answer is None else msgspec.json.decode(answer.body)

    async def call(self, tool: str, arguments: dict[str, Any], **params: Any) -> Any:
        meta = {**self.meta, **params.pop("_meta", {})}
        sent = {"name": tool, "arguments": arguments, **params, **({"_meta": meta} if meta else {})}
        return await self.send({"id": 1, "method": "tools/call", "params": sent})

    def answering(self, **result: Any) -> "Client":
        """Have every question answered so."""

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


# -- the one place where it helps people -------------------------------------------------------------------------


@requirement("server.elicitation")
async def test_a_person_may_allow_a_config_to_be_replaced(server: McpServer, ask: Asking, project: Project):
    """With a handshake the question is a request, and the call goes on with the answer."""
    project.save(text("note", "old"))
    client = Client(server, "2025-11-25", FORMS).answering(**YES)
    saved = await client.call("save_config", {"draft_id": await draft(ask, "new"), "config_id": "note"})
    assert structured(saved)["success"] is True
    assert structured(saved)["backup_path"]
    (question,) = client.heard
    assert question["method"] == "elicitation/create"
    assert "note" in question["params"]["message"]
    assert question["params"]["requestedSchema"]["required"] == ["confirm"]
    assert "new" in project.read("configs/content/note.json")


@pytest.mark.parametrize("answer", NO)
@pytest.mark.parametrize("revision", ["2025-06-18", "2026-07-28"])
async def test_anything_but_a_yes_keeps_the_config(
    server: McpServer, ask: Asking, project: Project, revision: str, answer: dict[str, Any]
):
    """The model is told that a person decided, so that it doesn't simply pass overwrite."""
    project.save(text("note", "old"))
    client = Client(server, revision, FORMS).answering(**answer)
    arguments = {"draft_id": await draft(ask, "new"), "config_id": "note"}
    said = await client.call("save_config", arguments)
    if revision == "2026-07-28":
        state = said["result"]["requestState"]
        said = await client.call("save_config", arguments, inputResponses={"confirm": answer}, requestState=state)
    error = structured(said)["error"]
    assert error["code"] == "save_failed"
    assert "wants to keep it" in error["message"]
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
async def test_who_cannot_be_asked_gets_the_way_out(
    server: McpServer, ask: Asking, project: Project, revision: str, capabilities: dict[str, Any]
):
    """A client without forms is told of overwrite, and isn't bothered."""
    project.save(text("note", "old"))
    client = Client(server, revision, capabilities)
    said = await client.call("save_config", {"draft_id": await draft(ask, "new"), "config_id": "note"})
    assert "overwrite: true" in structured(said)["error"]["hint"]
    assert client.heard == []


@requirement("server.elicitation.bound")
async def test_the_modern_question_is_a_result(server: McpServer, ask: Asking, project: Project):
    """The call is made again with the answer; what was asked about must not have changed meanwhile."""
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
    assert client.heard == []


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
async def test_a_person_may_allow_a_referenced_text_to_be_deleted(
    server: McpServer, ask: Asking, project: Project, revision: str
):
    """The question names what would have to be made again."""
    project.save(text("part", "x"))
    project.save(artifact("page", [child("part")]))
    await ask("generate_content", content_config_id="part")
    client = Client(server, revision, FORMS).answering(**YES)
    said = await client.call("delete_content", {"content_id": "part"})
    if revision == "2026-07-28":
        question = said["result"]["inputRequests"]["confirm"]
        state = said["result"]["requestState"]
        said = await client.call(
            "delete_content", {"content_id": "part"}, inputResponses={"confirm": YES}, requestState=state
        )
    else:
        (question,) = client.heard
    assert "page" in question["params"]["message"]
    assert structured(said)["status"] == "deleted"


async def test_a_refused_answer_is_treated_like_a_client_that_cannot_be_asked(
    server: McpServer, ask: Asking, project: Project
):
    """A client that fails to ask its person is no person who said no."""
    project.save(text("note", "old"))
    client = Client(server, "2025-11-25", FORMS)

    async def fail(question: dict[str, Any]) -> None:
        await client.send({"id": question["id"], "error": {"code": -1, "message": "no screen"}})

    client.reply = fail
    said = await client.call("save_config", {"draft_id": await draft(ask, "new"), "config_id": "note"})
    assert "overwrite: true" in structured(said)["error"]["hint"]


# -- questions in general ----------------------------------------------------------------------------------------


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


async def test_a_silent_client_is_not_waited_for_for_ever(mock_clock: MockClock):
    """After the time for an answer the question is withdrawn, and nothing of it is left."""
    mock_clock.autojump_threshold = 0
    sent: list[dict[str, Any]] = []

    async def notify(message: bytes) -> None:
        sent.append(msgspec.json.decode(message))

    session = Session("memory", LOCAL)
    session.capabilities = FORMS
    with pytest.raises(NoAnswer, match="no answer within 300 s"):
        await handshake_peer(session, notify).ask({"name": NAME})
    assert trio.current_time() >= requesting_client.ANSWER_TIMEOUT
    assert [each["method"] for each in sent] == ["elicitation/create", "notifications/cancelled"]
    assert sent[1]["params"]["requestId"] == sent[0]["id"]
    assert session.pending_requests == {}


async def test_the_first_answer_counts(server: McpServer, ask: Asking, project: Project):
    """A second one that follows on its heels changes nothing."""
    project.save(text("note", "old"))
    client = Client(server, "2025-11-25", FORMS)

    async def reply(question: dict[str, Any]) -> None:
        for result in (NO[0], YES):
            await client.send({"id": question["id"], "result": result})

    client.reply = reply
    answer = await client.call("save_config", {"draft_id": await draft(ask, "new"), "config_id": "note"})
    assert structured(answer)["success"] is False


async def test_only_the_session_that_was_asked_can_answer(server: McpServer, ask: Asking, project: Project):
    """A number that another session guessed is an answer to nothing, nor is one of another type."""
    project.save(text("note", "old"))
    client, other = Client(server, "2025-11-25", FORMS), Client(server, "2025-11-25", FORMS)

    async def reply(question: dict[str, Any]) -> None:
        await other.send({"id": question["id"], "result": YES})
        await client.send({"id": int(question["id"].removeprefix("chora-")), "result": YES})
        await client.send({"id": question["id"], "result": NO[0]})

    client.reply = reply
    answer = await client.call("save_config", {"draft_id": await draft(ask, "new"), "config_id": "note"})
    assert structured(answer)["success"] is False


async def test_nothing_else_waits_for_the_person(server: McpServer, ask: Asking, project: Project):
    """Whoever is asked may take minutes; meanwhile others save."""
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


async def test_a_cancelled_call_withdraws_its_question():
    """The user isn't left with a form that is no longer needed."""
    sent: list[dict[str, Any]] = []
    session = Session("memory", LOCAL)
    session.capabilities = {"roots": {}}
    with trio.fail_after(PATIENCE), trio.CancelScope() as scope:

        async def notify(message: bytes) -> None:
            sent.append(msgspec.json.decode(message))
            scope.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()

        await handshake_peer(session, notify).ask({"roots": ROOTS})
    assert sent[-1]["method"] == "notifications/cancelled"
    assert session.pending_requests == {}


async def test_responses_to_no_request_are_dropped(server: McpServer):
    """Unknown numbers, no numbers, no results: none of them is worth a word."""
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
def test_a_client_can_be_asked_for_what_it_declared(method: str, capabilities: dict[str, Any], can: bool):
    """And for nothing else, in both eras; without a way back nobody with a handshake can be asked."""
    assert modern_peer({}, capabilities).supports(method) is can
    session = Session("memory", LOCAL)
    session.capabilities = capabilities

    async def notify(message: bytes) -> None: ...

    assert handshake_peer(session, notify).supports(method) is can
    assert handshake_peer(session, None).supports(method) is False


async def test_a_capability_that_is_needed_is_named():
    """The client learns what it would have to declare."""
    with pytest.raises(RpcError) as caught:
        await modern_peer({}, {"sampling": {}}).ask({"name": NAME, "roots": ROOTS})
    assert caught.value.code == wire.MISSING_CAPABILITY
    assert caught.value.data == {"requiredCapabilities": {"elicitation": {}, "roots": {}}}
    assert wire.HTTP_STATUS[wire.MISSING_CAPABILITY] == 400


async def test_only_what_is_missing_is_asked_again():
    """What else the client sent along is ignored."""
    capabilities = {"elicitation": {}, "roots": {}}
    some = modern_peer({"inputResponses": {"name": {"action": "accept"}, "other": {}}}, capabilities)
    with pytest.raises(InputRequired) as caught:
        some.require_answers({"name": NAME, "roots": ROOTS})
    assert caught.value.result["inputRequests"] == {"roots": {"method": "roots/list", "params": {}}}
    assert "requestState" not in caught.value.result
    both = modern_peer({"inputResponses": {"name": {"action": "accept"}, "roots": {"roots": []}}}, capabilities)
    assert await both.ask({"name": NAME, "roots": ROOTS}) == {"name": {"action": "accept"}, "roots": {"roots": []}}


@pytest.mark.parametrize("answers", [None, 3, [], {"name": 12345}, {"name": "Ada"}, {"name": None}])
def test_answers_of_another_shape_are_refused(answers: Any):
    """An answer is an object; a client that sends anything else has a fault it should hear of."""
    with pytest.raises(RpcError, match="inputResponses") as caught:
        modern_peer({"inputResponses": answers})
    assert caught.value.code == wire.INVALID_PARAMS


def test_capabilities_are_an_object():
    """Anything else is refused by name."""
    with pytest.raises(RpcError, match="clientCapabilities"):
        modern_peer({}, [1])


# -- states ------------------------------------------------------------------------------------------------------


def test_a_state_comes_back_as_it_was():
    """Whatever JSON it is, for the purpose that it was given for."""
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
def test_a_state_that_was_touched_is_refused(spoil: Callable[[str], str]):
    """In every spelling of every byte, and so is one of another server."""
    signer = StateSigner(b"key")
    with pytest.raises(RpcError) as caught:
        signer.verify("tools/call a", spoil(signer.sign("tools/call a", 1)))
    assert caught.value.code == wire.INVALID_PARAMS


def test_a_state_has_one_spelling():
    """The bits that base64 leaves over say nothing, so they have to be those that we wrote."""
    signer = StateSigner(b"k")
    text = next(text for size in range(4) if (text := signer.sign("x", "y" * size)).endswith("="))
    last = text.rstrip("=")[-1]
    again = text.replace(f"{last}=", f"{chr(ord(last) + 1)}=")
    assert base64.urlsafe_b64decode(again) == base64.urlsafe_b64decode(text)
    assert signer.verify("x", text) is not None
    with pytest.raises(RpcError):
        signer.verify("x", again)


def test_a_state_is_for_one_purpose_and_one_principal():
    """A yes to one tool's question is none to another's, and nobody's but the asked one's."""
    state = StateSigner(b"k").sign(f"{LOCAL.name} tools/call x", 5)
    assert modern_peer({"requestState": state}).state == 5
    with pytest.raises(RpcError):
        modern_peer({"requestState": state}, purpose="tools/call y")
    decoded = wire.decode_params(
        msgspec.json.encode(
            {"_meta": {wire.VERSION_KEY: "2026-07-28", wire.CAPABILITIES_KEY: {}}, "requestState": state}
        )
    )
    other = Session("memory", Principal("other"))
    with pytest.raises(RpcError):
        RequestingClient(other, wire.REVISIONS["2026-07-28"], decoded, "tools/call x", None, None, StateSigner(b"k"))


def test_an_old_state_is_refused(monkeypatch: pytest.MonkeyPatch):
    """A question isn't answered a day later."""
    signer = StateSigner(b"key")
    state = signer.sign("a", 1)
    later = requesting_client.time.time() + requesting_client.STATE_LIFETIME + 1
    monkeypatch.setattr(requesting_client.time, "time", lambda: later)
    with pytest.raises(RpcError):
        signer.verify("a", state)


# -- log messages ------------------------------------------------------------------------------------------------


@requirement("server.logging")
async def test_a_client_gets_the_log_messages_of_its_level(server: McpServer, hello: Project):
    """Each event of a call is a log message, from the level on that was set, before the answer."""
    client = Client(server, "2025-11-25")
    arguments = {"content_config_id": "greeting", "force": True}
    await client.call("generate_content", arguments)
    assert client.heard == []
    assert (await client.send({"id": 2, "method": "logging/setLevel", "params": {"level": "info"}}))["result"] == {}
    await client.call("generate_content", arguments)
    assert client.heard
    for message in client.heard:
        assert message["method"] == "notifications/message"
        assert message["params"]["level"] == "info"
        assert message["params"]["logger"] == message["params"]["data"]["event_type"]
    client.heard.clear()
    await client.send({"id": 3, "method": "logging/setLevel", "params": {"level": "error"}})
    await client.call("generate_content", arguments)
    assert client.heard == []


async def test_the_modern_level_is_each_requests_own(server: McpServer, hello: Project):
    """And setting one for good is no method there."""
    client = Client(server, "2026-07-28")
    arguments = {"content_config_id": "greeting", "force": True}
    await client.call("generate_content", arguments, _meta={wire.LEVEL_KEY: "debug"})
    assert {each["method"] for each in client.heard} == {"notifications/message"}
    client.heard.clear()
    await client.call("generate_content", arguments)
    assert client.heard == []
    params = {"level": "info", "_meta": client.meta}
    error = (await client.send({"id": 2, "method": "logging/setLevel", "params": params}))["error"]
    assert error["code"] == wire.METHOD_NOT_FOUND


@pytest.mark.parametrize("level", ["loud", "", None, 3])
async def test_a_level_that_is_none_is_refused(server: McpServer, level: Any):
    """With the levels there are."""
    client = Client(server, "2025-11-25")
    error = (await client.send({"id": 2, "method": "logging/setLevel", "params": {"level": level}}))["error"]
    assert error["code"] == wire.INVALID_PARAMS
    modern = Client(server, "2026-07-28")
    error = (await modern.call("hello_world", {}, _meta={wire.LEVEL_KEY: level}))["error"]
    assert error["code"] == wire.INVALID_PARAMS
    assert "emergency" in error["message"]


async def test_a_loud_call_may_ask_too(server: McpServer, ask: Asking, project: Project):
    """A question, or a capability that is missing, comes through as it would in silence."""
    project.save(text("note", "old"))
    client = Client(server, "2026-07-28", FORMS)
    arguments = {"draft_id": await draft(ask, "new"), "config_id": "note"}
    asked = await client.call("save_config", arguments, _meta={wire.LEVEL_KEY: "debug"})
    assert asked["result"]["resultType"] == "input_required"


def test_log_messages_that_are_not_sent_are_limited():
    """The oldest make room."""

    async def notify(message: bytes) -> None: ...

    session = Session("memory", LOCAL)
    session.log_level = "debug"
    told = handshake_peer(session, notify)
    for number in range(requesting_client.LOG_QUEUE_LIMIT + 50):
        told.log("info", number)
    assert len(told._logs) == requesting_client.LOG_QUEUE_LIMIT  # pyright: ignore[reportPrivateUsage]
    assert told.progress is None
    assert told.state is None
    assert RequestParams().meta is UNSET
