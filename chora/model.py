"""The three config formats as frozen Structs, and the JSON Schemas derived from them.

One module, because the formats share their patterns and the Structs of sources, tracking and evolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import UNSET, Meta, Struct

from chora.skeletons import skeleton

Kind = Literal["content", "artifact", "collection"]

KINDS: tuple[Kind, ...] = ("content", "artifact", "collection")

# -- words --------------------------------------------------------------------------------------------------

_ID = "^[a-z][a-z0-9-]*$"
_COLLECTION_ID = "^[a-z0-9][a-z0-9-]*$"
_MEMBER_ID = "^[A-Za-z0-9][A-Za-z0-9._-]*$"
_NAME = "^[a-z][a-z0-9_-]*$"
_CONTEXT_NAME = "^[A-Za-z_][A-Za-z0-9_-]*$"
_VARIABLE = "^[a-zA-Z_][a-zA-Z0-9_]*$"
VERSION_PATTERN = r"^\d+\.\d+\.\d+$"
SCHEMA_VERSION_PATTERN = r"^\d+\.\d+(\.\d+)?$"

PATTERNS = {
    _ID: "lower-case letters, digits and hyphens, beginning with a letter",
    _COLLECTION_ID: "lower-case letters, digits and hyphens",
    _MEMBER_ID: "letters, digits, dots, hyphens and underscores, beginning with a letter or digit",
    _NAME: "lower-case letters, digits, hyphens and underscores, beginning with a letter",
    _CONTEXT_NAME: "letters, digits, hyphens and underscores, not beginning with a digit or hyphen",
    _VARIABLE: "letters, digits and underscores, not beginning with a digit",
    VERSION_PATTERN: "a version of three numbers",
    SCHEMA_VERSION_PATTERN: "a version of two or three numbers",
}
"""What each pattern means, for people."""

Id = Annotated[str, Meta(pattern=_ID, max_length=255, examples=["my-config"])]
Name = Annotated[str, Meta(pattern=_NAME, max_length=255, examples=["intro"])]
Version = Annotated[str, Meta(pattern=VERSION_PATTERN, examples=["1.0.0"])]
NotEmpty = Annotated[str, Meta(min_length=1)]
Order = Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0)]
Days = Annotated[float, Meta(gt=0)]
ContextName = Annotated[str, Meta(pattern=_CONTEXT_NAME, examples=["readings"])]

SourceType = Literal[
    "content_config",
    "artifact_config",
    "ephemeral_output",
    "external_file",
    "git_reference",
    "inline_data",
]
Delimiter = Annotated[
    Literal["", ",", ";", "tab", "|"],
    Meta(
        description="What separates the cells of a CSV file; if absent, that is found out, with a warning unless it is "
        "a comma"
    ),
]
Matches = Annotated[
    Literal["list", "one"] | None,
    Meta(
        description="What a JSONPath gives, however many values match: list, or one (an error unless exactly one "
        "matches). Without it, a query that can match no more than one value ($.a.b, $.list[0]) gives the value, and "
        "any other a list"
    ),
]
Stage = Literal["draft", "review", "approved", "deprecated"]
Severity = Literal["error", "warning", "info"]
OutputFormat = Literal[
    "markdown", "json", "yaml", "python", "javascript", "typescript", "gherkin", "text", "html", "xml"
]

# -- what the formats share ---------------------------------------------------------------------------------


class Source(Struct, frozen=True, kw_only=True):
    """Where a piece of context comes from; both spellings in configs become this one."""

    type: SourceType
    id: str = ""
    """The context name of the value; if empty, the value is an object whose keys are merged."""
    locator: str = ""
    """A path, an id, `ref:path` for git; for inline data its JSON, or the text that isn't JSON."""
    selector: str = ""
    """The part to take; empty means everything."""
    required: bool = True
    notes: str | None = None
    data: Any = None
    """The value itself, for inline data."""
    matches: Literal["list", "one"] | None = None
    """Whether a JSONPath gives a list or one value; None for what the query says."""
    delimiter: str = ""
    """The character between the cells of a CSV file; if empty, it is found out."""
    repository: str = "."
    """The git repository, relative to the project."""


