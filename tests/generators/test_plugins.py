"""A project's own generators and composers: loaded completely or refused; their failures aren't bugs of chora."""

from __future__ import annotations

import logging
import re
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from chora.errors import GenerationFailed, PermissionDenied, UsageError
from chora.files import Folder
from chora.generators import GENERATORS, demonstration, plugins
from chora.generators.generator import GeneratedText, GenerationJob
from chora.generators.plugins import load_composers, source_digest
from chora.generators.registry import Generator, GeneratorRegistry
from chora.settings import LlmSettings
from tests.conftest import requirement
from tests.generators.jobs import job_of
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent.parent

WHOLE = """
from chora.generators.generator import GeneratedText
NAME = "shout"
VERSION = "1.0.0"
DESCRIPTION = "Shouts."
CAPABILITIES = ("text",)
ALIASES = ("yell",)
async def generate(job):
    return GeneratedText(job.context["text"].upper())
"""


@pytest.fixture(autouse=True)
def clean_modules() -> Any:
    """Remove the modules that a test imports."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("chora_plugin_", "plugin_of_test")):
            del sys.modules[name]


def write(root: Path, source: str, name: str = "shout.py") -> str:
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(source, "utf-8")
    return name


def registry(root: Path, *sources: str) -> GeneratorRegistry:
    """A registry with plugins of these sources."""
    names = [write(root, source, f"plugin_{number}.py") for number, source in enumerate(sources)]
    return GeneratorRegistry(GENERATORS, names, Folder(root))


def plugin(root: Path, source: str, name: str = "shout.py") -> Generator:
    return GeneratorRegistry(GENERATORS, [write(root, source, name)], Folder(root)).list_generators()[-1]


async def make(generator: Generator, job: GenerationJob) -> GeneratedText:
    return await generator.generate_text(job._replace(sources=await generator.gather_ingredients(job)))


def job(root: Path, context: dict[str, Any] | None = None, **pattern: Any) -> GenerationJob:
    return job_of(root, {"type": "shout", **pattern}, {"text": "hi"} if context is None else context)


def refused(root: Path, *specs: str) -> str:
    """The message of a setting with an unusable plugin."""
    with pytest.raises(UsageError) as failed:
        GeneratorRegistry(GENERATORS, specs, Folder(root))
    assert failed.value.hint
    assert failed.value.details["setting"] == "plugins.generators"
    assert failed.value.details["plugin"] in failed.value.message
    return failed.value.message


# -- the registry -----------------------------------------------------------------------------------------------


async def test_a_file_of_the_project_is_a_generator(tmp_path: Path):
    """By its name and its aliases, listed after the built-in ones."""
    found = registry(tmp_path, WHOLE)
    generator = found.by_name["shout"]
    assert found.by_name["yell"] is generator
    assert [each.module for each in found.list_generators()] == [*GENERATORS, generator.module]
    assert (generator.kind, found.by_name["demonstration"].kind) == ("plugin", "builtin")
    assert (await make(generator, job(tmp_path))).text == "HI"


async def test_a_module_is_a_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Any importable module."""
    write(tmp_path, WHOLE, "plugin_of_test/inner.py")
    write(tmp_path, "", "plugin_of_test/__init__.py")
    monkeypatch.syspath_prepend(tmp_path)
    found = GeneratorRegistry(GENERATORS, ["plugin_of_test.inner"], Folder(tmp_path))
    assert (await make(found.by_name["shout"], job(tmp_path))).text == "HI"
    assert len(found.by_name["shout"].source_digest) == 64


@requirement("generators.plugins.explicit")
def test_without_plugins_only_builtin_generators_are_registered(tmp_path: Path):
    """Only plugins that the settings name are loaded, whatever files there are."""
    write(tmp_path, "raise SystemExit", "shout_generator.py")
    found = GeneratorRegistry(GENERATORS, (), Folder(tmp_path))
    assert [each.module for each in found.list_generators()] == list(GENERATORS)
    assert {generator.source_digest for generator in found.list_generators()} == {""}
    assert found.by_name["bdd_scenario_assembly"] is found.by_name["bdd_scenario"]


