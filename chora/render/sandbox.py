"""Templates, queries and expressions in jinja2's sandbox; alone in importing jinja2 and jsonpath.

One module, because that is the boundary: whatever touches these libraries is in here, and runs in a worker.
"""

from __future__ import annotations

import hashlib
import json
import re
import types
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from types import CodeType
from typing import Any, Final, NamedTuple, NoReturn, cast

import msgspec
from jinja2 import (
    BaseLoader,
    ChainableUndefined,
    StrictUndefined,
    Template,
    TemplateError,
    TemplateNotFound,
    TemplateRuntimeError,
    TemplatesNotFound,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    meta,
    nodes,
)
from jinja2.compiler import CodeGenerator
from jinja2.environment import Environment
from jinja2.exceptions import SecurityError
from jinja2.runtime import LoopContext, Macro, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, missing
from markupsafe import Markup

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
from chora.wording import find_nearest

UNDEFINED_NAMES_LIMIT: Final = 100
"""The most undefined names that are reported, each truncated to `NAME_LENGTH` characters."""
NAME_LENGTH: Final = 200
MESSAGE_LENGTH: Final = 500


class OutputExceeded(Exception):
    """The text exceeds the limit."""


class _CodeGenerator(CodeGenerator):
    """Looks up what is called as a method, and everything else as data: `x.items()` and `x.items` differ."""

    _called: nodes.Node | None = None

    def visit_Call(self, node: nodes.Call, frame: Any, forward_caller: bool = False) -> None:
        self._called = node.node
        super().visit_Call(node, frame, forward_caller=forward_caller)

    def visit_Getattr(self, node: nodes.Getattr, frame: Any) -> None:
        if node is not self._called:
            super().visit_Getattr(node, frame)
            return
        self.write("environment.get_method(")
        self.visit(node.node, frame)
        self.write(f", {node.attr!r})")

    def _output_child_to_const(self, node: nodes.Expr, frame: Any, finalize: Any) -> str:
        # jinja2 escapes a constant before it is finalized, and everything else after that.
        if isinstance(node.as_const(frame.eval_ctx), dict | list | tuple):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)


class Sandbox(ImmutableSandboxedEnvironment):
    """The jinja2 environment of one job, without unsafe attributes and globals (CWE-1336, template injection).

    Templates see plain data: a mapping has its keys and nothing else, unless a method of it is called, and only data
    is printed.
    """

    code_generator_class = _CodeGenerator

    def __init__(self, options: TemplateOptions, undefined: type[Undefined], loader: BaseLoader | None = None) -> None:
        super().__init__(undefined=undefined, loader=loader, finalize=print_value, **msgspec.structs.asdict(options))
        del self.globals["lipsum"]

    def getattr(self, obj: Any, attribute: str) -> Any:
        """An attribute; of a mapping, the value of a key."""
        return (
            self._get_key(cast("dict[Any, Any]", obj), attribute)
            if isinstance(obj, dict)
            else super().getattr(obj, attribute)
        )

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item; of a mapping, the value of a key and never an attribute."""
        return (
            self._get_key(cast("dict[Any, Any]", obj), argument)
            if isinstance(obj, dict)
            else super().getitem(obj, argument)
        )

    def get_method(self, obj: Any, attribute: str) -> Any:
        """An attribute that is called: of a mapping, its method, unless a key holds something to call."""
        if isinstance(obj, dict):
            values = cast("dict[str, Any]", obj)
            if attribute in values and (callable(values[attribute]) or not hasattr(values, attribute)):
                return values[attribute]
        return super().getattr(obj, attribute)

    def _get_key(self, obj: dict[Any, Any], key: Any) -> Any:
        try:
            return obj[key]
        except (TypeError, LookupError):
            pass
        is_unsafe = isinstance(key, str) and hasattr(obj, key) and not self.is_safe_attribute(obj, key, None)
        return self.unsafe_undefined(obj, key) if is_unsafe else self.undefined(obj=obj, name=key)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        """Raise at once; jinja2 returns an undefined, which a lenient template would print as nothing."""
        raise SecurityError(
            f"access to attribute {attribute!r} of {type(cast(object, obj)).__name__!r} object is unsafe."
        )

    def select_template(self, names: Any, parent: str | None = None, globals: Any = None) -> Template:
        """The first of some templates that exists."""
        if not isinstance(names, list | tuple | Undefined):
            raise _not_a_name(cast(object, names))
        return super().select_template(cast(Any, names), parent, globals)

    def _load_template(self, name: Any, globals: Any) -> Template:
        if isinstance(name, Undefined):
            str(name)  # raises, unless the template is lenient
        if not isinstance(name, str):
            raise _not_a_name(name)
        return super()._load_template(name, globals)

    def handle_exception(self, source: str | None = None) -> NoReturn:
        """Keep the traceback, which jinja2 would rewrite; `_locate` reads template and line from it."""
        raise


def _not_a_name(value: object) -> TemplateError:
    return TemplateRuntimeError(f"the name of a template is a text, not {repr(value)[:NAME_LENGTH]}")


# -- what may be printed ----------------------------------------------------------------------------------------

_SCALARS: Final = frozenset({str, int, float, bool, type(None), Markup})
_COLLECTIONS: Final[tuple[type[Iterable[Any]], ...]] = (
    list,
    tuple,
    set,
    frozenset,
    range,
    KeysView,
    ValuesView,
    ItemsView,
)
_SERIES: Final = (range, KeysView, ValuesView, ItemsView)
"""What Python calls by its own name where it prints it, such as `dict_items([…])`; to a template they are lists."""
_INNER_OBJECTS: Final = (LoopContext, Namespace, TemplateReference)
"""What jinja2 gives templates to work with (`loop`, `namespace()`, `self`), which has no text of its own."""
_OBJECT = re.compile(r" at (0x[0-9a-f]{6,16})(?:>|&gt;|&#62;)|<(?:Macro|class) ('[^'<>]{1,100}')>", re.IGNORECASE)
"""How Python writes an object that isn't data, with its address in memory; jinja2 a macro."""