class LongSource(Struct, frozen=True, kw_only=True):
    """A context source as content configs write it."""

    id: Annotated[Name, Meta(description="Name of the value in the context", examples=["readings"])]
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
            description="Part to take: whole_content, JSONPath ($.a.b), Markdown heading (## Title, "
            "## Part > ### Title, ## Title > body), front_matter, body, function:name, class:name, line range (10-20), "
            "output (of a content_config, its text)"
        ),
    ] = "whole_content"
    matches: Matches = None
    delimiter: Delimiter = ""
    required: Annotated[
        bool, Meta(description="Whether its failure fails the call; an optional one that fails is null, with a warning")
    ] = True
    notes: Annotated[str | None, Meta(description="A note for people")] = None


class ShortSource(Struct, frozen=True, kw_only=True):
    """A context source as collection configs write it: one key per type instead of a locator."""

    type: Annotated[SourceType, Meta(description="What kind of source this is")]
    id: Annotated[
        ContextName | None,
        Meta(description="Name of the value in the context; without it, an object's keys are merged into the context"),
    ] = None
    output_as: Annotated[ContextName | None, Meta(description="Another spelling of id")] = None
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
    matches: Matches = None
    delimiter: Delimiter = ""
    required: Annotated[
        bool, Meta(description="Whether its failure fails the call; an optional one that fails is null, with a warning")
    ] = True
    notes: Annotated[str | None, Meta(description="A note for people")] = None


class Sources(Struct, frozen=True, kw_only=True):
    """Sources of context that are read before anything is generated."""

    sources: Annotated[tuple[Source, ...], Meta(description="Looked up in this order; a later one wins")] = ()


SchemaVersion = Annotated[
    str, Meta(pattern=SCHEMA_VERSION_PATTERN, description="Version of the format", examples=["3.1"])
]


class ContentSchemaRef(Struct, frozen=True, kw_only=True):
    """The format that a content config is written in."""

    id: Annotated[Literal["content-schema"], Meta(description="Name of the format")]
    version: SchemaVersion


class ArtifactSchemaRef(Struct, frozen=True, kw_only=True):
    """The format that an artifact config is written in."""

    id: Annotated[Literal["artifact-schema"], Meta(description="Name of the format")]
    version: SchemaVersion


class Tracking(Struct, frozen=True, kw_only=True):
    """What to track; kept for other tools, chora always keeps versions."""

    history: Annotated[bool, Meta(description="Keep a history; no effect")] = False
    versioning: Annotated[bool, Meta(description="Keep versions; no effect")] = False


class State(Struct, frozen=True, kw_only=True):
    """Workflow flags; no effect."""

    tracking: Annotated[Tracking, Meta(description="What to keep track of; no effect")] = Tracking()


class Change(Struct, frozen=True, kw_only=True):
    """One entry of a config's history."""

    date: Annotated[str, Meta(description="When, ISO 8601", examples=["2026-03-01"])]
    type: Annotated[Literal["creation", "update", "approval", "deprecation"], Meta(description="What happened")]
    description: Annotated[str, Meta(description="What changed", examples=["First version"])]
    rationale: Annotated[str | None, Meta(description="Why")] = None


class Evolution(Struct, frozen=True, kw_only=True):
    """The stage and history of a config."""

    stage: Annotated[
        Stage, Meta(description="Workflow stage; approved makes its texts ones for the retrieval approved_only")
    ] = "draft"
    history: Annotated[tuple[Change, ...], Meta(description="What happened so far")] = ()


# -- content ------------------------------------------------------------------------------------------------


class ContentMetadata(Struct, frozen=True, kw_only=True):
    """What a content config is for."""

    description: Annotated[
        str, Meta(min_length=1, max_length=500, description="What it is for", examples=["What this text is for"])
    ]
    version: Annotated[Version, Meta(description="Version of this config")]
    generation_frequency: Annotated[
        Literal["manual", "on_demand", "scheduled", "continuous"],
        Meta(description="How often it is meant to run; a note, chora runs nothing by itself"),
    ] = "manual"
    output_format: Annotated[
        OutputFormat | None, Meta(description="Format of the generated text; validate checks it, as a format rule does")
    ] = None