def test_an_edited_plugin_has_another_digest(tmp_path: Path):
    """Any changed byte changes it, and the new code runs."""
    first = plugin(tmp_path, WHOLE)
    same = plugin(tmp_path, WHOLE)
    edited = plugin(tmp_path, WHOLE.replace("Shouts.", "Shouts!"))
    assert first.source_digest == same.source_digest != edited.source_digest
    assert edited.description == "Shouts!"


def test_a_plugin_may_define_classes(tmp_path: Path):
    """dataclasses need the module of a class in sys.modules."""
    source = (
        f"from __future__ import annotations\nimport dataclasses{WHOLE}\n@dataclasses.dataclass\nclass A:\n  b: int = 1"
    )
    assert plugin(tmp_path, source).module.A().b == 1


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("this is no python", "SyntaxError"),
        ("1/0", "ZeroDivisionError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import no_such_module_anywhere", "No module named 'no_such_module_anywhere'"),
        ("", "lacks NAME"),
        (WHOLE.replace('"shout"', '"Shout"'), "lacks NAME"),
        (WHOLE.replace('"shout"', '"shout\\n"'), "lacks NAME"),
        (WHOLE.replace('"shout"', "7"), "lacks NAME"),
        (WHOLE.replace("VERSION", "VERSIO"), "lacks VERSION"),
        (WHOLE.replace("DESCRIPTION", "D"), "lacks DESCRIPTION"),
        (WHOLE.replace("CAPABILITIES", "C"), "lacks CAPABILITIES"),
        (WHOLE.replace('("text",)', "(1,)"), "lacks CAPABILITIES"),
        (WHOLE.replace('("yell",)', '"yell"'), "lacks ALIASES"),
        (WHOLE.replace("async def", "def"), "lacks `async def generate(job)`"),
        (WHOLE.replace("generate(job)", "generate()"), "doesn't take (job)"),
        (WHOLE + "\ndef ingredients(job): return {}", "lacks `async def ingredients(job)`"),
        (WHOLE.replace('"shout"', '"jinja2"'), "the name jinja2 is taken"),
        (WHOLE.replace('"yell"', '"bdd_scenario_assembly"'), "the name bdd_scenario_assembly is taken"),
        ("x = b'\\xff'.decode()", "UnicodeDecodeError"),
    ],
)
def test_a_broken_plugin_stops_the_start(tmp_path: Path, source: str, said: str):
    """The error names the plugin and the fault."""
    assert said in refused(tmp_path, write(tmp_path, source))


def test_a_plugin_that_fails_to_load_leaves_no_module(tmp_path: Path):
    """No partial module stays in sys.modules."""
    before = set(sys.modules)
    refused(tmp_path, write(tmp_path, "x = 1\n1/0"))
    assert not [name for name in set(sys.modules) - before if name.startswith("chora_plugin_")]


def test_a_missing_plugin_is_named(tmp_path: Path):
    """Neither a file nor a module, or outside the project."""
    (tmp_path / "project").mkdir()
    write(tmp_path, WHOLE)
    (tmp_path / "project/big.py").write_text("#" * 2_000_000)
    assert "no such file" in refused(tmp_path / "project", "gone.py")
    assert "outside the project" in refused(tmp_path / "project", "../shout.py")
    assert "larger than" in refused(tmp_path / "project", "big.py")
    assert "can't be imported" in refused(tmp_path / "project", "no_such_module_anywhere")
    assert "can't be imported" in refused(tmp_path / "project", "")


def test_two_plugins_of_one_name_are_refused(tmp_path: Path):
    """Which of them is meant would be ambiguous."""
    first, second = write(tmp_path, WHOLE, "a.py"), write(tmp_path, WHOLE, "b.py")
    assert "b.py can't be used: the name shout is taken" in refused(tmp_path, first, second)


# -- execution --------------------------------------------------------------------------------------------------


async def test_a_plugin_may_return_a_bare_text(tmp_path: Path):
    """A str is accepted as a GeneratedText."""
    generator = plugin(tmp_path, WHOLE.replace('GeneratedText(job.context["text"].upper())', '"plain"'))
    assert await make(generator, job(tmp_path)) == GeneratedText("plain")


@pytest.mark.parametrize("returned", ["None", "7", "('a',)"])
async def test_a_plugin_that_returns_no_text_fails(tmp_path: Path, returned: str):
    """Its value isn't stored as text."""
    generator = plugin(tmp_path, WHOLE.replace('GeneratedText(job.context["text"].upper())', returned))
    with pytest.raises(GenerationFailed, match="returned no text"):
        await make(generator, job(tmp_path))