def print_value(value: Any) -> Any:
    """What is printed of a value: a mapping, or a list or another series, as the JSON that `tojson` writes, everything
    else as in jinja2.

    Raises:
        TemplateRuntimeError, UndefinedError: as `check_printable`.
    """
    value = check_printable(value)
    if isinstance(value, _SERIES):
        value = list(cast("Iterable[Any]", value))
    if isinstance(value, dict | list | tuple):
        try:
            return json.dumps(cast(object, value), ensure_ascii=False, default=_as_json)
        except TypeError:  # a key that JSON can't hold
            return cast(object, value)
    return value


def _as_json(value: Any) -> Any:
    return list(cast("Iterable[Any]", value)) if isinstance(value, _SERIES) else str(value)


def check_printable(value: Any) -> Any:
    """The value, if it is data or consists of data.

    Raises:
        TemplateRuntimeError: it is or contains something to call, or something that is written with its address in
            memory, which differs from run to run.
        UndefinedError: it contains an undefined value, in a strict template.
    """
    if type(value) in _SCALARS or isinstance(value, Undefined):
        return value
    waiting: list[Any] = [value]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if type(each) in _SCALARS:
            continue
        if isinstance(each, Undefined):
            str(each)
        elif id(each) in seen:
            continue
        elif isinstance(each, dict):
            pairs = cast("dict[Any, Any]", each)
            waiting += [*pairs, *pairs.values()]
            seen.add(id(pairs))
        elif isinstance(each, _COLLECTIONS):
            members = cast("Iterable[Any]", each)
            waiting += members
            seen.add(id(members))
        elif callable(each) or isinstance(each, _INNER_OBJECTS) or _OBJECT.search(repr(each)):
            raise TemplateRuntimeError(f"{_describe_object(each)}, which isn't data, is printed{_advice(each)}")
    return value


def _describe_object(value: Any) -> str:
    name = str(getattr(value, "__name__", None) or getattr(value, "name", None) or type(value).__name__)[:NAME_LENGTH]
    match value:
        case types.BuiltinMethodType() | types.MethodType():
            return f"{name}, a method of {type(cast(object, value.__self__)).__name__}"
        case Macro():
            return f"the macro {name}"
        case LoopContext() | Namespace() | TemplateReference():
            return {"LoopContext": "loop", "Namespace": "a namespace"}.get(type(cast(object, value)).__name__, "self")
        case Iterator():
            return f"the result of a filter ({name.removeprefix('sync_do_')})"
        case _:
            return f"{name}, {'a function' if callable(value) else 'an object'}"


def _advice(value: Any) -> str:
    if isinstance(value, _INNER_OBJECTS):
        return "; print what is in it"
    if isinstance(value, Iterator):
        return "; write | list or | join(', ') behind it"
    return "; call it with ()" if callable(value) else ""


def _check_text(text: str, job: RenderJob, sources: Mapping[str, str]) -> None:
    """Refuse a text that has taken in something else than data, for example by `~` or a filter.

    Data and templates may hold such a text themselves.
    """
    if not (found := _find_objects(text)):
        return
    given = _find_objects(msgspec.json.encode(job.context).decode())
    for source in sources.values():
        given |= _find_objects(source)
    if strange := found - given:
        raise TemplateRuntimeError(
            f"the text holds a function, a method or another object of Python ({min(strange)}), which isn't data"
        )


def _find_objects(text: str) -> set[str]:
    return {(match[1] or match[2]).casefold() for match in _OBJECT.finditer(text)}


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


class UndefinedUses(NamedTuple):
    """The undefined names that a lenient template used, in order."""

    printed: dict[str, None]
    tested: dict[str, None]
    """Those that were looked at otherwise: in a condition, a loop or a comparison."""

    @classmethod
    def none(cls) -> UndefinedUses:
        return cls({}, {})