class Instructions(Struct, frozen=True, kw_only=True, rename={"general": "global"}):
    """Guidance for generation by a language model."""

    general: Annotated[
        str | None, Meta(description="Guidance that follows the system prompt, and that reviewers are given")
    ] = None
    system_prompt: Annotated[str | None, Meta(description="System prompt, unless generation_config has one")] = None
    user_prompt: Annotated[
        str | None, Meta(description="Prompt, unless generation_config has one or the pattern a template")
    ] = None


class EphemeralStorage(
    Struct,
    frozen=True,
    kw_only=True,
    rename={"base_path": "basePath", "subfolder_pattern": "subfolderPattern", "filename_pattern": "filenamePattern"},
):
    """Where chora-compose kept generated text. It has no effect: the setting storage.backend says where chora does."""

    base_path: Annotated[str | None, Meta(description="Folder; no effect")] = None
    subfolder_pattern: Annotated[
        str | None, Meta(description="Sub-folder, such as <content-id>/<version>; no effect")
    ] = None
    filename_pattern: Annotated[str | None, Meta(description="File name, such as <dttm-utc>.json; no effect")] = None
    format: Annotated[Literal["json", "yaml", "text"], Meta(description="File format; no effect")] = "json"


class Element(Struct, frozen=True, kw_only=True):
    """A named piece of a content config."""

    name: Annotated[Name, Meta(description="Unique in the config; rules name it as element.NAME")]
    format: Annotated[
        Literal["markdown", "code", "text", "json", "yaml", "gherkin", "section"],
        Meta(description="What it consists of; rules about the element check it", examples=["markdown"]),
    ]
    description: Annotated[str | None, Meta(description="What belongs here")] = None
    prompt_guidance: Annotated[str | None, Meta(description="How to write it; reviewers are given it")] = None
    output_format: Annotated[str | None, Meta(description="More exact format, such as the language of code")] = None
    example_output: Annotated[str | None, Meta(description="The text itself, for the demonstration generator")] = None
    generation_source: Annotated[
        Literal["ai", "human", "template", "mixed"] | None,
        Meta(description="Who writes it; an artifact's expected_source is compared with it"),
    ] = None
    review_status: Annotated[
        Literal["pending", "approved", "needs_revision"],
        Meta(description="What a reviewer said; a content whose elements are all approved is approved"),
    ] = "pending"
    human_feedback: Annotated[str | None, Meta(description="A reviewer's words")] = None


class ContentChild(Struct, frozen=True, kw_only=True):
    """A reference to another content config, for validate and trace; its text isn't taken (a source does that)."""

    id: Annotated[Id, Meta(description="Id of the config")]
    path: Annotated[
        NotEmpty,
        Meta(description="Its file, as in an artifact", examples=["configs/content/my-config.json"]),
    ]
    required: Annotated[bool, Meta(description="Whether validate calls a missing one an error, or warns")] = True
    order: Annotated[Order, Meta(description="Position; equal ones keep their order here")] = 0
    version: Annotated[str | None, Meta(description="Version meant; a note")] = None
    notes: Annotated[str | None, Meta(description="A note for people")] = None
    conditions: Annotated[str | None, Meta(description="A note for people; not evaluated")] = None


class Variable(Struct, frozen=True, kw_only=True, rename={"type": "variableType"}):
    """A name in a pattern's template, and where its value comes from."""

    name: Annotated[str, Meta(pattern=_VARIABLE, description="Name in the template", examples=["intro"])]
    type: Annotated[
        Literal["string", "number", "boolean", "array", "object"], Meta(description="Type of the value; a note")
    ] = "string"
    source: Annotated[
        str | None,
        Meta(
            description="elements.NAME.example_output, or the element's index; without it the element of its own name"
        ),
    ] = None
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
        str | None, Meta(description="Template file, or the template itself if it has {{, {%, {# or a newline")
    ] = None
    variables: Annotated[
        tuple[Variable, ...], Meta(description="Names in the template of the demonstration generator")
    ] = ()
    generation_config: Annotated[
        dict[str, Any], Meta(description="Options of the generator, as generator://TYPE lists them")
    ] = {}


