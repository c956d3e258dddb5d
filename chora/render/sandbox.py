"""Templates, queries and expressions in jinja2's sandbox; alone in importing jinja2 and jsonpath."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, MutableMapping
from types import CodeType
from typing import Any, Final, NoReturn, cast

import msgspec
from jinja2 import (
    BaseLoader,
    ChainableUndefined,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateNotFound,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    meta,
    nodes,
)
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from chora.nesting import NestedTooDeeply
from chora.render import (
    EvaluatedCondition,
    EvaluateJob,
    FailureKind,
    JobFailure,
    RenderedText,
    RenderJob,
    ScanJob,
    SelectedValues,
    SelectJob,
    TemplateOptions,
    TemplateReferences,
    iregexp,
)

UNDEFINED_NAMES_LIMIT: Final = 100
"""The most undefined names that are reported, each truncated to `NAME_LENGTH` characters."""
NAME_LENGTH: Final = 200
MESSAGE_LENGTH: Final = 500


class OutputExceeded(Exception):
    """The text exceeds the limit."""


class Sandbox(ImmutableSandboxedEnvironment):
    """The jinja2 environment of one job, without unsafe attributes and globals (CWE-1336, template injection)."""

    def __init__(self, options: TemplateOptions, undefined: type[Undefined], loader: BaseLoader | None = None) -> None:
        super().__init__(undefined=undefined, loader=loader, **msgspec.structs.asdict(options))
        del self.globals["lipsum"]

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Raise at once; jinja2 returns an undefined, which a lenient template would print as nothing.

        A key of the data with the name of an unsafe method (`update`, `pop`) is only data.
        """
        if isinstance(obj, dict) and attribute in obj:
            return cast("dict[str, Any]", obj)[attribute]
        raise SecurityError(
            f"access to attribute {attribute!r} of {type(cast(object, obj)).__name__!r} object is unsafe."
        )

    def handle_exception(self, source: str | None = None) -> NoReturn:
        """Keep the traceback, which jinja2 would rewrite; `_locate` reads template and line from it."""
        raise


class CompileTimeUndefined(StrictUndefined):
    """An undefined name while a constant expression is folded at compile time: raises nodes.Impossible.

    So the expression is evaluated when it is rendered. With the undefined type of the job, it would be folded once, in
    the cached code, and only the first job would report the name.
    """

    __slots__ = ()

    def __init__(self, hint: str | None = None, obj: Any = missing, name: str | None = None, *_: object) -> None:
        super().__init__(hint, obj, name, cast(Any, nodes.Impossible))


class CompiledTemplates:
    """A cache of compiled templates, by source and options; least recently used ones are dropped."""

    def __init__(self, bound: int = 128) -> None:
        self._bound = bound
        self._codes: dict[tuple[TemplateOptions, str, bytes], CodeType] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def compile_template(self, options: TemplateOptions, name: str, source: str) -> CodeType:
        key = (options, name, hashlib.sha256(source.encode()).digest())
        code = self._codes.pop(key, None)
        if code is None:
            code = Sandbox(options, CompileTimeUndefined).compile(source, name)
            if len(self._codes) == self._bound:
                del self._codes[next(iter(self._codes))]
        self._codes[key] = code
        return code


class SourceLoader(BaseLoader):
    """Loads templates from the sources of one job.

    It overrides `load` rather than `get_source`, to use the compiled code.
    """

    def __init__(self, sources: Mapping[str, str], options: TemplateOptions, compiled: CompiledTemplates) -> None:
        self._sources = sources
        self._options = options
        self._compiled = compiled

    def load(self, environment: Environment, name: str, globals: MutableMapping[str, Any] | None = None) -> Template:
        source = self._sources.get(name)
        if source is None:
            raise TemplateNotFound(name)
        code = self._compiled.compile_template(self._options, name, source)
        return environment.template_class.from_code(environment, code, {} if globals is None else globals)


def _lenient_undefined(used: dict[str, None]) -> type[Undefined]:
    """An undefined type that is empty, as are its attributes, and adds its name to `used` when its value is used.

    Tests (`is defined`, `default`) and attribute access (`a.b.c`) don't use the value.
    """

    class Lenient(ChainableUndefined):
        __slots__ = ()

        def _note(self) -> None:
            if self._undefined_name is not None and len(used) < UNDEFINED_NAMES_LIMIT:
                used[str(self._undefined_name)[:NAME_LENGTH]] = None

        def __str__(self) -> str:
            self._note()
            return ""

        def __bool__(self) -> bool:
            self._note()
            return False

        def __len__(self) -> int:
            self._note()
            return 0

        def __iter__(self) -> Iterator[Any]:
            self._note()
            return iter(())

        def __eq__(self, other: object) -> bool:
            self._note()
            return super().__eq__(other)

        def __hash__(self) -> int:
            self._note()
            return super().__hash__()

    return Lenient


