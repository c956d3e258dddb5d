"""The three config formats as frozen Structs, and the reading of raw documents into them.

A document is read tolerantly: `read` works on a copy, turns every known deviation into what the format says
(one `Issue` each, naming what to write), and converts the copy into a Struct. Only when that fails is
jsonschema imported, to collect every fault at once. The raw document stays as it was and is what gets saved,
so keys that chora doesn't know survive.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, cast

import msgspec
from msgspec import UNSET, Meta, Struct, inspect

from chora.errors import ValidationFailed

if TYPE_CHECKING:
    from jsonschema import ValidationError as JsonSchemaError

Kind = Literal["content", "artifact", "collection"]

KINDS: tuple[Kind, ...] = ("content", "artifact", "collection")
DEEPEST = 64
"""Levels of nesting a document may have."""
MOST_ISSUES = 100
"""Remarks, and faults, that one reading reports; a file with more has one fault many times."""

# -- words --------------------------------------------------------------------------------------------------

_ID = "^[a-z][a-z0-9-]*$"
_COLLECTION_ID = "^[a-z0-9][a-z0-9-]*$"
_MEMBER_ID = "^[A-Za-z0-9][A-Za-z0-9._-]*$"
_NAME = "^[a-z][a-z0-9_-]*$"
_LANDING = "^[A-Za-z_][A-Za-z0-9_-]*$"
_VARIABLE = "^[a-zA-Z_][a-zA-Z0-9_]*$"
_VERSION = r"^\d+\.\d+\.\d+$"
_SCHEMA_VERSION = r"^\d+\.\d+(\.\d+)?$"

_PATTERNS = {
    _ID: "lower-case letters, digits and hyphens, beginning with a letter",
    _COLLECTION_ID: "lower-case letters, digits and hyphens",
    _MEMBER_ID: "letters, digits, dots, hyphens and underscores, beginning with a letter or digit",
    _NAME: "lower-case letters, digits, hyphens and underscores, beginning with a letter",
    _LANDING: "letters, digits, hyphens and underscores, not beginning with a digit or hyphen",
    _VARIABLE: "letters, digits and underscores, not beginning with a digit",
    _VERSION: "a version of three numbers",
    _SCHEMA_VERSION: "a version of two or three numbers",
}
"""What each pattern means, for people."""

Id = Annotated[str, Meta(pattern=_ID, max_length=255, examples=["my-config"])]
Name = Annotated[str, Meta(pattern=_NAME, max_length=255, examples=["intro"])]
Version = Annotated[str, Meta(pattern=_VERSION, examples=["1.0.0"])]
NotEmpty = Annotated[str, Meta(min_length=1)]
Order = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]
Days = Annotated[float, Meta(gt=0)]
Landing = Annotated[str, Meta(pattern=_LANDING, examples=["readings"])]

SourceType = Literal[
    "content_config", "artifact_config", "ephemeral_output", "external_file", "git_reference", "inline_data"
]
Stage = Literal["draft", "review", "approved", "deprecated"]
Severity = Literal["error", "warning", "info"]
OutputFormat = Literal[
    "markdown", "json", "yaml", "python", "javascript", "typescript", "gherkin", "text", "html", "xml"
]

# -- what the formats share ---------------------------------------------------------------------------------


class Source(Struct, frozen=True, kw_only=True):
    """Where a piece of context comes from; both written spellings become this one."""

    type: SourceType
    id: str = ""
    """The context name the result lands under; empty: the keys of an object land one by one."""
    locator: str = ""
    """A path, an id, `ref:path` for git; for inline data its JSON, or the text that isn't JSON."""
    selector: str = ""
    """The part to take; empty means everything."""
    required: bool = True
    notes: str | None = None
    data: Any = None
    """The value itself, for inline data."""
    repository: str = "."
    """The git repository, relative to the project."""


class LongSource(Struct, frozen=True, kw_only=True):
    """A context source as content configs spell it."""

    id: Annotated[Name, Meta(description="Context name the result lands under", examples=["readings"])]
    source_type: Annotated[SourceType, Meta(description="What kind of thing the locator names")]
    source_locator: Annotated[
        NotEmpty,
        Meta(
            description="A path (external_file), an id or path (content_config, artifact_config), ref:path "
            "(git_reference), content-id or content-id:strategy (ephemeral_output), JSON text or plain text "
            "(inline_data)",
            examples=["data/readings.json"],
        ),
    ]
    data_selector: Annotated[
        str,
        Meta(
            description="Part to take: whole_content, JSONPath ($.a.b), Markdown heading (## Title), "
            "function:name, class:name, line range (10-20)"
        ),
    ] = "whole_content"
    required: Annotated[bool, Meta(description="Whether its failure fails the whole call")] = True
    notes: Annotated[str | None, Meta(description="For people")] = None


class ShortSource(Struct, frozen=True, kw_only=True):
    """A context source as collection configs spell it: one key per type instead of a locator."""

    type: Annotated[SourceType, Meta(description="What kind of source this is")]
    id: Annotated[
        Landing | None,
        Meta(description="Context name the result lands under; without it an object's keys land one by one"),
    ] = None
    output_as: Annotated[Landing | None, Meta(description="Another spelling of id")] = None
    data: Annotated[Any, Meta(description="The value (inline_data)")] = UNSET
    path: Annotated[str | None, Meta(description="File, relative to the project (external_file)")] = None
    repo: Annotated[str | None, Meta(description="Repository, relative to the project (git_reference)")] = None
    repo_path: Annotated[str | None, Meta(description="Another spelling of repo")] = None
    file: Annotated[str | None, Meta(description="Path inside the repository (git_reference)")] = None
    file_path: Annotated[str | None, Meta(description="Another spelling of file")] = None
    ref: Annotated[str | None, Meta(description="Branch, tag or commit; HEAD if absent (git_reference)")] = None
    config_id: Annotated[str | None, Meta(description="Config id or path (content_config, artifact_config)")] = None
    reference: Annotated[str | None, Meta(description="Another spelling of config_id, or of ref")] = None
    output_id: Annotated[str | None, Meta(description="content-id or content-id:strategy (ephemeral_output)")] = None
    content_id: Annotated[str | None, Meta(description="Another spelling of output_id")] = None
    selector: Annotated[str, Meta(description="Part to take, as data_selector in the long spelling")] = "whole_content"
    required: Annotated[bool, Meta(description="Whether its failure fails the whole call")] = True
    notes: Annotated[str | None, Meta(description="For people")] = None


class Sources(Struct, frozen=True, kw_only=True):
    """Context that is looked up before anything is generated."""

    sources: Annotated[tuple[Source, ...], Meta(description="Looked up in this order; a later one wins")] = ()


SchemaVersion = Annotated[str, Meta(pattern=_SCHEMA_VERSION, description="Version of the format", examples=["3.1"])]


class ContentSchemaRef(Struct, frozen=True, kw_only=True):
    """The format that a content config is written in."""

    id: Annotated[Literal["content-schema"], Meta(description="Name of the format")]
    version: SchemaVersion


class ArtifactSchemaRef(Struct, frozen=True, kw_only=True):
    """The format that an artifact config is written in."""

    id: Annotated[Literal["artifact-schema"], Meta(description="Name of the format")]
    version: SchemaVersion


class Tracking(Struct, frozen=True, kw_only=True):
    """What to keep track of; for people and tools outside chora."""

    history: Annotated[bool, Meta(description="Keep a history")] = False
    versioning: Annotated[bool, Meta(description="Keep versions")] = False


class State(Struct, frozen=True, kw_only=True):
    """Workflow flags."""

    tracking: Annotated[Tracking, Meta(description="What to keep track of")] = Tracking()