class Generation(Struct, frozen=True, kw_only=True):
    """How the text of a content config is made."""

    patterns: Annotated[tuple[Pattern, ...], Meta(description="The first one runs")] = ()


class ContentRule(Struct, frozen=True, kw_only=True):
    """A check on generated text."""

    id: Annotated[NotEmpty, Meta(description="Names the rule in results", examples=["has-intro"])]
    check_type: Annotated[
        Literal[
            "presence",
            "format",
            "lint",
            "syntax",
            "length",
            "required_fields",
            "regex",
            "links",
            "schema",
            "custom",
        ],
        Meta(description="What is checked; custom names another one as type in check_config"),
    ]
    target: Annotated[
        str, Meta(description="What it looks at: generated_output, element.NAME, config, or a file as file:PATH")
    ] = "generated_output"
    check_config: Annotated[dict[str, Any], Meta(description="Options of the check")] = {}
    threshold: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="Least score that passes; no effect, no check gives one")
    ] = None
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
    evolution: Annotated[Evolution, Meta(description="Its stage and history")] = Evolution()


# -- artifact -----------------------------------------------------------------------------------------------


class ArtifactOutput(Struct, frozen=True, kw_only=True):
    """A file that an artifact is written to."""

    file: Annotated[
        NotEmpty,
        Meta(
            description="Path, relative to the project; a template of the context that the caller and the collection "
            "give, and of artifact_id",
            examples=["outputs/my-artifact.md"],
        ),
    ]
    format: Annotated[
        Literal["markdown", "code", "binary", "bdd", "test_results", "json", "yaml", "text", "html", "xml"],
        Meta(
            description="What the file holds; json and yaml are parsed and written in canonical form",
            examples=["markdown"],
        ),
    ]
    language_dialect: Annotated[str | None, Meta(description="More exact format, e.g. python or gherkin")] = None
    encoding: Annotated[str, Meta(description="Text encoding, such as utf-8, latin-1 or utf-16")] = "utf-8"
    final_newline: Annotated[
        Literal["one", "keep"] | None,
        Meta(
            description="one: a text that isn't empty ends with one newline, however many the template gave; keep: as "
            "many as the template gave. Without it: one, and keep by the rules of chora-compose"
        ),
    ] = None
    generated: Annotated[bool, Meta(description="The file isn't meant to be edited: overwrite it even if it was")] = (
        False
    )


class CompositionConfig(
    Struct,
    frozen=True,
    kw_only=True,
    rename={"duplicate_headings": "duplicateHeaders", "blank_lines": "blankLines"},
):
    """Options of the composition strategy."""

    separator: Annotated[str, Meta(max_length=10_000, description="What stands between two pieces (concat)")] = "\n\n"
    duplicate_headings: Annotated[
        Literal["keep-first", "keep-all"], Meta(description="What becomes of a heading that stood before (merge)")
    ] = "keep-first"
    blank_lines: Annotated[
        Literal["normalize", "keep"], Meta(description="Whether runs of blank lines become one (merge)")
    ] = "normalize"
    template: Annotated[
        str | None,
        Meta(description="Template file or text that sees pieces, by_id and the context (template)"),
    ] = None
    composer: Annotated[str | None, Meta(description="Name of a composer that plugins.composers brings (custom)")] = (
        None
    )
    options: Annotated[dict[str, Any], Meta(description="What the composer is given (custom)")] = {}