def render_template(job: RenderJob, compiled: CompiledTemplates, output: int) -> RenderedText | JobFailure:
    """Render a template to at most `output` bytes.

    Raises:
        MemoryError: out of memory; the worker should end.
    """
    used: dict[str, None] = {}
    try:
        sources = job.sources if job.template is None else {**job.sources, job.name: job.template}
        loader = SourceLoader(sources, job.options, compiled)
        undefined = StrictUndefined if job.undefined == "strict" else _lenient_undefined(used)
        template = Sandbox(job.options, undefined, loader).get_template(job.name)
        pieces: list[str] = []
        size = 0
        for piece in template.generate(job.context):
            size += len(piece) if piece.isascii() else len(piece.encode())
            if size > output:
                raise OutputExceeded(f"The text is larger than {output} bytes.")
            pieces.append(piece)
        return RenderedText("".join(pieces), list(used))
    except MemoryError:
        raise
    except Exception as error:  # a template can raise any exception
        return describe_error(error, job.name)


def scan_template(job: ScanJob) -> TemplateReferences | JobFailure:
    """Find the references and variables of a template in its syntax tree."""
    try:
        tree = Sandbox(job.options, StrictUndefined).parse(job.source, job.name)
        references = dict.fromkeys(meta.find_referenced_templates(tree))
        return TemplateReferences(
            references=[reference for reference in references if reference is not None],
            dynamic=None in references,
            variables=sorted(meta.find_undeclared_variables(tree)),
        )
    except MemoryError:
        raise
    except Exception as error:  # see render
        return describe_error(error, job.name)


def select_values(job: SelectJob) -> SelectedValues | JobFailure:
    """Run a JSONPath query."""
    import jsonpath  # takes 0.1 s; only for projects with such selectors

    try:
        query = _json_path_environment().compile(job.query)
        is_singular = isinstance(query, jsonpath.JSONPath) and query.singular_query()
        # jsonpath would parse a string as JSON; of a scalar, only the query `$` selects something.
        data: Any = job.data
        if not isinstance(data, dict | list):
            return SelectedValues([data] if job.query.strip() == "$" else [], is_singular)
        return SelectedValues(query.findall(cast(Any, data)), is_singular)
    except jsonpath.JSONPathError as error:
        return JobFailure("syntax", str(error)[:MESSAGE_LENGTH], job.name[:NAME_LENGTH])
    except MemoryError:
        raise
    except Exception as error:  # functions in filters can raise any exception
        return describe_error(error, job.name)


def _json_path_environment() -> Any:
    """An environment of RFC 9535 whose `match` and `search` take I-Regexp."""
    import jsonpath
    from jsonpath.function_extensions import Match, Search

    class IRegexp:
        """Overrides how a filter compiles its pattern; one that isn't a pattern matches nothing (RFC 9535)."""

        def check_cache(self, pattern: str) -> re.Pattern[str] | None:
            try:
                return iregexp.compile_pattern(pattern)
            except re.error:
                return None

    environment = jsonpath.JSONPathEnvironment(strict=True)
    for name, function in (("match", Match), ("search", Search)):
        environment.function_extensions[name] = type(name, (IRegexp, function), {})()
    return environment


def evaluate_condition(job: EvaluateJob) -> EvaluatedCondition | JobFailure:
    """Evaluate an expression in the sandbox that templates run in."""
    try:
        sandbox = Sandbox(TemplateOptions(), _lenient_undefined({}))
        return EvaluatedCondition(
            bool(sandbox.compile_expression(job.expression, undefined_to_none=False)(job.context))
        )
    except UndefinedError:  # an undefined name was compared or calculated with
        return EvaluatedCondition(False)
    except MemoryError:
        raise
    except Exception as error:  # see render
        return describe_error(error, job.name)


def describe_error(error: Exception, name: str) -> JobFailure:
    """Describe an exception as data; `name` is the requested template."""
    template, line, variable = _locate(error)
    message = str(error)
    kind: FailureKind = "runtime"
    match error:
        case TemplateSyntaxError():
            kind, message, template, line = "syntax", error.message or "", error.name, error.lineno
        case TemplateNotFound():
            referrer = f", which {template} refers to in line {line}," if template else ""
            message = f"The template {message}{referrer} doesn't exist."
            kind, template, line = "template_not_found", error.name, None
        case UndefinedError():
            kind = "undefined"
        case SecurityError():
            kind = "security"
        case OutputExceeded():
            kind = "output"
        case RecursionError() | NestedTooDeeply():
            kind = "recursion"
        case TemplateError():
            pass
        case _:
            message = f"{type(error).__name__}: {message}"
    return JobFailure(kind, message[:MESSAGE_LENGTH], (template or name)[:NAME_LENGTH], line, variable)


def _locate(error: Exception) -> tuple[str | None, int | None, str | None]:
    """The innermost template and line in the traceback, and the undefined variable, if that is the cause."""
    name: str | None = None
    line: int | None = None
    variable: str | None = None
    traceback = error.__traceback__
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, Template):
            name, line = template.name, template.get_corresponding_lineno(traceback.tb_lineno)
        elif isinstance(undefined := traceback.tb_frame.f_locals.get("self"), Undefined):
            absent: Any = undefined._undefined_name
            variable = None if absent is None else str(absent)[:NAME_LENGTH]
        traceback = traceback.tb_next
    return name, line, variable