def _lenient_undefined(used: UndefinedUses) -> type[Undefined]:
    """An undefined type that is empty, as are its attributes, and adds its name to `used` when its value is used.

    Tests (`is defined`, `default`) and attribute access (`a.b.c`) don't use the value.
    """

    class Lenient(ChainableUndefined):
        __slots__ = ()

        def _note(self, names: dict[str, None]) -> None:
            if self._undefined_name is not None and len(names) < UNDEFINED_NAMES_LIMIT:
                names[str(self._undefined_name)[:NAME_LENGTH]] = None

        def __str__(self) -> str:
            self._note(used.printed)
            return ""

        def __bool__(self) -> bool:
            self._note(used.tested)
            return False

        def __len__(self) -> int:
            self._note(used.tested)
            return 0

        def __iter__(self) -> Iterator[Any]:
            self._note(used.tested)
            return iter(())

        def __eq__(self, other: object) -> bool:
            self._note(used.tested)
            return super().__eq__(other)

        def __hash__(self) -> int:
            self._note(used.tested)
            return super().__hash__()

    return Lenient


def render_template(job: RenderJob, compiled: CompiledTemplates, output: int) -> RenderedText | JobFailure:
    """Render a template to at most `output` bytes.

    Raises:
        MemoryError: out of memory; the worker should end.
    """
    used = UndefinedUses.none()
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
        text = "".join(pieces)
        _check_text(text, job, sources)
        return RenderedText(text, list(used.printed), [name for name in used.tested if name not in used.printed])
    except MemoryError:
        raise
    except Exception as error:  # a template can raise any exception
        return describe_error(error, job.name)


def scan_template(job: ScanJob) -> TemplateReferences | JobFailure:
    """Find the references and variables of a template in its syntax tree."""
    try:
        sandbox = Sandbox(job.options, StrictUndefined)
        tree = sandbox.parse(job.source, job.name)
        references = dict.fromkeys(meta.find_referenced_templates(tree))
        return TemplateReferences(
            references=[reference for reference in references if reference is not None],
            dynamic=None in references,
            variables=sorted(meta.find_undeclared_variables(tree)),
            fault=_find_unknown(sandbox, tree, job.name),
            required=_list_required(tree),
        )
    except MemoryError:
        raise
    except Exception as error:  # see render
        return describe_error(error, job.name)


def _find_unknown(sandbox: Sandbox, tree: nodes.Template, name: str) -> JobFailure | None:
    """A filter or a test that there is none of; behind an `if`, jinja2 notices that only while it renders."""
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        kind, known = ("filter", sandbox.filters) if isinstance(node, nodes.Filter) else ("test", sandbox.tests)
        if node.name not in known:
            near = find_nearest(node.name, known, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            message = f"No {kind} named {node.name!r}{meant}"
            return JobFailure("syntax", message[:MESSAGE_LENGTH], name[:NAME_LENGTH], node.lineno)
    return None


def _list_required(tree: nodes.Template) -> dict[str, int]:
    """The templates that a render needs in any case, and the lines that name them: neither behind an `if`, in a loop or
    in a block, which another template may replace, nor marked `ignore missing`."""
    extends = any(isinstance(node, nodes.Extends) for node in tree.body)
    needed: dict[str, int] = {}
    for node in tree.body:
        match node:
            case nodes.Include(ignore_missing=True):
                pass
            case nodes.Include(template=nodes.Const(value=str(name))) if not extends:
                needed.setdefault(name, node.lineno)
            case (
                nodes.Extends(template=nodes.Const(value=str(name)))
                | nodes.Import(template=nodes.Const(value=str(name)))
                | nodes.FromImport(template=nodes.Const(value=str(name)))
            ):
                needed.setdefault(name, node.lineno)
            case _:
                pass
    return needed


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
    """Evaluate an expression in the sandbox that templates run in; an undefined name may only be tested."""
    try:
        sandbox = Sandbox(TemplateOptions(), StrictUndefined)
        return EvaluatedCondition(
            bool(sandbox.compile_expression(job.expression, undefined_to_none=False)(job.context))
        )
    except MemoryError:
        raise
    except Exception as error:  # see render
        return describe_error(error, job.name)


_INTROSPECTION: Final = "<introspection>"
"""What `jinja2.meta` calls a template in its errors."""
_MISSING_FILTER: Final = re.compile(r"t_[0-9]+")
"""The functions that jinja2 compiles for a filter or test that doesn't exist and may not be needed."""


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
            if isinstance(error, TemplatesNotFound):
                message = f"None of the templates {', '.join(map(str, error.templates))}{referrer} exists."
            else:
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
    if template in (None, _INTROSPECTION):
        template = name
    return JobFailure(kind, message[:MESSAGE_LENGTH], str(template)[:NAME_LENGTH], line, variable)


def _locate(error: Exception) -> tuple[str | None, int | None, str | None]:
    """The innermost template and line in the traceback, and the undefined variable, if that is the cause."""
    name: str | None = None
    line: int | None = None
    variable: str | None = None
    traceback = error.__traceback__
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, Template) and not _MISSING_FILTER.fullmatch(traceback.tb_frame.f_code.co_name):
            name, line = template.name, template.get_corresponding_lineno(traceback.tb_lineno)
        elif isinstance(undefined := traceback.tb_frame.f_locals.get("self"), Undefined):
            absent: Any = undefined._undefined_name
            variable = None if absent is None else str(absent)[:NAME_LENGTH]
        traceback = traceback.tb_next
    return name, line, variable