class ArtifactMetadata(
    Struct,
    frozen=True,
    kw_only=True,
    rename={"composition_strategy": "compositionStrategy", "composition_config": "compositionConfig"},
):
    """What an artifact is for, and where it goes."""

    title: Annotated[str, Meta(min_length=1, max_length=200, description="Its title", examples=["My artifact"])]
    purpose: Annotated[
        str, Meta(min_length=1, max_length=1000, description="Whom it serves", examples=["Whom it serves"])
    ]
    outputs: Annotated[tuple[ArtifactOutput, ...], Meta(min_length=1, description="The first one is the primary one")]
    type: Annotated[
        Literal["documentation", "test", "code", "configuration", "report", "mixed"] | None,
        Meta(description="What kind of artifact it is; list_artifacts filters by it"),
    ] = None
    version: Annotated[Version | None, Meta(description="Version of this config")] = None
    description: Annotated[str | None, Meta(description="What it consists of")] = None
    composition_strategy: Annotated[
        Literal["concat", "merge", "template", "custom"], Meta(description="How the pieces become one text")
    ] = "concat"
    composition_config: Annotated[CompositionConfig, Meta(description="Options of the strategy")] = CompositionConfig()


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
    required: Annotated[
        bool,
        Meta(
            description="Whether the artifact fails without it; an optional one that fails is left out, with a warning"
        ),
    ] = True
    order: Annotated[Order, Meta(description="Position; equal ones keep their order here")] = 0
    version: Annotated[str | None, Meta(description="Version of the config wanted, for retrievalStrategy version")] = (
        None
    )
    retrieval_strategy: Annotated[
        Literal["latest", "all", "version", "approved_only"], Meta(description="Which stored text to take")
    ] = "latest"
    expected_source: Annotated[
        Literal["ai", "human", "template", "mixed", "any"],
        Meta(description="Who is expected to write it; a warning says if its elements say another generation_source"),
    ] = "any"
    review_required: Annotated[bool, Meta(description="Whether a text that isn't approved is warned about")] = False
    conditions: Annotated[
        str | None,
        Meta(
            description="Jinja2 expression over the context; the child is left out unless it is true. A name that may "
            "be undefined is tested first: audience is defined and audience == 'crew'"
        ),
    ] = None
    notes: Annotated[str | None, Meta(description="A note for people")] = None


class ArtifactContent(Struct, frozen=True, kw_only=True):
    """What an artifact is assembled from."""

    children: Annotated[
        tuple[ArtifactChild, ...], Meta(min_length=1, max_length=100, description="Its pieces, by order, then position")
    ]


class Dependency(Struct, frozen=True, kw_only=True):
    """Something that an artifact is related to; for people, never read."""

    id: Annotated[NotEmpty, Meta(description="Names it", examples=["api-reference"])]
    type: Annotated[
        Literal["artifact", "external_system", "requirement", "code_module"], Meta(description="What it is")
    ]
    locator: Annotated[str | None, Meta(description="Where it is")] = None
    relationship: Annotated[
        Literal["tests", "implements", "documents", "based_on", "related_to", "requires"] | None,
        Meta(description="What the artifact does to it"),
    ] = None
    notes: Annotated[str | None, Meta(description="A note for people")] = None


class ArtifactRule(Struct, frozen=True, kw_only=True):
    """A check on an artifact."""

    id: Annotated[NotEmpty, Meta(description="Names the rule in results", examples=["complete"])]
    check_type: Annotated[
        Literal["completeness", "coherence", "format", "lint", "custom_check"],
        Meta(description="What is checked; custom_check names another one as type in check_config"),
    ]
    target: Annotated[
        str,
        Meta(description="content.children and outputs mean the artifact's files; config; or a file as file:PATH"),
    ] = "content.children"
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
    evolution: Annotated[Evolution, Meta(description="Its stage and history")] = Evolution()


# -- collection ---------------------------------------------------------------------------------------------


class Member(Struct, frozen=True, kw_only=True):
    """An artifact, or another collection, in a collection."""

    id: Annotated[
        str, Meta(pattern=_MEMBER_ID, max_length=255, description="Unique in the collection", examples=["my-member"])
    ]
    type: Annotated[Literal["artifact", "collection"], Meta(description="The kind of config the path names")]
    path: Annotated[
        NotEmpty,
        Meta(
            description="Its file, relative to the project, the config folder or the folder of its type",
            examples=["configs/artifact/my-artifact.json"],
        ),
    ]
    order: Annotated[Order, Meta(description="Position; equal ones keep their order here")] = 0
    required: Annotated[
        bool,
        Meta(description="Whether the collection fails without it; an optional one whose config is gone is skipped"),
    ] = True
    context_override: Annotated[Sources, Meta(description="Sources of context for this member alone")] = Sources()
    freshness_threshold_days: Annotated[
        Days | None, Meta(description="Days after which it counts as expired; instead of default_max_age_days")
    ] = None


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
    overrides: Annotated[
        dict[str, dict[str, Any]], Meta(description="Values for single members, by the member's id")
    ] = {}