class Change(Struct, frozen=True, kw_only=True):
    """One entry of a config's history."""

    date: Annotated[str, Meta(description="When, ISO 8601", examples=["2026-03-01"])]
    type: Annotated[Literal["creation", "update", "approval", "deprecation"], Meta(description="What happened")]
    description: Annotated[str, Meta(description="What changed", examples=["First version"])]
    rationale: Annotated[str | None, Meta(description="Why")] = None


class Evolution(Struct, frozen=True, kw_only=True):
    """Where a config stands in its life."""

    stage: Annotated[Stage, Meta(description="Workflow stage; approved_only retrieval looks at it")] = "draft"
    history: Annotated[tuple[Change, ...], Meta(description="What happened so far")] = ()


# -- content ------------------------------------------------------------------------------------------------


class ContentMetadata(Struct, frozen=True, kw_only=True):
    """What a content config is for."""

    description: Annotated[
        str, Meta(min_length=1, max_length=500, description="What it is for", examples=["What this text is for"])
    ]
    version: Annotated[Version, Meta(description="Version of this config")]
    generation_frequency: Annotated[
        Literal["manual", "on_demand", "scheduled", "continuous"], Meta(description="How often it is meant to run")
    ] = "manual"
    output_format: Annotated[OutputFormat | None, Meta(description="Format of the generated text")] = None


class Instructions(Struct, frozen=True, kw_only=True, rename={"general": "global"}):
    """Guidance for generation by a language model."""

    general: Annotated[str | None, Meta(description="Guidance for everything")] = None
    system_prompt: Annotated[str | None, Meta(description="System prompt, unless generation_config has one")] = None
    user_prompt: Annotated[str | None, Meta(description="Prompt, unless generation_config has one")] = None


class EphemeralStorage(
    Struct,
    frozen=True,
    kw_only=True,
    rename={"base_path": "basePath", "subfolder_pattern": "subfolderPattern", "filename_pattern": "filenamePattern"},
):
    """Where chora-compose kept generated text; chora keeps it in its database."""

    base_path: Annotated[str | None, Meta(description="Folder")] = None
    subfolder_pattern: Annotated[str | None, Meta(description="Sub-folder, e.g. <content-id>/<version>")] = None
    filename_pattern: Annotated[str | None, Meta(description="File name, e.g. <dttm-utc>.json")] = None
    format: Annotated[Literal["json", "yaml", "text"], Meta(description="File format")] = "json"


class Element(Struct, frozen=True, kw_only=True):
    """A named piece of a content config."""

    name: Annotated[Name, Meta(description="Unique in the config")]
    format: Annotated[
        Literal["markdown", "code", "text", "json", "yaml", "gherkin", "section"],
        Meta(description="What it consists of", examples=["markdown"]),
    ]
    description: Annotated[str | None, Meta(description="What belongs here")] = None
    prompt_guidance: Annotated[str | None, Meta(description="How to write it")] = None
    output_format: Annotated[str | None, Meta(description="More exact format, e.g. the language of code")] = None
    example_output: Annotated[str | None, Meta(description="The text itself, for the demonstration generator")] = None
    generation_source: Annotated[
        Literal["ai", "human", "template", "mixed"] | None, Meta(description="Who writes it")
    ] = None
    review_status: Annotated[
        Literal["pending", "approved", "needs_revision"], Meta(description="What a reviewer said")
    ] = "pending"
    human_feedback: Annotated[str | None, Meta(description="A reviewer's words")] = None


class ContentChild(Struct, frozen=True, kw_only=True):
    """A reference to another content config."""

    id: Annotated[Id, Meta(description="Id of the config")]
    path: Annotated[NotEmpty, Meta(description="Its file", examples=["configs/content/my-config.json"])]
    required: Annotated[bool, Meta(description="Whether it must exist")] = True
    order: Annotated[Order, Meta(description="Position; equal ones keep their order here")] = 0
    version: Annotated[str | None, Meta(description="Version meant")] = None
    notes: Annotated[str | None, Meta(description="For people")] = None
    conditions: Annotated[str | None, Meta(description="For people; not evaluated")] = None


class Variable(Struct, frozen=True, kw_only=True, rename={"type": "variableType"}):
    """A name in a pattern's template, and where its value comes from."""

    name: Annotated[str, Meta(pattern=_VARIABLE, description="Name in the template", examples=["intro"])]
    type: Annotated[
        Literal["string", "number", "boolean", "array", "object"], Meta(description="Type of the value")
    ] = "string"
    source: Annotated[str | None, Meta(description="elements.NAME.example_output")] = None
    default: Annotated[Any, Meta(description="Value when the source has none")] = None


class Pattern(Struct, frozen=True, kw_only=True):
    """How the text is made; the first pattern of a config is the one that runs."""

    id: Annotated[Name, Meta(description="Unique in the config", examples=["main"])]
    type: Annotated[
        str,
        Meta(
            pattern=_NAME,
            description="Generator: demonstration, jinja2, template_fill, bdd_scenario, code_generation or a plugin's",
            examples=["jinja2"],
        ),
    ]
    template: Annotated[
        str | None, Meta(description="Template file, or the template itself if it has {{, {% or a newline")
    ] = None
    variables: Annotated[tuple[Variable, ...], Meta(description="Names used by the demonstration generator")] = ()
    generation_config: Annotated[
        dict[str, Any], Meta(description="Options of the generator; `context` holds values and declarations")
    ] = {}


class Generation(Struct, frozen=True, kw_only=True):
    """How the text of a content config is made."""

    patterns: Annotated[tuple[Pattern, ...], Meta(description="The first one runs")] = ()


class ContentRule(Struct, frozen=True, kw_only=True):
    """A check on generated text."""

    id: Annotated[NotEmpty, Meta(description="Names the rule in results", examples=["has-intro"])]
    check_type: Annotated[
        Literal["presence", "format", "lint", "syntax", "custom"], Meta(description="What is checked")
    ]
    target: Annotated[str, Meta(description="element.NAME or generated_output")] = "generated_output"
    check_config: Annotated[dict[str, Any], Meta(description="Options of the check")] = {}
    threshold: Annotated[Annotated[float, Meta(ge=0)] | None, Meta(description="Least score that passes")] = None
    severity: Annotated[Severity, Meta(description="What a failure means")] = "error"


class ContentValidation(Struct, frozen=True, kw_only=True):
    """Checks on generated text."""

    rules: Annotated[tuple[ContentRule, ...], Meta(description="Every rule is checked")] = ()


class ContentConfig(
    Struct, frozen=True, kw_only=True, rename={"schema_ref": "schemaRef", "ephemeral_storage": "ephemeralStorage"}
):
    """A recipe for one piece of text."""

    type: Annotated[Literal["content"], Meta(description="The kind of config")]
    id: Annotated[Id, Meta(description="Unique among content configs")]
    schema_ref: Annotated[ContentSchemaRef, Meta(description="The format it is written in")]
    metadata: Annotated[ContentMetadata, Meta(description="What it is for")]
    instructions: Annotated[Instructions, Meta(description="Guidance for a language model")] = Instructions()
    inputs: Annotated[Sources, Meta(description="Where context comes from")] = Sources()
    ephemeral_storage: Annotated[EphemeralStorage, Meta(description="Kept from chora-compose")] = EphemeralStorage()
    elements: Annotated[
        tuple[Element, ...], Meta(min_length=1, description="Its pieces; the demonstration generator needs them")
    ] = ()
    children: Annotated[tuple[ContentChild, ...], Meta(description="Other content it refers to")] = ()
    generation: Annotated[Generation, Meta(description="How the text is made")] = Generation()
    validation: Annotated[ContentValidation, Meta(description="Checks on the text")] = ContentValidation()
    state: Annotated[State, Meta(description="Workflow flags")] = State()
    evolution: Annotated[Evolution, Meta(description="Where it stands in its life")] = Evolution()


