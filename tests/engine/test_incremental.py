"""An incremental build equals a full one: whatever changes between two builds, the second leaves the files that a
build from scratch leaves."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
import trio
from hypothesis import HealthCheck, example, given
from hypothesis import strategies as st

from chora import settings
from chora.engine.building.build import Build, CallerContext
from chora.engine.building.collection import build_collection
from chora.engine.engine import Engine, open_engine
from chora.errors import ChoraError
from chora.events import Events
from chora.store import SqliteStore
from tests.conftest import Project, artifact, child, content, requirement

LETTERS = "abc"
words = st.sampled_from(["one", "two", "three", ""])
letters = st.sampled_from(LETTERS)
names = st.sampled_from("xy")


class Workshop(Project):
    """A project that is edited and built in turn."""

    def begin(self) -> None:
        """Three contents with a template each; two artifacts; a collection in a collection."""
        self.write("chora.toml", "")
        self.write("data/shared.json", '{"word": "shared"}')
        for letter in LETTERS:
            self.write(f"data/{letter}.txt", letter)
            self.template(letter, "first", "")
            self.content(letter, [])
        self.artifact("x", ["a", "b"])
        self.artifact("y", ["b", "c"])
        self.collections("parallel", "nested", "?")

    def content(self, letter: str, more: list[dict[str, Any]]) -> None:
        own = {"id": "own", "source_type": "external_file", "source_locator": f"data/{letter}.txt", "required": False}
        shared = {"id": "shared", "source_type": "external_file", "source_locator": "data/shared.json"}
        pattern = {"type": "jinja2", "template": f"{letter}.j2", "generation_config": {"undefined": "lenient"}}
        document = content(letter, pattern=pattern, sources=[own, shared, *more])
        nested = self.root / f"configs/content/{letter}/{letter}-content.json"
        place = nested if nested.exists() else self.root / f"configs/content/{letter}.json"
        self.write(str(place), msgspec.json.encode(document))

    # -- what a person may do --

    def data(self, letter: str, word: str) -> None:
        self.write(f"data/{letter}.txt", word)

    def no_data(self, letter: str) -> None:
        (self.root / f"data/{letter}.txt").unlink(missing_ok=True)

    def shared_data(self, word: str) -> None:
        self.write("data/shared.json", msgspec.json.encode({"word": word}))

    def template(self, letter: str, word: str, included: str) -> None:
        include = f"{{% include '{included}.j2' %}}" if included > letter else ""
        shown = " ".join(f"{{{{ {name} }}}}" for name in ("own", "shared.word", "extra", "member_id", "other"))
        body = f"{word} {letter} {shown} {include}\n"
        self.write(f"configs/templates/{letter}.j2", body)

    def shadow(self, letter: str, word: str) -> None:
        """Add a template of the same name in a folder with higher precedence."""
        self.write(f"templates/{letter}.j2", f"shadow {word}\n")

    def no_shadow(self, letter: str) -> None:
        (self.root / f"templates/{letter}.j2").unlink(missing_ok=True)

    def text_of(self, letter: str, other: str, kind: str = "content_config") -> None:
        selector = {"data_selector": "output"} if kind == "content_config" else {}
        more = {"id": "other", "source_type": kind, "source_locator": other, **selector}
        self.content(letter, [more] if other > letter else [])

    def artifact(self, name: str, children: list[str], strategy: str = "concat") -> None:
        parts = [child(letter, required=letter != "c", order=order) for order, letter in enumerate(children)]
        self.save(artifact(name, parts, compositionStrategy=strategy))

    def move(self, letter: str) -> None:
        """Move a config to the other layout, or back."""
        flat, nested = (self.root / f"configs/content/{place}.json" for place in (letter, f"{letter}/{letter}-content"))
        if flat.exists():
            nested.parent.mkdir(exist_ok=True)
            flat.rename(nested)
        else:
            nested.rename(flat)

    def rival(self, letter: str, word: str) -> None:
        """Another config with the same id, in a place that is searched first."""
        shown = [{"name": "body", "format": "text", "example_output": f"rival {word}"}]
        self.write(f"configs/content/{letter}.yaml", msgspec.json.encode(content(letter, elements=shown)))

    def artifact_rival(self, word: str) -> None:
        """A file with the name of the inner collection's member, in a place that is searched first."""
        shown = artifact("y", [child("a" if word else "b")])
        self.write("y.json", msgspec.json.encode(shown))

    def no_rival(self, letter: str) -> None:
        (self.root / f"configs/content/{letter}.yaml").unlink(missing_ok=True)

    def collections(self, strategy: str, structure: str, extra: str) -> None:
        inner = {
            "type": "collection",
            "id": "inner",
            "name": "Inner",
            "members": [{"id": "y", "type": "artifact", "path": "y.json"}],
            "output": {"base_path": "outputs/inner", "structure": structure},
        }
        outer = {
            "type": "collection",
            "id": "outer",
            "name": "Outer",
            "members": [
                {"id": "x", "type": "artifact", "path": "configs/artifact/x.json"},
                {"id": "inner", "type": "collection", "path": "inner"},
            ],
            "context": {
                "shared": {"sources": [{"type": "external_file", "path": "data/shared.json"}]},
                "overrides": {"x": {"extra": extra}},
            },
            "generation": {"strategy": strategy},
            "output": {"base_path": "outputs/{{ collection_id }}", "structure": structure},
        }
        self.save(inner, outer)

    def remove_outputs(self) -> None:
        shutil.rmtree(self.root / "outputs", ignore_errors=True)