async def test_an_exception_of_a_plugin_is_reported_by_its_type(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The caller gets the plugin's name and the type; message and traceback may hold secrets and are only logged."""
    generator = plugin(tmp_path, WHOLE.replace("return GeneratedText", "raise KeyError('secret') or Made"))
    with pytest.raises(GenerationFailed) as failed:
        await make(generator, job(tmp_path))
    assert failed.value.message == "note: the plugin shout failed with KeyError."
    assert failed.value.details["error_type"] == "KeyError"
    assert failed.value.details["generator_type"] == "shout"
    assert "secret" not in str(failed.value.as_dict())
    assert "raise KeyError('secret')" in caplog.text or "KeyError: 'secret'" in caplog.text
    assert caplog.records[-1].levelno == logging.ERROR


QUITS = {
    "sys.exit": "raise SystemExit(3)",
    "interrupt": "raise KeyboardInterrupt",
    "base": "raise type('Gone', (BaseException,), {})",
    "group": "raise BaseExceptionGroup('all', [SystemExit(1)])",
}
"""What a plugin may raise that would end a process."""


@pytest.mark.parametrize("quits", QUITS.values(), ids=QUITS)
@requirement("generators.plugins.exit")
async def test_a_plugin_that_quits_fails_alone(tmp_path: Path, quits: str, monkeypatch: pytest.MonkeyPatch):
    """Wherever its code runs: at the start, for its ingredients, its estimate, its text, or whether it is available; as
    a module and as a class, which runs in a thread.
    """
    monkeypatch.setattr(plugins, "receives_signals", lambda: True)
    assert "can't be imported" in refused(tmp_path, write(tmp_path, f"{WHOLE}\n{quits}"))
    in_init = f"class Echo:\n    def __init__(self): {quits}\n    def generate(self): return ''\n"
    assert "Echo() failed" in refused(tmp_path, write(tmp_path, in_init))
    in_property = f"class Echo:\n    @property\n    def version(self): {quits}\n    def generate(self): return ''\n"
    assert "can't be used" in refused(tmp_path, write(tmp_path, in_property))
    in_class = f"class Echo:\n    def generate(self): {quits}\n"
    generating = WHOLE.replace("return GeneratedText", f"\n    {quits}\n    return GeneratedText")
    gathering = f"{WHOLE}\nasync def ingredients(job): {quits}\n"
    for source in (in_class, generating, gathering):
        with pytest.raises(GenerationFailed, match="failed with"):
            await make(plugin(tmp_path, source), job(tmp_path))
    estimating = plugin(tmp_path, f"{WHOLE}\ndef estimate(job, settings): {quits}\n")
    with pytest.raises(GenerationFailed, match="failed with"):
        estimating.estimate_cost(job(tmp_path), LlmSettings())
    asking = plugin(tmp_path, f"{WHOLE}\ndef unavailable(settings): {quits}\n")
    assert "The plugin shout failed with" in (asking.why_unavailable(LlmSettings()) or "")


async def test_ctrl_c_at_a_command_ends_it_also_within_a_plugin(tmp_path: Path):
    """There, the interrupt comes from the user."""
    generator = plugin(tmp_path, WHOLE.replace("return GeneratedText", "raise KeyboardInterrupt or GeneratedText"))
    with pytest.raises(KeyboardInterrupt):
        await make(generator, job(tmp_path))


async def test_a_cancelled_plugin_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also when it fails at the same moment, in a nursery of its own."""
    monkeypatch.setattr(plugins, "receives_signals", lambda: True)
    source = (
        "import trio\n" + WHOLE.partition("async def")[0] + "async def fail():\n"
        "    try:\n        await trio.sleep_forever()\n    finally:\n        raise SystemExit(1)\n"
        "async def generate(job):\n    async with trio.open_nursery() as nursery:\n"
        "        nursery.start_soon(fail)\n        await trio.sleep_forever()\n"
    )
    with trio.move_on_after(0.05) as scope, pytest.raises(BaseExceptionGroup):
        await make(plugin(tmp_path, source), job(tmp_path))
    assert scope.cancel_called


async def test_chora_errors_of_a_plugin_are_passed_on(tmp_path: Path):
    """Its own GenerationFailed, and any other error class of chora."""
    source = WHOLE.replace("return GeneratedText", "raise job.failed(NAME, 'too long', 'Shorten it.') or Made")
    with pytest.raises(GenerationFailed, match=r"note: too long\."):
        await make(plugin(tmp_path, source), job(tmp_path))
    outside = WHOLE + "\nasync def ingredients(job): return {'x': job.read(NAME, '../x')}"
    with pytest.raises(PermissionDenied, match="leads outside the project"):
        await make(plugin(tmp_path, outside), job(tmp_path))


async def test_the_inputs_that_a_plugin_reports_are_validated(tmp_path: Path):
    """They become part of a fingerprint."""
    good = plugin(tmp_path, WHOLE + "\nasync def ingredients(job): return {'a': 'b'}")
    assert await good.gather_ingredients(job(tmp_path)) == {"a": "b"}
    for returned in ("None", "{'a': 1}", "{1: 'a'}"):
        bad = plugin(tmp_path, WHOLE + f"\nasync def ingredients(job): return {returned}")
        with pytest.raises(GenerationFailed, match="no texts by name"):
            await bad.gather_ingredients(job(tmp_path))
    raising = plugin(tmp_path, WHOLE + "\nasync def ingredients(job): 1/0")
    with pytest.raises(GenerationFailed, match="failed with ZeroDivisionError"):
        await raising.gather_ingredients(job(tmp_path))


async def test_an_unexpected_error_outside_plugins_stays_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Only an exception of a plugin becomes a failure of generation."""

    async def broken(job: GenerationJob) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(demonstration, "generate", broken)
    monkeypatch.setattr(demonstration, "ingredients", broken)
    with pytest.raises(ZeroDivisionError):
        await Generator(demonstration).generate_text(job(tmp_path))
    with pytest.raises(ZeroDivisionError):
        await Generator(demonstration).gather_ingredients(job(tmp_path))


async def test_a_plugin_can_be_cancelled(tmp_path: Path):
    """Also when its class is busy in a thread."""
    waits = plugin(
        tmp_path, "import trio" + WHOLE.replace("return GeneratedText", "await trio.sleep_forever() or GeneratedText")
    )
    blocks = plugin(
        tmp_path,
        "import threading\nleave = threading.Event()\n" + echo("self", "leave.wait(20) and 'x'"),
        "slow.py",
    )
    for generator in (waits, blocks):
        with trio.fail_after(PATIENCE), trio.move_on_after(0.1) as scope:
            await generator.generate_text(job(tmp_path))
        assert scope.cancelled_caught
    for name, module in list(sys.modules.items()):
        if name.startswith("chora_plugin_slow") and hasattr(module, "leave"):
            module.leave.set()


# -- classes of chora-compose -----------------------------------------------------------------------------------

ECHO = """
class Echo:
    '''Says what it is given.

    More words.'''
    version = "2.0.0"
    capabilities = ["text"]
    def generate({signature}):
        return {body}
"""


def echo(signature: str, body: str) -> str:
    return ECHO.format(signature=signature, body=body)


@requirement("generators.plugins.interfaces")
@pytest.mark.parametrize(
    ("signature", "body", "text"),
    [
        ("self, config, context=None", "config.id + context['text']", "notehi"),
        ("self, context, config", "config.metadata.description + context['text']", "About notehi"),
        ("self, *, config, context", "config.id + context['text']", "notehi"),
        ("self, config: dict, context: dict", "config['id'] + context['text']", "notehi"),
        ("self, config: 'Mapping[str, Any]', /, context", "config['id'] + context['text']", "notehi"),
        ("self, template, context", "template + context['text']", "t.txt: hi"),
        ("self, config, more=1, *rest, **others", "config.id", "note"),
        ("self", "'x'", "x"),
    ],
)
async def test_every_interface_of_chora_compose_is_supported(tmp_path: Path, signature: str, body: str, text: str):
    """By parameter names, in whichever order."""
    write(tmp_path, "t.txt: ", "t.txt")
    generator = plugin(tmp_path, echo(signature, body), "echo_generator.py")
    made = await make(generator, job(tmp_path, template="t.txt"))
    assert made == GeneratedText(text, (), "t.txt")
    assert (generator.name, generator.version, generator.capabilities) == ("echo", "2.0.0", ("text",))
    assert generator.description == "Says what it is given."
    assert generator.source_digest


def test_a_class_is_named_by_its_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """GENERATOR_TYPE of the module, else of the class, else the file's name; for a module, its last part."""
    in_class = echo("self", "''").replace("version", "GENERATOR_TYPE = 'by-class'\n    version")
    assert plugin(tmp_path, "GENERATOR_TYPE = 'by-module'" + in_class).name == "by-module"
    assert plugin(tmp_path, in_class).name == "by-class"
    assert plugin(tmp_path, echo("self", "''"), "deep/upper_generator.py").name == "upper"
    write(tmp_path, echo("self", "''"), "plugin_of_test_echo.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert "plugin_of_test_echo" in GeneratorRegistry(GENERATORS, ["plugin_of_test_echo"], Folder(tmp_path)).by_name
    assert "lacks NAME" in refused(tmp_path, write(tmp_path, echo("self", "''"), "Upper.py"))


async def test_a_base_class_in_the_same_file_does_not_count(tmp_path: Path):
    """The most derived class is the generator; two unrelated classes are refused."""
    family = echo("self, config", "'base'") + "class Upper(Echo):\n  def generate(self, config): return 'upper'\n"
    assert (await make(plugin(tmp_path, family), job(tmp_path))).text == "upper"
    other = family + "class Other:\n  def generate(self): return ''\n"
    assert "more than one class that generates: Upper, Other" in refused(tmp_path, write(tmp_path, other))


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (echo("self, config, client", "''"), "its generate requires client"),
        ("class A:\n  def __init__(self, x): pass\n  def generate(self): pass", "A() failed: TypeError"),
        ("class A:\n  pass", "lacks NAME"),
        ("class A:\n  generate = 1", "lacks NAME"),
    ],
)
def test_a_class_that_can_not_be_used_is_refused(tmp_path: Path, source: str, said: str):
    """At the start of the server."""
    assert said in refused(tmp_path, write(tmp_path, source))