# -- artifact -----------------------------------------------------------------------------------------------


class ArtifactOutput(Struct, frozen=True, kw_only=True):
    """A file that an artifact is written to."""

    file: Annotated[NotEmpty, Meta(description="Path, relative to the project", examples=["outputs/my-artifact.md"])]
    format: Annotated[
        Literal["markdown", "code", "binary", "bdd", "test_results", "json", "yaml", "text", "html", "xml"],
        Meta(description="What the file holds; json and yaml are parsed and written anew", examples=["markdown"]),
    ]
    language_dialect: Annotated[str | None, Meta(description="More exact format, e.g. python or gherkin")] = None
    encoding: Annotated[str, Meta(description="Text encoding")] = "utf-8"
    generated: Annotated[
        bool, Meta(description="Nobody is meant to edit the file: overwrite it even if somebody did")
    ] = False


class ArtifactMetadata(Struct, frozen=True, kw_only=True, rename={"composition_strategy": "compositionStrategy"}):
    """What an artifact is for, and where it goes."""

    title: Annotated[str, Meta(min_length=1, max_length=200, description="Its title", examples=["My artifact"])]
    purpose: Annotated[
        str, Meta(min_length=1, max_length=1000, description="Whom it serves", examples=["Whom it serves"])
    ]
    outputs: Annotated[tuple[ArtifactOutput, ...], Meta(min_length=1, description="The first one is the primary one")]
    type: Annotated[
        Literal["documentation", "test", "code", "configuration", "report", "mixed"] | None,
        Meta(description="What kind of artifact it is"),
    ] = None
    version: Annotated[Version | None, Meta(description="Version of this config")] = None
    description: Annotated[str | None, Meta(description="What it consists of")] = None
    composition_strategy: Annotated[
        Literal["concat", "merge", "template", "custom"], Meta(description="How the pieces become one text")
    ] = "concat"


class ArtifactChild(Struct, frozen=True, kw_only=True, rename={"retrieval_strategy": "retrievalStrategy"}):
    """A content that an artifact is assembled from."""

    id: Annotated[Id, Meta(description="Id of the content config")]
    path: Annotated[
        NotEmpty,
        Meta(
            description="Its file, relative to the project, the config folder or its content folder",
            examples=["configs/content/my-config.json"],
        ),
    ]
    required: Annotated[bool, Meta(description="Whether the artifact fails without it")] = True
    order: Annotated[Order, Meta(description="Position; equal ones keep their order here")] = 0
    version: Annotated[str | None, Meta(description="Version wanted, for retrievalStrategy version")] = None
    retrieval_strategy: Annotated[
        Literal["latest", "all", "version", "approved_only"], Meta(description="Which stored text to take")
    ] = "latest"
    expected_source: Annotated[
        Literal["ai", "human", "template", "mixed", "any"], Meta(description="Who is expected to write it")
    ] = "any"
    review_required: Annotated[bool, Meta(description="Whether people must have looked at it")] = False
    conditions: Annotated[str | None, Meta(description="When to include it")] = None
    notes: Annotated[str | None, Meta(description="For people")] = None


class ArtifactContent(Struct, frozen=True, kw_only=True):
    """What an artifact is assembled from."""

    children: Annotated[
        tuple[ArtifactChild, ...], Meta(min_length=1, max_length=100, description="Its pieces, by order, then position")
    ]


class Dependency(Struct, frozen=True, kw_only=True):
    """Something an artifact has to do with; for people, never looked up."""

    id: Annotated[NotEmpty, Meta(description="Names it", examples=["api-reference"])]
    type: Annotated[
        Literal["artifact", "external_system", "requirement", "code_module"], Meta(description="What it is")
    ]
    locator: Annotated[str | None, Meta(description="Where it is")] = None
    relationship: Annotated[
        Literal["tests", "implements", "documents", "based_on", "related_to", "requires"] | None,
        Meta(description="What the artifact does to it"),
    ] = None
    notes: Annotated[str | None, Meta(description="For people")] = None


class ArtifactRule(Struct, frozen=True, kw_only=True):
    """A check on an artifact."""

    id: Annotated[NotEmpty, Meta(description="Names the rule in results", examples=["complete"])]
    check_type: Annotated[
        Literal["completeness", "coherence", "format", "lint", "custom_check"], Meta(description="What is checked")
    ]
    target: Annotated[str, Meta(description="What it looks at")] = "content.children"
    check_config: Annotated[dict[str, Any], Meta(description="Options of the check")] = {}
    severity: Annotated[Severity, Meta(description="What a failure means")] = "error"


class ArtifactValidation(Struct, frozen=True, kw_only=True):
    """Checks on an artifact."""

    rules: Annotated[tuple[ArtifactRule, ...], Meta(description="Every rule is checked")] = ()


class ArtifactConfig(Struct, frozen=True, kw_only=True, rename={"schema_ref": "schemaRef"}):
    """A recipe for files: content pieces in order, composed."""

    type: Annotated[Literal["artifact"], Meta(description="The kind of config")]
    id: Annotated[Id, Meta(description="Unique among artifact configs")]
    schema_ref: Annotated[ArtifactSchemaRef, Meta(description="The format it is written in")]
    metadata: Annotated[ArtifactMetadata, Meta(description="What it is for, and where it goes")]
    content: Annotated[ArtifactContent, Meta(description="What it is assembled from")]
    dependencies: Annotated[tuple[Dependency, ...], Meta(description="What it has to do with; for people")] = ()
    validation: Annotated[ArtifactValidation, Meta(description="Checks on the artifact")] = ArtifactValidation()
    state: Annotated[State, Meta(description="Workflow flags")] = State()
    evolution: Annotated[Evolution, Meta(description="Where it stands in its life")] = Evolution()


# -- collection ---------------------------------------------------------------------------------------------


class Member(Struct, frozen=True, kw_only=True):
    """An artifact, or another collection, in a collection."""

    id: Annotated[
        str, Meta(pattern=_MEMBER_ID, max_length=255, description="Unique in the collection", examples=["my-member"])
    ]
    type: Annotated[Literal["artifact", "collection"], Meta(description="What kind of config the path names")]
    path: Annotated[
        NotEmpty,
        Meta(
            description="Its file, relative to the project, the config folder or the folder of its type",
            examples=["configs/artifact/my-artifact.json"],
        ),
    ]
    order: Annotated[Order, Meta(description="Position; equal ones keep their order here")] = 0
    required: Annotated[bool, Meta(description="Whether the collection fails without it")] = True
    context_override: Annotated[Sources, Meta(description="Context of this member alone")] = Sources()
    freshness_threshold_days: Annotated[Days | None, Meta(description="Age at which it counts as expired")] = None


class CollectionContext(Struct, frozen=True, kw_only=True):
    """Context that members are given."""

    shared: Annotated[Sources, Meta(description="Context for every member")] = Sources()
    propagation: Annotated[
        Literal["merge", "override", "isolate"],
        Meta(
            description="merge: shared below the member's own; override: the member's own instead of shared, if it "
            "has any; isolate: the member's own only"
        ),
    ] = "merge"
    overrides: Annotated[dict[str, dict[str, Any]], Meta(description="Member id to its own context")] = {}


class CollectionGeneration(Struct, frozen=True, kw_only=True):
    """How members are built."""

    strategy: Annotated[Literal["parallel", "sequential"], Meta(description="At once, or one after another")] = (
        "parallel"
    )
    concurrency_limit: Annotated[int, Meta(ge=1, le=100, description="Members built at once")] = 3
    force: Annotated[bool, Meta(description="Build every member again, changed or not")] = False
    force_members: Annotated[tuple[str, ...], Meta(description="Members to build again, changed or not")] = ()