def change(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, tuple[Any, ...]]]:
    return st.tuples(st.just(name), st.tuples(*arguments))


changes = st.one_of(
    change("data", letters, words),
    change("no_data", letters),
    change("shared_data", words),
    change("template", letters, words, st.sampled_from(["", *LETTERS])),
    change("shadow", letters, words),
    change("no_shadow", letters),
    change("text_of", letters, letters, st.sampled_from(["content_config", "ephemeral_output"])),
    change(
        "artifact",
        names,
        st.lists(letters, min_size=1, max_size=3, unique=True),
        st.sampled_from(["concat", "merge"]),
    ),
    change("move", letters),
    change("rival", letters, words),
    change("no_rival", letters),
    change("artifact_rival", words),
    change(
        "collections",
        st.sampled_from(["parallel", "sequential", "mixed"]),
        st.sampled_from(["nested", "flat"]),
        words,
    ),
    change("remove_outputs"),
    change("reopen"),
)


async def build_outer(engine: Engine, output_path: str | None) -> str | None:
    """Build the collection `outer`; return the code of the failure, if any."""
    try:
        parsed = engine.catalog.open_config("collection", "outer").parsed
        await build_collection(Build(engine), parsed, CallerContext({}), output_path=output_path)
    except ChoraError as error:
        return error.code
    else:
        return None


def files(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text("utf-8") for file in sorted(folder.rglob("*.md"))}


async def run_steps(root: Path, steps: list[tuple[str, tuple[Any, ...]]]) -> None:
    """Change and build in turn, and compare every build with one from scratch."""
    workshop = Workshop(root)
    workshop.begin()
    waiting = [*steps]
    while waiting:
        async with open_engine(root, settings.load(root, {}).settings) as engine:
            while waiting:
                failed = await build_outer(engine, None)
                blank = Engine(
                    folder=engine.folder,
                    catalog=engine.catalog,
                    templates=engine.templates,
                    store=SqliteStore(None),
                    events=Events(None),
                    settings=engine.settings,
                )
                shutil.rmtree(root / "full", ignore_errors=True)
                assert await build_outer(blank, "full") == failed
                blank.store.close()
                if failed is None:
                    full, made = files(root / "full"), files(root / "outputs/outer")
                    assert {name: made.get(name) for name in full} == full
                name, arguments = waiting.pop(0)
                if name == "reopen":
                    break
                getattr(workshop, name)(*arguments)


@requirement("cache.incremental")
@pytest.mark.slow("builds a few hundred collections, each twice")
@hypothesis.settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([("move", ("a",)), ("rival", ("a", "one")), ("no_rival", ("a",)), ("move", ("a",))])
@example([("text_of", ("a", "b")), ("data", ("b", "two")), ("template", ("b", "three", "c")), ("data", ("c", "one"))])
@example([("artifact", ("x", ["a"], "concat")), ("text_of", ("a", "b")), ("data", ("b", "two"))])
@example(
    [("text_of", ("b", "c", "ephemeral_output")), ("data", ("c", "two")), ("reopen", ()), ("shared_data", ("one",))]
)
@example(
    [("text_of", ("b", "c", "ephemeral_output")), ("text_of", ("a", "b", "ephemeral_output")), ("data", ("c", ""))]
)
@example([("artifact_rival", ("one",)), ("artifact_rival", ("",))])
@example([("shadow", ("b", "one")), ("reopen", ()), ("no_shadow", ("b",)), ("remove_outputs", ())])
@example([("no_data", ("a",)), ("data", ("a", "one")), ("no_data", ("a",)), ("no_data", ("b",))])
@given(st.lists(changes, min_size=4, max_size=14))
def test_an_incremental_build_equals_a_full_one(steps: list[tuple[str, tuple[Any, ...]]]):
    """Over data, templates that include and shadow one another, texts of other texts, configs that move or get a
    rival, outputs that vanish, and processes that end and begin."""
    with tempfile.TemporaryDirectory() as folder:
        trio.run(run_steps, Path(folder).resolve(), steps)
