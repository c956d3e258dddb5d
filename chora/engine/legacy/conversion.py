"""Configs of other chora-compose dialects, turned into the ones that chora reads.

The manuals, releases and users of chora-compose put the same things in other places and under other names. What has an
equivalent is moved there and listed as a change; what has none is left as it is and listed too. Whether the result is a
valid config is decided by `chora.config_parsing`.
"""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import PurePosixPath
from typing import Any, NamedTuple, cast

import msgspec

from chora.model import KINDS, Kind

FORMATS = {
    ".md": "markdown",
    ".json": "json",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".html": "html",
    ".xml": "xml",
    ".txt": "text",
    ".feature": "bdd",
}
"""The format of an output by its file extension; others are code."""

ELEMENT_FORMATS = ("markdown", "code", "text", "json", "yaml", "gherkin", "section")
_OTHER_FORMATS = {
    "jinja2": "text",
    "md": "markdown",
    "txt": "text",
    "plain": "text",
    "html": "text",
    "feature": "gherkin",
}
_PEOPLE = {"user_input", "human", "manual"}
"""Names that elements gave as generator for texts that a person writes."""


class Conversion(NamedTuple):
    """A document in the dialect that chora reads, what was changed for that, and what has no place in it."""

    kind: Kind
    document: dict[str, Any]
    changes: list[str]
    left: list[str]


def kind_of(document: dict[str, Any]) -> Kind | None:
    """The kind of config that a document is, in whichever dialect; None if it is none."""
    word = str(document.get("type", "")).removesuffix("_config").removesuffix("_element")
    if word in KINDS:
        return word
    for kind, keys in _MARKS.items():
        if any(key in document for key in keys):
            return kind
    return None


_MARKS: dict[Kind, tuple[str, ...]] = {
    "collection": ("collection_config", "collection_id"),
    "artifact": ("artifact_config", "artifact_id", "composition"),
    "content": ("content_config", "content_id", "content_elements", "content_element", "generator_type"),
}
"""Keys that show the kind of a config that doesn't state it; the kinds that contain others come first."""


def convert(kind: Kind, document: dict[str, Any], path: str) -> Conversion:
    """Convert a document; it is left as it is.

    Args:
        kind: its kind.
        document: the document.
        path: of its file, which gives what else is missing, such as an id.
    """
    conversion = _Conversion(kind, deepcopy(document), path)
    conversion.convert()
    return Conversion(kind, conversion.document, conversion.changes, conversion.left)