class CollectionGeneration(Struct, frozen=True, kw_only=True):
    """How members are built."""

    strategy: Annotated[
        Literal["parallel", "sequential", "mixed"],
        Meta(description="At once, one after another by order, or those of the same order at once"),
    ] = "parallel"
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
    structure: Annotated[
        Literal["nested", "flat", "custom"],
        Meta(description="nested: base_path/MEMBER/file; flat: base_path/file; custom: where the members' configs say"),
    ] = "nested"
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

    enabled: Annotated[bool, Meta(description="Whether check_freshness looks at ages")] = True
    default_max_age_days: Annotated[
        Days, Meta(description="Days after which a member counts as expired; stale from 80 % of them on")
    ] = 7.0


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


STRUCTS: dict[Kind, type[Struct]] = {
    "content": ContentConfig,
    "artifact": ArtifactConfig,
    "collection": CollectionConfig,
}
"""The Struct of each kind of config."""

# -- declared variables -------------------------------------------------------------------------------------


class Declaration(Struct, frozen=True):
    """A variable that the caller is expected to give."""

    name: str
    required: bool = False
    default: Any = UNSET
    type: str | None = None
    """`string`, `number`, `integer`, `boolean`, `array` or `object`; None for any."""
    description: str | None = None

    @property
    def has_default(self) -> bool:
        return self.default is not UNSET


VALUE_TYPES = {
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
"""The names that a declaration may use for a type, and the type each means."""


def split_context(context: Mapping[str, Any]) -> tuple[dict[str, Any], list[Declaration]]:
    """Split a pattern's context into data and declarations, the values shaped `{"source": "runtime", …}`.

    Values shaped `{"source": "file", "path": …}` are data: the engine reads the file.
    """
    data: dict[str, Any] = {}
    declarations: list[Declaration] = []
    for name, value in context.items():
        shape = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        if shape.get("source") != "runtime":
            data[name] = value
            continue
        description = shape.get("description")
        declarations.append(
            Declaration(
                name=name,
                required=shape.get("required") is True,
                default=shape.get("default", UNSET),
                type=VALUE_TYPES.get(str(shape.get("type")).lower()),
                description=description if isinstance(description, str) else None,
            )
        )
    return data, declarations


# -- schemas ------------------------------------------------------------------------------------------------

_TITLES: dict[Kind, str] = {
    "content": "chora content config v3.1",
    "artifact": "chora artifact config v3.1",
    "collection": "chora collection config v1.0",
}


def schema(kind: Kind) -> dict[str, Any]:
    """The JSON Schema 2020-12 of a format as it should be written.

    Keys it doesn't name are allowed. Nothing in it is shared: the caller may change it.
    """
    published = schema_of(STRUCTS[kind], LongSource, ShortSource)
    # The code has one `Source`; configs have one of its two spellings.
    published["$defs"]["Source"] = {
        "title": "Source",
        "description": "A context source, in either spelling.",
        "anyOf": [{"$ref": "#/$defs/LongSource"}, {"$ref": "#/$defs/ShortSource"}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **published,
        "title": _TITLES[kind],
        "examples": [skeleton(kind)],
        "$defs": published["$defs"],
    }


def schema_of(struct: type[Struct], *others: type[Struct]) -> dict[str, Any]:
    """The JSON Schema of a Struct as it should be written, with those of others among its `$defs`."""
    (root, *_), components = msgspec.json.schema_components([struct, *others], ref_template="#/$defs/{name}")
    lifted = components.pop(root["$ref"].rpartition("/")[2])
    return _strict({**lifted, "$defs": components})


def _strict(node: Any) -> Any:
    """A schema without what only the Structs need: null for "absent", and empty defaults."""
    if isinstance(node, list):
        return [_strict(each) for each in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    written = cast("dict[str, Any]", node)
    record = {key: _strict(each) for key, each in written.items() if key != "default" or each not in (None, (), {})}
    choices = [choice for choice in record.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1:
        del record["anyOf"]
        record = {**choices[0], **record}
    return record