def test_the_base_class_of_chora_compose_is_not_needed(tmp_path: Path):
    """The hint says what to do about the import."""
    write(tmp_path, "from chora_compose.generators.base import GeneratorStrategy")
    with pytest.raises(UsageError) as failed:
        GeneratorRegistry(GENERATORS, ["shout.py"], Folder(tmp_path))
    assert "Leave out the import and the base class" in str(failed.value.hint)


async def test_a_class_is_given_copies(tmp_path: Path):
    """Changes that it makes to its context affect nothing else."""
    generator = plugin(tmp_path, echo("self, context", "context['list'].append(1) or 'x'"))
    context: dict[str, Any] = {"list": []}
    await make(generator, job(tmp_path, context))
    assert context == {"list": []}


async def test_a_class_may_validate_its_context(tmp_path: Path):
    """Required keys and its own validation are checked first."""
    needs = echo("self, context", "'x'")
    as_method = needs + "    def get_required_context_keys(self): return ['who', 'what']\n"
    as_list = needs + "    required_context_keys = ['who', 'what']\n"
    for source in (as_method, as_list):
        with pytest.raises(GenerationFailed, match="lacks what") as failed:
            await make(plugin(tmp_path, source), job(tmp_path, {"who": 1}))
        assert failed.value.details["missing_variable"] == "what"
    checks = plugin(tmp_path, needs + "    def validate_context(self, context): return 'who' in context\n")
    assert (await make(checks, job(tmp_path, {"who": 1}))).text == "x"
    with pytest.raises(GenerationFailed, match="refuses the context"):
        await make(checks, job(tmp_path, {}))