class CollectionOutput(Struct, frozen=True, kw_only=True):
    """Where a collection's files go."""

    base_path: Annotated[
        NotEmpty,
        Meta(
            description="Folder, relative to the project; a template that knows collection_id and collection_name",
            examples=["outputs/collections/{{ collection_id }}"],
        ),
    ]
    structure: Annotated[Literal["nested", "flat", "custom"], Meta(description="nested: a folder for each member")] = (
        "nested"
    )
    manifest: Annotated[bool, Meta(description="Write manifest.json")] = True


class CollectionRule(Struct, frozen=True, kw_only=True):
    """A check on a finished collection."""

    type: Annotated[NotEmpty, Meta(description="all_members_present or no_failures", examples=["all_members_present"])]
    required: Annotated[bool, Meta(description="Whether its failure fails the collection")] = True


class CollectionValidation(Struct, frozen=True, kw_only=True):
    """Checks on a finished collection."""

    rules: Annotated[tuple[CollectionRule, ...], Meta(description="Every rule is checked")] = ()
    fail_fast: Annotated[bool, Meta(description="Start no further member once one has failed")] = False


class Freshness(Struct, frozen=True, kw_only=True):
    """How old members may get."""

    enabled: Annotated[bool, Meta(description="Whether age matters")] = True
    default_max_age_days: Annotated[Days, Meta(description="Age at which a member counts as expired")] = 7.0


class CollectionConfig(Struct, frozen=True, kw_only=True):
    """A recipe for many artifacts with shared context."""

    type: Annotated[Literal["collection"], Meta(description="The kind of config")]
    id: Annotated[
        str,
        Meta(
            pattern=_COLLECTION_ID, max_length=255, description="Unique among collections", examples=["my-collection"]
        ),
    ]
    name: Annotated[NotEmpty, Meta(description="Its title", examples=["My collection"])]
    members: Annotated[tuple[Member, ...], Meta(min_length=1, description="What is built")]
    output: Annotated[CollectionOutput, Meta(description="Where the files go")]
    description: Annotated[str | None, Meta(description="What it is for")] = None
    context: Annotated[CollectionContext, Meta(description="Context that members are given")] = CollectionContext()
    generation: Annotated[CollectionGeneration, Meta(description="How members are built")] = CollectionGeneration()
    validation: Annotated[CollectionValidation, Meta(description="Checks on the result")] = CollectionValidation()
    freshness: Annotated[Freshness, Meta(description="How old members may get")] = Freshness()


_STRUCTS: dict[Kind, type[Struct]] = {
    "content": ContentConfig,
    "artifact": ArtifactConfig,
    "collection": CollectionConfig,
}
_TITLES: dict[Kind, str] = {
    "content": "chora content config v3.1",
    "artifact": "chora artifact config v3.1",
    "collection": "chora collection config v1.0",
}

# -- declared variables -------------------------------------------------------------------------------------


class Declaration(Struct, frozen=True):
    """A variable that whoever asks for a text is expected to give."""

    name: str
    required: bool = False
    default: Any = UNSET
    type: str | None = None
    """`string`, `number`, `integer`, `boolean`, `array` or `object`; None for any."""
    description: str | None = None

    @property
    def has_default(self) -> bool:
        return self.default is not UNSET


_VALUE_TYPES = {
    "string": "string",
    "str": "string",
    "text": "string",
    "number": "number",
    "float": "number",
    "integer": "integer",
    "int": "integer",
    "boolean": "boolean",
    "bool": "boolean",
    "array": "array",
    "list": "array",
    "object": "object",
    "dict": "object",
}
"""The words a declaration may use for a type, and the one each means."""


def split_context(context: Mapping[str, Any]) -> tuple[dict[str, Any], list[Declaration]]:
    """Part a pattern's context into data and declarations, the values shaped `{"source": "runtime", …}`.

    Values shaped `{"source": "file", "path": …}` are data: the engine reads the file.
    """
    data: dict[str, Any] = {}
    declarations: list[Declaration] = []
    for name, value in context.items():
        if (shape := _object(value)) is None or shape.get("source") != "runtime":
            data[name] = value
            continue
        description = shape.get("description")
        declarations.append(
            Declaration(
                name=name,
                required=shape.get("required") is True,
                default=shape.get("default", UNSET),
                type=_VALUE_TYPES.get(str(shape.get("type")).lower()),
                description=description if isinstance(description, str) else None,
            )
        )
    return data, declarations


# -- what a reading gives -----------------------------------------------------------------------------------


class Issue(Struct, frozen=True, kw_only=True):
    """One remark on a document: where, what stood there, what fits, and what to write instead."""

    severity: Severity
    code: str
    message: str
    path: str
    """A JSON path, such as `$.metadata.version`."""
    found: str = ""
    expected: str = ""
    write: str = ""


class Parsed(NamedTuple):
    """A document that was read.

    `config` is a `ContentConfig`, `ArtifactConfig` or `CollectionConfig`, by `kind`. `raw` is the document
    itself, with everything that `config` doesn't know; it is shared, so leave it as it is.
    """

    kind: Kind
    config: Any
    raw: dict[str, Any]
    warnings: list[Issue]


def read(kind: Kind, document: object, *, where: str, expected_id: str | None = None) -> Parsed:
    """Read a raw document into its Struct.

    Args:
        kind: what the document is expected to be.
        document: plain JSON data; it is left as it is.
        where: how to call the document in messages, such as its path.
        expected_id: the id it is known by elsewhere; another one inside is a warning.

    Raises:
        ValidationFailed: it doesn't fit; `details.schema_errors` lists every fault.
    """
    reading = _Reading(kind)
    try:
        copy = _copy_of(document)
    except _NotPlain as fault:
        raise _refusal(kind, where, document, [fault.issue()], []) from None
    if (record := _object(copy)) is None:
        raise _refusal(kind, where, document, list(_schema_faults(kind, copy)), [])
    reading.tidy(record)
    try:
        config = msgspec.convert(record, _STRUCTS[kind])
    except msgspec.ValidationError as error:
        raise _refusal(kind, where, document, reading.every_fault(record, str(error)), reading.remarks) from None
    if reading.faults:
        raise _refusal(kind, where, document, reading.every_fault(record, ""), reading.remarks)
    parsed = Parsed(kind, config, cast("dict[str, Any]", document), reading.remarks)
    return parsed if expected_id is None else expecting(parsed, expected_id)


def expecting(parsed: Parsed, expected_id: str) -> Parsed:
    """The same, with a warning if the id inside is another one than the config is known by."""
    if parsed.config.id == expected_id:
        return parsed
    remark = _issue(
        "warning", "id_mismatch", "$.id", parsed.config.id, _json(expected_id), f'"id": {_json(expected_id)}'
    )
    return parsed._replace(warnings=[*parsed.warnings, remark])


def schema(kind: Kind) -> dict[str, Any]:
    """The JSON Schema 2020-12 of a format, as it should be written.

    Keys it doesn't name are allowed. Nothing in it is shared: the caller may change it.
    """
    (root, *_), components = msgspec.json.schema_components(
        [_STRUCTS[kind], LongSource, ShortSource], ref_template="#/$defs/{name}"
    )
    # What the house sees is one `Source`; what people write is one of its two spellings.
    components["Source"] = {
        "title": "Source",
        "description": "A context source, in either spelling.",
        "anyOf": [{"$ref": "#/$defs/LongSource"}, {"$ref": "#/$defs/ShortSource"}],
    }
    lifted = components.pop(root["$ref"].rpartition("/")[2])
    return _strict(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **lifted,
            "title": _TITLES[kind],
            "$defs": components,
        }
    )