class _Conversion:
    def __init__(self, kind: Kind, document: dict[str, Any], path: str) -> None:
        self.kind: Kind = kind
        self.document = document
        self.changes: list[str] = []
        self.left: list[str] = []
        self._path = path

    def convert(self) -> None:
        self._unwrap()
        self._set_type()
        self._set_id()
        if self.kind != "collection":
            self._set_schema()
        match self.kind:
            case "content":
                self._describe("description", 500)
                self._convert_generation()
                self._name_patterns()
                self._convert_elements()
            case "artifact":
                self._describe("purpose", 1000)
                self._convert_children()
                self._convert_outputs()
            case "collection":
                self._convert_collection()
        # The file begins with its type and id, as all configs do.
        first = {
            key: self.document[key] for key in ("type", "id", "schemaRef", "name", "metadata") if key in self.document
        }
        self.document = first | self.document

    def _unwrap(self) -> None:
        key = f"{self.kind}_config"
        if (inner := _object(self.document.get(key))) is not None:
            del self.document[key]
            self.document = inner | self.document
            self.changes.append(f"{key}: its keys stand at the top level")

    def _set_type(self) -> None:
        if self.document.get("type") != self.kind:
            found = self.document.get("type")
            self.document["type"] = self.kind
            self.changes.append(f'type: "{self.kind}"' + (f" instead of {found!r}" if found else ""))

    def _set_id(self) -> None:
        found = self._take(f"{self.kind}_id")
        stem = PurePosixPath(self._path).name.partition(".")[0]
        given = str(self.document.get("id") or found or stem.removesuffix(f"-{self.kind}"))
        name = slug(given)
        if self.document.get("id") != name:
            self.document["id"] = name
            self.changes.append(f'id: "{name}"' + (f" instead of {given!r}" if given != name else ""))

    def _set_schema(self) -> None:
        right = {"id": f"{self.kind}-schema", "version": "3.1"}
        if self.document.get("schemaRef") != right:
            self.document["schemaRef"] = right
            self.changes.append(f"schemaRef: {right['id']} {right['version']}")

    def _describe(self, key: str, longest: int) -> None:
        """Fill in the metadata that every config of the kind has."""
        metadata = _object(self.document.get("metadata")) or {}
        self.document["metadata"] = metadata
        for name in ("description", "version", "title", "purpose", "output_format"):
            if name in self.document and name not in metadata:
                metadata[name] = self.document.pop(name)
                self.changes.append(f"{name}: moved into metadata")
        title = str(metadata.get("title") or metadata.get("name") or self.document["id"].replace("-", " "))
        if not metadata.get(key):
            others = ("purpose", "description")
            metadata[key] = next((str(metadata[name]) for name in others if metadata.get(name)), title)[:longest]
            self.changes.append(f"metadata.{key}: {metadata[key]!r}")
        if self.kind == "artifact" and not metadata.get("title"):
            metadata["title"] = title[:200]
            self.changes.append(f"metadata.title: {metadata['title']!r}")
        if self.kind == "content" and metadata.get("version") in (None, ""):
            metadata["version"] = "1.0.0"
            self.changes.append('metadata.version: "1.0.0"')

    # -- content --

    def _convert_generation(self) -> None:
        """Find the one pattern, wherever the dialect has it."""
        document = self.document
        generation = _object(document.get("generation"))
        given: dict[str, Any] = {}
        if generation is not None and (generator := generation.pop("generator", None)) is not None:
            given = _object(generator) or {"type": str(generator)}
            self.changes.append("generation.generator: is the first pattern")
        if (found := self._take("generator_type")) is not None:
            given["type"] = found
            self.changes.append("generator_type: is the first pattern's type")
        if (found := self._take("template_path")) is not None:
            given["template"] = found
            self.changes.append("template_path: is the first pattern's template")
        if (template := _object(document.get("elements"))) is not None and "template" in template:
            given["template"] = template.pop("template")
            self.changes.append("elements.template: is the first pattern's template")
            del document["elements"]
            self.left += [f"elements.{key}" for key in template]
        if not given:
            return
        for key in ("context", "variables"):
            if (options := _object(document.get(key))) is not None:
                del document[key]
                given.setdefault("generation_config", {}).setdefault("context", {}).update(options)
                self.changes.append(f"{key}: is the first pattern's context")
        given.setdefault("type", "jinja2" if "template" in given else "demonstration")
        document.setdefault("generation", {}).setdefault("patterns", []).insert(0, given)

    def _convert_elements(self) -> None:
        for key in ("content_elements", "content_element"):
            if (found := self._take(key)) is not None and "elements" not in self.document:
                self.document["elements"] = found
                self.changes.append(f"{key}: is called elements")
        elements = self.document.get("elements")
        if (record := _object(elements)) is not None:
            if "name" in record or "id" in record or "format" in record:
                elements = [record]
            else:
                elements = [
                    {"name": name, **(_object(each) or {"example_output": each})} for name, each in record.items()
                ]
            self.changes.append("elements: is a list")
        if not isinstance(elements, list):
            return
        converted = [self._element(each, place) for place, each in enumerate(cast("list[object]", elements))]
        if converted:
            self.document["elements"] = converted
        else:
            del self.document["elements"]
            self.changes.append("elements: left out, it was empty")

    def _element(self, given: object, place: int) -> object:
        element = _object(given) or ({"example_output": given} if isinstance(given, str) else None)
        if element is None:
            return given
        where = f"elements[{place}]"
        example = element.get("example_output")
        if example is not None and not isinstance(example, str):
            element["example_output"] = msgspec.json.format(msgspec.json.encode(example), indent=2).decode()
            self.changes.append(f"{where}.example_output: is text, of the value as JSON")
        if "name" not in element:
            named = str(element.pop("id", "") or f"part-{place + 1}")
            element = {"name": slug(named, "_-"), **element}
            self.changes.append(f"{where}.name: {element['name']!r}")
        found = str(element.get("format") or element.get("output_format") or "text")
        if element.get("format") not in ELEMENT_FORMATS:
            fitting = found if found in ELEMENT_FORMATS else _OTHER_FORMATS.get(found, "code")
            element["format"] = fitting
            if fitting == "code":
                element.setdefault("output_format", found)
            self.changes.append(f"{where}.format: {fitting!r}")
        pattern = element.pop("generation_pattern", None)
        template = element.pop("template", None) or element.pop("template_file", None)
        if pattern in _PEOPLE:
            element.setdefault("generation_source", "human")
            self.changes.append(f"{where}.generation_pattern: is generation_source human")
        elif pattern is not None or template is not None:
            self._pattern_of_element(where, pattern, template)
        return element

    def _pattern_of_element(self, where: str, pattern: object, template: object) -> None:
        """A config has one pattern for all of its elements."""
        patterns = self.document.setdefault("generation", {}).setdefault("patterns", [])
        wanted: dict[str, Any] = {"type": str(pattern or ("jinja2" if template else "demonstration"))}
        if template is not None:
            wanted["template"] = template
        if not patterns:
            patterns.append({"id": "main", **wanted})
            self.changes.append(f"{where}: its generator is the config's")
        elif any(patterns[0].get(key) != value for key, value in wanted.items()):
            self.left.append(f"{where}: a generator of its own, {wanted}")

    def _name_patterns(self) -> None:
        generation = _object(self.document.get("generation")) or {}
        patterns = cast("list[object]", generation.get("patterns") or [])
        taken = {str(pattern.get("id")) for each in patterns if (pattern := _object(each)) is not None}
        for place, pattern in enumerate(_object(each) for each in patterns):
            if pattern is None:
                continue
            where = f"generation.patterns[{place}]"
            if not pattern.get("id"):
                free = (name for name in ("main", *(f"main-{number}" for number in range(2, 999))) if name not in taken)
                pattern["id"] = next(free)
                taken.add(pattern["id"])
                self.changes.append(f"{where}.id: {pattern['id']!r}")
            if "template" not in pattern and "template_file" in pattern:
                pattern["template"] = pattern.pop("template_file")
                self.changes.append(f"{where}.template_file: is called template")

    # -- artifact --

    def _convert_children(self) -> None:
        document = self.document
        if (composition := _object(document.get("composition"))) is not None:
            del document["composition"]
            if (members := composition.pop("members", None) or composition.pop("children", None)) is not None:
                document.setdefault("content", {}).setdefault("children", members)
                self.changes.append("composition.members: are content.children")
            if (strategy := composition.pop("strategy", None)) is not None:
                document["metadata"].setdefault("compositionStrategy", strategy)
                self.changes.append("composition.strategy: is metadata.compositionStrategy")
            self.left += [f"composition.{key}" for key in composition]
        content = _object(document.get("content"))
        children = content.get("children") if content is not None else None
        if content is not None and isinstance(children, list):
            given = cast("list[object]", children)
            content["children"] = [
                self._member(each, place, "content.children", "content") for place, each in enumerate(given)
            ]

    def _member(self, given: object, place: int, at: str, folder: str) -> object:
        member = _object(given) or ({"id": given} if isinstance(given, str) else None)
        if member is None:
            return given
        named = str(member.pop("content_id", "") or member.pop("artifact_id", "") or member.get("id", ""))
        if not named and isinstance(member.get("path"), str):
            named = PurePosixPath(member["path"]).name.partition(".")[0]
        name = slug(named)
        if member.get("id") != name:
            member = {**member, "id": name}
            self.changes.append(f"{at}[{place}].id: {name!r}")
        if not member.get("path"):
            member["path"] = f"configs/{folder}/{name}.json"
            self.changes.append(f"{at}[{place}].path: {member['path']!r}")
        return member

    def _convert_outputs(self) -> None:
        document, metadata = self.document, self.document["metadata"]
        files: list[str] = []
        if (output := _object(document.get("output"))) is not None:
            del document["output"]
            files = [str(found) for key in ("primary_file", "file", "path") if (found := output.pop(key, None))]
            self.left += [f"output.{key}" for key in output]
        for key in ("output_path", "output_file"):
            if (found := self._take(key)) is not None:
                files.append(str(found))
        if "outputs" in document and "outputs" not in metadata:
            metadata["outputs"] = document.pop("outputs")
            self.changes.append("outputs: moved into metadata")
        if files and not metadata.get("outputs"):
            metadata["outputs"] = [{"file": file} for file in files]
            self.changes.append("metadata.outputs: from the file that was named")
        if isinstance(outputs := metadata.get("outputs"), list):
            metadata["outputs"] = [
                self._output(each, place) for place, each in enumerate(cast("list[object]", outputs))
            ]

    def _output(self, given: object, place: int) -> object:
        output = _object(given) or ({"file": given} if isinstance(given, str) else None)
        if output is not None and isinstance(output.get("file"), str) and "format" not in output:
            output["format"] = FORMATS.get(PurePosixPath(output["file"]).suffix, "code")
            self.changes.append(f"metadata.outputs[{place}].format: {output['format']!r}")
        return output if output is not None else given

    # -- collection --

    def _convert_collection(self) -> None:
        document = self.document
        if not document.get("name"):
            metadata = _object(document.get("metadata")) or {}
            document["name"] = str(metadata.get("title") or document["id"].replace("-", " "))
            self.changes.append(f"name: {document['name']!r}")
        if (composition := _object(document.get("composition"))) is not None and "members" in composition:
            document.setdefault("members", composition.pop("members"))
            self.changes.append("composition.members: are members")
            del document["composition"]
            self.left += [f"composition.{key}" for key in composition]
        if isinstance(members := document.get("members"), list):
            given = cast("list[object]", members)
            document["members"] = [self._member(each, place, "members", "artifact") for place, each in enumerate(given)]
            for place, member in enumerate(_object(each) for each in document["members"]):
                if member is not None and "type" not in member:
                    member["type"] = "artifact"
                    self.changes.append(f"members[{place}].type: 'artifact'")
        if _object(document.get("output")) is None:
            found = document.get("output")
            document["output"] = {
                "base_path": found if isinstance(found, str) else f"outputs/collections/{document['id']}"
            }
            self.changes.append(f"output.base_path: {document['output']['base_path']!r}")

    def _take(self, key: str) -> Any:
        """Remove a key and return its value."""
        return self.document.pop(key, None)


def slug(text: str, kept: str = "-") -> str:
    """A text as an id: lower-case letters, digits and `kept`, beginning with a letter."""
    plain = re.sub(rf"[^a-z0-9{re.escape(kept)}]+", "-", text.lower()).strip("-_")
    return plain if re.match("[a-z]", plain) else f"x-{plain}".rstrip("-")


def _object(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None