async def test_a_class_may_generate_asynchronously(tmp_path: Path):
    """Its coroutine runs in the event loop; its result must be a text as well."""
    source = echo("self, config", "config.id").replace("def generate", "async def generate")
    assert (await make(plugin(tmp_path, source), job(tmp_path))).text == "note"
    with pytest.raises(GenerationFailed, match="returned no text"):
        await make(plugin(tmp_path, echo("self", "7")), job(tmp_path))


async def test_concurrency_safe_false_serializes_calls(tmp_path: Path):
    """Other classes run in parallel."""
    source = """
import threading
most = now = 0
lock = threading.Lock()
meeting = threading.Barrier(2)
class Careful:
    upstream_dependencies = {"concurrency_safe": SAFE}
    def generate(self, config):
        global most, now
        with lock:
            now += 1
            most = max(most, now)
        try:  # two that may overlap meet; of two that may not, each gives the other time to come
            meeting.wait(60 if SAFE else 0.3)
        except threading.BrokenBarrierError:
            pass
        with lock:
            now -= 1
        return "x"
"""
    for safe in (False, True):
        generator = plugin(tmp_path, source.replace("SAFE", str(safe)))
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(partial(generator.generate_text, job(tmp_path)))
        assert sys.modules[generator.module.__name__].most == (2 if safe else 1)
    assert threading.active_count() < 50