def _strict(node: Any) -> Any:
    """A schema without what only the Structs need: null for "absent", and empty defaults."""
    if isinstance(node, list):
        return [_strict(each) for each in cast("list[Any]", node)]
    if (record := _object(node)) is None:
        return node
    record = {key: _strict(each) for key, each in record.items() if key != "default" or each not in (None, (), {})}
    choices = [choice for choice in record.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        del record["anyOf"]
        record = {**choices[0], **record}
    return record


# -- plain data ---------------------------------------------------------------------------------------------


class _NotPlain(Exception):
    """A value that JSON hasn't, or that lies too deep."""

    def __init__(self, found: str, expected: str, write: str) -> None:
        super().__init__(expected)
        self.found, self.expected, self.write = found, expected, write
        self.steps: list[str | int] = []

    def issue(self) -> Issue:
        path = _path(reversed(self.steps))
        message = f"{path} is {self.found}; it must be {self.expected}."
        return Issue(
            severity="error",
            code="not_json",
            message=message,
            path=path,
            found=self.found,
            expected=self.expected,
            write=self.write,
        )


def _copy_of(value: object, depth: int = 0) -> Any:
    """A copy that shares nothing changeable with `value`.

    Raises:
        _NotPlain: it holds something that can't be written as JSON, or is nested too deeply.
    """
    if isinstance(value, dict | list):
        if depth >= DEEPEST:
            raise _NotPlain(f"nested more than {DEEPEST} levels deep", "nested less deeply", "it in fewer levels")
        if isinstance(value, dict):
            return _copy_of_object(cast("dict[object, object]", value), depth + 1)
        return _copy_of_list(cast("list[object]", value), depth + 1)
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise _NotPlain("text with half a surrogate pair", "text that UTF-8 can hold", "the whole character")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _NotPlain(str(value), "a finite number", "it as a string")
    elif isinstance(value, int):
        if value.bit_length() > 1024:
            raise _NotPlain("a number of more than 300 digits", "a smaller number", "it as a string")
    elif value is not None:
        raise _NotPlain(_a(type(value).__name__), "a value that JSON has", "it as a string")
    return value


def _copy_of_object(value: dict[object, object], depth: int) -> dict[str, Any]:
    copy: dict[str, Any] = {}
    for key, each in value.items():
        name = _copy_of(key)
        if not isinstance(name, str):
            raise _NotPlain(f"an object with the key {name}", "an object whose keys are text", f'"{name}"')
        try:
            # Most of a config is plain text, and not asking further halves the time.
            copy[name] = each if type(each) is str and each.isascii() else _copy_of(each, depth)
        except _NotPlain as fault:
            fault.steps.append(name)
            raise
    return copy


def _copy_of_list(value: list[object], depth: int) -> list[Any]:
    copy: list[Any] = []
    try:
        for each in value:
            copy.append(_copy_of(each, depth))
    except _NotPlain as fault:
        fault.steps.append(len(copy))
        raise
    return copy


def _object(value: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _objects(value: object) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list with their places; nothing if it isn't one."""
    for index, each in enumerate(cast("list[object]", value) if isinstance(value, list) else ()):
        if (record := _object(each)) is not None:
            yield index, record


# -- tolerant reading ---------------------------------------------------------------------------------------


class _Field(NamedTuple):
    """What the tolerant reader needs to know of a Struct's field."""

    shape: Literal["record", "records", "sources", "word", "version", "schema_version", "name", "other"]
    required: bool
    nullable: bool
    words: tuple[str, ...]
    fields: dict[str, _Field]


_NOTHING = inspect.NoneType()


@functools.cache
def _fields(struct: type[Struct]) -> dict[str, _Field]:
    """The fields of a Struct by the key they are written under."""
    return _fields_of(cast(inspect.StructType, inspect.type_info(struct)))


def _fields_of(struct: inspect.StructType) -> dict[str, _Field]:
    return {field.encode_name: _field(field.required, field.type) for field in struct.fields}


def _field(required: bool, kind: inspect.Type) -> _Field:
    if isinstance(kind, inspect.Metadata):
        return _field(required, kind.type)
    if isinstance(kind, inspect.UnionType) and len(others := [each for each in kind.types if each != _NOTHING]) == 1:
        return _field(required, others[0])
    shape = "other"
    words: tuple[str, ...] = ()
    fields: dict[str, _Field] = {}
    match kind:
        case inspect.StructType():
            shape, fields = "record", _fields_of(kind)
        case inspect.VarTupleType(item_type=inspect.StructType(cls=cls) as item):
            shape, fields = ("sources", {}) if cls is Source else ("records", _fields_of(item))
        case inspect.LiteralType():
            shape, words = "word", tuple(str(value) for value in kind.values)
        case inspect.StrType(pattern=str(pattern)):
            shape = "version" if pattern == _VERSION else "schema_version" if pattern == _SCHEMA_VERSION else "name"
        case _:
            pass
    return _Field(shape, required, isinstance(kind, inspect.AnyType), words, fields)


_OTHER_NAMES = {"bdd_scenario_assembly": "bdd_scenario", "overlay": "merge", "json_merge": "merge"}
"""What chora-compose also called a generator or a composition strategy."""


class _Foreign(NamedTuple):
    """A key that another dialect of chora-compose configs has where this one has `native`."""

    key: str
    native: str
    write: str


_ELEMENTS = '"elements": [{"name": "intro", "format": "markdown", "example_output": "…"}]'
_PATTERN = '"generation": {"patterns": [{"id": "main", "type": "jinja2", "template": "intro.md.j2"}]}'
_CHILDREN = '"content": {"children": [{"id": "intro", "path": "configs/content/intro.json"}]}'
_FOREIGN: dict[Kind, tuple[_Foreign, ...]] = {
    "content": (
        _Foreign("content_config", "metadata", 'its keys at the top level, beside "type": "content"'),
        _Foreign("content_elements", "elements", _ELEMENTS),
        _Foreign("content_element", "elements", _ELEMENTS),
        _Foreign("content_id", "id", '"id": "intro", beside "type": "content"'),
        _Foreign("generator_type", "generation", _PATTERN),
        _Foreign("template_path", "generation", _PATTERN),
    ),
    "artifact": (
        _Foreign("artifact_config", "metadata", 'its keys at the top level, beside "type": "artifact"'),
        _Foreign("artifact_id", "id", '"id": "handbook", beside "type": "artifact"'),
        _Foreign("composition", "content", _CHILDREN),
    ),
    "collection": (
        _Foreign("collection_config", "members", 'its keys at the top level, beside "type": "collection"'),
        _Foreign("collection_id", "id", '"id": "season-pack", beside "type": "collection"'),
    ),
}


class _Reading:
    """One tolerant reading: turns a copy into what the format says, and remembers what had to be turned."""

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind
        self.remarks: list[Issue] = []
        self.faults: list[Issue] = []
        self._explained: list[str] = []
        self._another_kind = False
        self._written: list[tuple[list[Any], int, dict[str, Any]]] = []

    def tidy(self, document: dict[str, Any]) -> None:
        """Normalise a document in place."""
        if (found := document.get("type")) != self.kind and found in KINDS:
            self._another_kind = True
            message = f"This is {_a(found)} config, not {_a(self.kind)} config; it belongs in configs/{found}/."
            self._fault("wrong_kind", "$.type", found, _json(self.kind), f'"type": {_json(self.kind)}', message)
            return
        self._refuse_dialects(document)
        if self.kind != "collection":
            self._settle_schema_ref(document)
        match self.kind:
            case "content":
                self._settle_patterns(document)
            case "artifact":
                metadata = _object(document.get("metadata")) or {}
                self._settle_name(metadata, "compositionStrategy", "$.metadata")
            case "collection":
                for index, member in _objects(document.get("members")):
                    self._settle_age(member, f"$.members[{index}]")
        self._walk(document, _fields(_STRUCTS[self.kind]), "$")
        self._check_across(document)

    def every_fault(self, document: dict[str, Any], refusal: str) -> list[Issue]:
        """Everything that is wrong with a tidied document that `refusal` came from."""
        if self._another_kind:
            return self.faults
        for items, index, written in self._written:
            items[index] = written
        found = list(self.faults)
        for fault in _schema_faults(self.kind, document):
            if len(found) >= MOST_ISSUES:
                break
            if not self._is_explained(fault):
                found.append(fault)
        self.remarks = [remark for remark in self.remarks if not self._is_explained(remark)]
        if not found:
            # The two judges differ in corners, such as 3.0 for a whole number; then the stricter one's word stands.
            problem, _, path = refusal.partition(" - at `")
            path = path.rstrip("`") or "$"
            message = f"{path}: {problem[:1].lower()}{problem[1:]}."
            found.append(Issue(severity="error", code="wrong_type", message=message, path=path))
        return found

    def _is_explained(self, issue: Issue) -> bool:
        return any(issue.path == path or issue.path.startswith((f"{path}.", f"{path}[")) for path in self._explained)

    def _remark(
        self, code: str, path: str, found: object, expected: str, write: str, message: str, *, info: bool = False
    ) -> None:
        if len(self.remarks) < MOST_ISSUES:
            self.remarks.append(_issue("info" if info else "warning", code, path, found, expected, write, message))

    def _fault(
        self, code: str, path: str, found: object, expected: str, write: str, message: str | None = None
    ) -> None:
        """A fault that the schema can't see, or would explain worse; what the schema says about it is left out."""
        if len(self.faults) < MOST_ISSUES:
            self.faults.append(_issue("error", code, path, found, expected, write, message))
            self._explained.append(path)

    # -- other dialects --

    def _refuse_dialects(self, document: dict[str, Any]) -> None:
        if isinstance(found := document.get("type"), str) and found.endswith(("_config", "_element")):
            self._foreign("$.type", found, f"type {found}", f'"type": {_json(self.kind)}')
        for foreign in _FOREIGN[self.kind]:
            if foreign.key in document and foreign.native not in document:
                self._foreign(f"$.{foreign.key}", document[foreign.key], foreign.key, foreign.write)
                self._explained.append(f"$.{foreign.native}")
        if isinstance(name := document.get("id"), str) and "_" in name:
            self._foreign("$.id", name, "underscores in ids", f'"id": {_json(_slug(name))}')
        if self.kind == "content":
            self._refuse_element_dialects(document)
        elif self.kind == "artifact":
            content = _object(document.get("content")) or {}
            for index, child in _objects(content.get("children")):
                if isinstance(name := child.get("id"), str) and "_" in name:
                    path = f"$.content.children[{index}].id"
                    self._foreign(path, name, "underscores in ids", f'"id": {_json(_slug(name))}')

    def _refuse_element_dialects(self, document: dict[str, Any]) -> None:
        elements = document.get("elements")
        if (template := _object(elements)) is not None:
            self._foreign("$.elements", template, "elements as an object", _ELEMENTS)
        for index, element in _objects(elements):
            other = [key for key in ("id", "generation_pattern", "template") if key in element]
            if other and "name" not in element:
                write = {"name": _slug(str(element.get("id", ""))) or "intro", "format": "text"}
                if isinstance(text := element.get("example_output"), str):
                    write["example_output"] = text
                self._foreign(f"$.elements[{index}]", element, f"elements with {' and '.join(other)}", _json(write))
        generation = _object(document.get("generation")) or {}
        if "generator" in generation and "patterns" not in generation:
            self._foreign("$.generation.generator", generation["generator"], "generation.generator", _PATTERN)

    def _foreign(self, path: str, found: object, dialect: str, write: str) -> None:
        message = f"{path} belongs to another dialect of chora-compose configs ({dialect}), which isn't read."
        self._fault("dialect", path, found, f"the {self.kind} format", write, message)

    # -- known deviations --

    def _settle_schema_ref(self, document: dict[str, Any]) -> None:
        right = {"id": f"{self.kind}-schema", "version": "3.1"}
        write = f'"schemaRef": {_json(right)}'
        if (found := document.get("schemaRef")) is None:
            document["schemaRef"] = right
            self._remark("schema_ref_missing", "$.schemaRef", _ABSENT, _json(right), write, "$.schemaRef is missing.")
        elif (reference := _object(found)) is not None:
            if reference.get("id") != right["id"] or "version" not in reference:
                message = f"$.schemaRef is {_show(found)}; it is read as {_json(right)}."
                self._remark("schema_ref", "$.schemaRef", found, _json(right), write, message)
                reference["id"] = right["id"]
                reference.pop("uri", None)
            if str(reference.setdefault("version", right["version"])) not in ("3.1", "3.1.0"):
                message = f"$.schemaRef.version is {_show(reference['version'])}; the config is read as version 3.1."
                self._remark("schema_version", "$.schemaRef.version", reference["version"], '"3.1"', write, message)

    def _settle_patterns(self, document: dict[str, Any]) -> None:
        generation = _object(document.get("generation")) or {}
        for index, pattern in _objects(generation.get("patterns")):
            path = f"$.generation.patterns[{index}]"
            self._settle_name(pattern, "type", path)
            options = _object(pattern.setdefault("generation_config", {})) if "context" in pattern else None
            if options is not None:
                found = pattern.pop("context")
                below = _object(options.get("context"))
                above = _object(found)
                options["context"] = found if below is None or above is None else {**above, **below}
                write = f'"generation_config": {{"context": {_show(found)}}}'
                message = f"{path}.context is read as {path}.generation_config.context."
                self._remark("pattern_context", f"{path}.context", found, "generation_config.context", write, message)

    def _settle_name(self, record: dict[str, Any], key: str, path: str) -> None:
        if isinstance(found := record.get(key), str) and (name := _OTHER_NAMES.get(found)):
            record[key] = name
            message = f"{path}.{key} is {_json(found)}, an old name of {_json(name)}."
            self._remark("old_name", f"{path}.{key}", found, _json(name), f'"{key}": {_json(name)}', message)

    def _settle_age(self, member: dict[str, Any], path: str) -> None:
        key = "freshness_threshold_days"
        if "max_age_days" in member and key not in member:
            found = member[key] = member.pop("max_age_days")
            message = f"{path}.max_age_days is read as {path}.{key}."
            self._remark("old_name", f"{path}.max_age_days", found, key, f'"{key}": {_show(found)}', message)

    # -- every field, by its type --

    def _walk(self, record: dict[str, Any], fields: dict[str, _Field], path: str) -> None:
        for key, value in list(record.items()):
            if (field := fields.get(key)) is None:
                if not key.startswith("$"):  # $schema and $comment are for editors and people
                    self._unknown(record, fields, key, path)
                continue
            here = f"{path}.{key}"
            if value is None and not field.required and not field.nullable:
                del record[key]
                message = f"{here} is null, which is read as absent."
                self._remark("null", here, None, "a value, or no such key", f"nothing: leave {key} out", message)
            elif field.shape == "record" and (inner := _object(value)) is not None:
                self._walk(inner, field.fields, here)
            elif field.shape == "records":
                for index, item in _objects(value):
                    self._walk(item, field.fields, f"{here}[{index}]")
            elif field.shape == "sources":
                for index, item in _objects(value):
                    self._settle_source(cast("list[Any]", value), index, item, f"{here}[{index}]")
            elif field.shape != "other" and (tidied := _tidied(field, value)) != value:
                record[key] = tidied
                message = f"{here} is {_show(value)}; it is read as {_json(tidied)}."
                self._remark("spelling", here, value, _json(tidied), f'"{key}": {_json(tidied)}', message)

    def _unknown(self, record: dict[str, Any], fields: dict[str, _Field], key: str, path: str) -> None:
        if len(self.remarks) >= MOST_ISSUES:
            return
        import difflib

        here = _path([key], path)
        known = [name for name in fields if name not in record]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.7)
        message = f"{here} means nothing to chora; it is kept and has no effect."
        if near:
            message += f" Did you mean {near[0]}?"
        expected = f"one of {', '.join(fields)}"
        write = f'"{near[0]}": {_show(record[key])}' if near else ""
        self._remark("unknown_key", here, record[key], expected, write, message, info=True)

    # -- sources --

    def _settle_source(self, items: list[Any], index: int, written: dict[str, Any], path: str) -> None:
        """Put one `Source` in the place of either spelling; what the schema refuses stays for it to explain."""
        spelling = LongSource if _is_long(written) else ShortSource
        self._walk(written, _fields(spelling), path)
        try:
            source = msgspec.convert(written, spelling)
        except msgspec.ValidationError:
            items[index] = None  # nothing that a Source could be made of, so that the conversion fails as well
        else:
            items[index] = self._long(source, path) if isinstance(source, LongSource) else self._short(source, path)
        self._written.append((items, index, written))

    def _long(self, source: LongSource, path: str) -> Source:
        data = None
        if source.source_type == "inline_data":
            try:
                data = _copy_of(msgspec.json.decode(source.source_locator))
            except (msgspec.MsgspecError, RecursionError, _NotPlain):
                data = source.source_locator
        self._check_git(source.source_type, source.source_locator, f"{path}.source_locator", "source_locator")
        return Source(
            type=source.source_type,
            id=source.id,
            locator=source.source_locator,
            selector=_part(source.data_selector),
            required=source.required,
            notes=source.notes,
            data=data,
        )

    def _short(self, source: ShortSource, path: str) -> Source:
        name = source.id or source.output_as or ""
        data = None
        match source.type:
            case "inline_data":
                key, locator, data = "data", None, source.data
                if data is not UNSET:
                    locator = _json(data)
                    if not name and not isinstance(data, dict):
                        expected = "an object, or a source with an id"
                        self._fault("no_landing", path, data, expected, '"id": "my-name", beside "data"')
            case "external_file":
                key, locator = "path", source.path
            case "git_reference":
                key, locator = "file", source.file or source.file_path
                locator = locator and f"{source.ref or source.reference or 'HEAD'}:{locator}"
            case "content_config" | "artifact_config":
                key, locator = "config_id", source.config_id or source.reference
            case "ephemeral_output":
                key, locator = "output_id", source.output_id or source.content_id
        if not locator:
            expected = f"what a source of type {source.type} needs"
            self._fault("missing", f"{path}.{key}", _ABSENT, expected, f'"{key}": {_SHORT_EXAMPLES[key]}')
        return Source(
            type=source.type,
            id=name,
            locator=locator or "",
            selector=_part(source.selector),
            required=source.required,
            notes=source.notes,
            data=data,
            repository=source.repo or source.repo_path or ".",
        )

    def _check_git(self, kind: SourceType, locator: str, path: str, key: str) -> None:
        if kind == "git_reference" and not all(locator.partition(":")):
            self._fault("wrong_form", path, locator, "ref:path", f'"{key}": {_json("HEAD:" + locator.strip(":"))}')

    # -- what no schema sees --

    def _check_across(self, document: dict[str, Any]) -> None:
        match self.kind:
            case "content":
                patterns = (_object(document.get("generation")) or {}).get("patterns")
                self._check_unique(document.get("elements"), "name", "$.elements")
                self._check_unique(patterns, "id", "$.generation.patterns")
                for index, pattern in _objects(patterns):
                    self._check_pattern(document, pattern, index)
            case "collection":
                self._check_unique(document.get("members"), "id", "$.members")
                self._check_member_names(document)
                for index, rule in _objects((_object(document.get("validation")) or {}).get("rules")):
                    if isinstance(found := rule.get("type"), str) and found not in _RULES:
                        path = f"$.validation.rules[{index}].type"
                        message = f"{path} is {_json(found)}, a rule chora doesn't know; it isn't checked."
                        expected = f"one of {', '.join(_RULES)}"
                        self._remark("unknown_rule_type", path, found, expected, f'"type": "{_RULES[0]}"', message)
            case "artifact":
                pass

    def _check_unique(self, items: object, key: str, path: str) -> None:
        first: dict[str, int] = {}
        for index, item in _objects(items):
            if isinstance(name := item.get(key), str) and first.setdefault(name, index) != index:
                here = f"{path}[{index}].{key}"
                message = f"{here} is {_json(name)}, as {path}[{first[name]}].{key} is already."
                self._fault("duplicate", here, name, "unique in the list", f'"{key}": {_json(name + "-2")}', message)

    def _check_pattern(self, document: dict[str, Any], pattern: dict[str, Any], index: int) -> None:
        path = f"$.generation.patterns[{index}]"
        if index == 0 and pattern.get("type") == "demonstration" and "elements" not in document:
            self._fault("missing", "$.elements", _ABSENT, "what the demonstration generator shows", _ELEMENTS)
        options = _object(pattern.get("generation_config")) or {}
        if "context" not in options:
            return
        if (context := _object(options["context"])) is None:
            write = '"context": {"name": "value"}'
            self._fault("wrong_type", f"{path}.generation_config.context", options["context"], "an object", write)
            return
        for name, value in context.items():
            shape = _object(value) or {}
            word = shape.get("type")
            if shape.get("source") == "runtime" and word is not None and str(word).lower() not in _VALUE_TYPES:
                here = _path([name, "type"], f"{path}.generation_config.context")
                expected = f"one of {', '.join(dict.fromkeys(_VALUE_TYPES.values()))}"
                message = f"{here} is {_show(word)}, which isn't a type; values of any type are taken."
                self._remark("unknown_type", here, word, expected, '"type": "string"', message)

    def _check_member_names(self, document: dict[str, Any]) -> None:
        members = {str(member.get("id")) for _, member in _objects(document.get("members"))}
        overrides = (_object(document.get("context")) or {}).get("overrides")
        forced = (_object(document.get("generation")) or {}).get("force_members")
        named = [(name, _path([name], "$.context.overrides")) for name in _object(overrides) or {}]
        for index, name in enumerate(cast("list[object]", forced) if isinstance(forced, list) else ()):
            named.append((str(name), f"$.generation.force_members[{index}]"))
        for name, path in named:
            if name not in members:
                message = f"{path} names {_json(name)}, which isn't a member; it has no effect."
                self._remark("unknown_member", path, name, "the id of a member", "", message)


_RULES = ("all_members_present", "no_failures")
_SHORT_EXAMPLES = {
    "data": '{"name": "value"}',
    "path": '"data/readings.json"',
    "file": '"docs/safety.md"',
    "config_id": '"my-config"',
    "output_id": '"my-config"',
}


def _is_long(source: dict[str, Any]) -> bool:
    return "source_type" in source or "source_locator" in source


def _part(selector: str) -> str:
    return "" if selector == "whole_content" else selector


def _tidied(field: _Field, value: Any) -> Any:
    """A value as the format spells it, if only its spelling is off."""
    match field.shape:
        case "word" if isinstance(value, str) and value not in field.words:
            return {_folded(word): word for word in field.words}.get(_folded(value), value)
        case "name" if isinstance(value, str):
            return value.strip()  # a YAML block ends with a newline, which `$` in a pattern lets pass
        case "version" | "schema_version" if isinstance(value, str | int | float):
            version = str(value).strip().removeprefix("v")  # YAML reads an unquoted 1.0 as a number
            if not re.fullmatch(r"[0-9]+(\.[0-9]+){0,2}", version):
                return value
            parts = 3 if field.shape == "version" else 2
            return version + ".0" * (parts - 1 - version.count("."))
        case _:
            return value


def _folded(word: str) -> str:
    return word.strip().lower().replace("-", "_")


# -- faults, and what to write instead ----------------------------------------------------------------------

_ABSENT: Any = object()
"""What stands where nothing does."""

_SYNONYMS = {
    "bash": "code",
    "feature": "gherkin",
    "javascript": "code",
    "jinja2": "text",
    "manually": "manual",
    "md": "markdown",
    "plain": "text",
    "python": "code",
    "semver": "version",
    "shell": "code",
    "string": "text",
    "txt": "text",
    "typescript": "code",
    "yml": "yaml",
}
"""Words that people write where the format has another for the same."""


def _refusal(kind: Kind, where: str, document: object, faults: list[Issue], remarks: list[Issue]) -> ValidationFailed:
    """The error for a document that doesn't fit."""
    message = f"{where} is not {_a(kind)} config: {faults[0].message}"
    if len(faults) > 1:
        message += f" There {'is one more fault' if len(faults) == 2 else f'are {len(faults) - 1} more faults'}."
    if any(fault.code == "dialect" for fault in faults):
        hint = "Write what each fault names, or let `chora import --convert` convert the file."
    else:
        hint = (
            f"Write {faults[0].write}." if faults[0].write else "The format's JSON Schema is at schema://" + kind + "."
        )
    details: dict[str, Any] = {"file": where, "schema_errors": [_plain(fault) for fault in faults]}
    if remarks:
        details["warnings"] = [_plain(remark) for remark in remarks]
    if isinstance(config_id := (_object(document) or {}).get("id"), str):
        details["config_id"] = config_id
    return ValidationFailed(message, hint, **details)


def _plain(issue: Issue) -> dict[str, str]:
    return {
        "path": issue.path,
        "message": issue.message,
        "found": issue.found,
        "expected": issue.expected,
        "write": issue.write,
    }


def _schema_faults(kind: Kind, document: object) -> Iterator[Issue]:
    """Everything in which a document doesn't fit its schema, in the order of the schema."""
    from jsonschema import Draft202012Validator  # 0.2 s, which only a config that doesn't fit shall cost

    published = schema(kind)
    validator: Any = Draft202012Validator(published)
    for error in validator.iter_errors(document):
        yield from _explain(error, published["$defs"])


def _explain(error: JsonSchemaError, definitions: dict[str, Any]) -> Iterator[Issue]:
    """One fault as the schema library found it, in our words."""
    found = error.instance
    rule = cast("dict[str, Any]", error.schema)
    if error.validator == "anyOf" and isinstance(found, dict):
        spelling = 0 if _is_long(cast("dict[str, Any]", found)) else 1
        for inner in error.context or ():
            if inner.schema_path[0] == spelling:
                yield from _explain(inner, definitions)
        return
    path = _path(error.absolute_path)
    key = error.absolute_path[-1] if error.absolute_path else None
    if error.validator == "required":
        # One error for each missing name, and only its sentence says which.
        key = error.message.removeprefix("'").partition("' is a required property")[0]
        rule = rule["properties"][key]
        found, path = _ABSENT, f"{path}.{key}"
    better = _better(found, rule, definitions)
    write = f"{_json(key)}: {_json(better)}" if isinstance(key, str) else _json(better)
    code = {"required": "missing", "enum": "not_one_of", "type": "wrong_type"}.get(str(error.validator), "wrong_form")
    yield _issue("error", code, path, found, _describe(rule, definitions), write)


def _describe(rule: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a schema asks for, in words."""
    if "$ref" in rule:
        return _describe(definitions[rule["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in rule:
        return " or ".join(dict.fromkeys(_describe(choice, definitions) for choice in rule["anyOf"]))
    if "enum" in rule:
        words = ", ".join(_json(word) for word in rule["enum"])
        return f"one of {words}" if len(rule["enum"]) > 1 else words
    if "pattern" in rule:
        return _PATTERNS[rule["pattern"]]
    match rule.get("type"):
        case "string" if "maxLength" in rule:
            return f"text of {rule.get('minLength', 0)} to {rule['maxLength']} characters"
        case "string":
            return "text, not empty" if "minLength" in rule else "text"
        case "array" if "maxItems" in rule:
            return f"a list of {rule.get('minItems', 0)} to {rule['maxItems']} items"
        case "array":
            return "a list of at least one item" if "minItems" in rule else "a list"
        case "integer" | "number" as number:
            words = "a whole number" if number == "integer" else "a number"
            bounds = (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"))
            return ", ".join([words, *(f"{word} {rule[bound]:g}" for bound, word in bounds if bound in rule)])
        case "boolean":
            return "true or false"
        case _:
            return "an object"


def _better(found: object, rule: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """A value that fits, as near to what was found as can be guessed."""
    example = _example(rule, definitions)
    if found is _ABSENT or isinstance(found, bool):
        return example
    if "enum" in rule:
        import difflib

        word = str(found).partition("|")[0].strip().lower()  # people copy "one|two|three" from a reference
        words = cast("list[str]", rule["enum"])
        if _SYNONYMS.get(word) in words:
            return _SYNONYMS[word]
        return next(iter(difflib.get_close_matches(word, words, n=1)), example)
    if "pattern" in rule:
        slug = _slug(str(found))
        return slug if re.search(rule["pattern"], slug) else example
    match rule.get("type"), found:
        case "string", str() if len(found) > rule.get("maxLength", len(found)):
            return found[: rule["maxLength"]]
        case "string", int() | float():
            return str(found)
        case "boolean", "true" | "yes" | "True":
            return True
        case "boolean", "false" | "no" | "False":
            return False
        case "array", dict():
            return cast("list[object]", [found])
        case _:
            return example


def _example(rule: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """A value that fits a schema."""
    if "$ref" in rule:
        return _example(definitions[rule["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in rule:
        return _example(rule["anyOf"][0], definitions)
    for key in ("examples", "default", "enum"):
        if key in rule:
            return rule[key] if key == "default" else rule[key][0]
    match rule.get("type"):
        case "object":
            properties = cast("dict[str, Any]", rule.get("properties", {}))
            return {name: _example(properties[name], definitions) for name in rule.get("required", ())}
        case "array":
            return [_example(rule["items"], definitions)] if rule.get("minItems") else []
        case "integer" | "number":
            return max(1, rule.get("minimum", 1))
        case "boolean":
            return True
        case _:
            return "…"


def _issue(
    severity: Severity, code: str, path: str, found: object, expected: str, write: str, message: str | None = None
) -> Issue:
    shown = "nothing" if found is _ABSENT else _show(found)
    if message is None:
        is_ = "missing" if found is _ABSENT else shown
        message = f"{path} is {is_}; it must be {expected}."
    return Issue(severity=severity, code=code, message=message, path=path, found=shown, expected=expected, write=write)


def _path(steps: Iterable[str | int], start: str = "$") -> str:
    """A JSON path; keys that aren't plain words are quoted."""
    for step in steps:
        if isinstance(step, int):
            start += f"[{step}]"
        else:
            start += f".{step}" if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", step) else f"[{_json(step)}]"
    return start


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _show(value: object) -> str:
    """A value in one short line."""
    text = _json(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"