@pytest.mark.parametrize(
    ("dependencies", "shown"),
    [
        (
            '{"services": ["api.example"], "concurrency_safe": True}',
            {"services": ["api.example"], "concurrency_safe": True},
        ),
        ("None", {}),
        ("object()", {}),
        ("[1]", {}),
    ],
)
def test_what_a_class_needs_is_known(tmp_path: Path, dependencies: str, shown: dict[str, Any]):
    """Its services and the context that it requires, for the capabilities; what is no JSON object is left out."""
    source = f"""
class Careful:
    upstream_dependencies = {dependencies}
    def get_required_context_keys(self):
        return ["title"]
    def generate(self, config):
        return "x"
"""
    generator = plugin(tmp_path, source)
    assert generator.upstream_dependencies == shown
    assert generator.required_context_keys == ("title",)


# -- composers --------------------------------------------------------------------------------------------------

COMPOSER = """
NAME = "woven"
async def compose(pieces, context, options):
    return options["by"].join(piece["text"] for piece in pieces)
"""


async def test_a_composer_is_loaded_by_name(tmp_path: Path):
    """As generators are, with a digest of its source."""
    found = load_composers([write(tmp_path, COMPOSER)], Folder(tmp_path))
    assert list(found) == ["woven"]
    assert await found["woven"].compose([{"text": "a"}, {"text": "b"}], {}, {"by": "-"}) == "a-b"
    assert len(source_digest(found["woven"])) == 64
    assert load_composers([], Folder(tmp_path)) == {}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("1/0", "ZeroDivisionError"),
        (COMPOSER.replace("NAME", "N"), "lacks NAME"),
        (COMPOSER.replace("async ", ""), "lacks `async def compose(pieces, context, options)`"),
        (COMPOSER.replace("context, ", ""), "doesn't take (pieces, context, options)"),
    ],
)
def test_a_broken_composer_stops_the_start(tmp_path: Path, source: str, said: str):
    """With the same messages, about its own setting."""
    with pytest.raises(UsageError) as failed:
        load_composers([write(tmp_path, source)], Folder(tmp_path))
    assert said in failed.value.message
    assert failed.value.details["setting"] == "plugins.composers"


def test_two_composers_of_one_name_are_refused(tmp_path: Path):
    """Which of them is meant would be ambiguous."""
    specs = [write(tmp_path, COMPOSER, "a.py"), write(tmp_path, COMPOSER, "b.py")]
    with pytest.raises(UsageError, match="the name woven is taken"):
        load_composers(specs, Folder(tmp_path))


# -- the guide --------------------------------------------------------------------------------------------------


async def test_the_guide_works(tmp_path: Path):
    """Its generator loads from its settings, and generates what the guide says from its config."""
    import tomllib

    import msgspec

    page = (ROOT / "docs/howto/write-a-generator.md").read_text("utf-8")
    files = dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    for name, text in files.items():
        write(tmp_path, text, name)
    specs = tomllib.loads(files["chora.toml"])["plugins"]["generators"]
    found = GeneratorRegistry(GENERATORS, specs, Folder(tmp_path))
    config = msgspec.json.decode(files["configs/content/time.json"])
    (pattern,) = config["generation"]["patterns"]
    generator = found.by_name[pattern["type"]]
    made = await make(generator, job_of(tmp_path, pattern, {"text": "word " * 251}))
    assert made == GeneratedText("Reading time: 2 min\n")
    with pytest.raises(GenerationFailed, match="there is no text"):
        await make(generator, job_of(tmp_path, pattern, {}))
