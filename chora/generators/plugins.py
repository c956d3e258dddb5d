"""Loading a project's own generators and composers: named modules or files, checked whole before anything starts."""

from __future__ import annotations

import copy
import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, cast

import msgspec
import trio

from chora.errors import ChoraError, UsageError
from chora.files import CONFIG_LIMIT, Folder
from chora.generators.generator import GeneratedText, GenerationJob, list_names, template_file
from chora.shutdown import receives_signals

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_DIGEST = "__chora_digest__"

Check = Callable[[str, ModuleType], ModuleType]


def load_generator(spec: str, folder: Folder) -> ModuleType:
    """The generator that a line of `plugins.generators` names.

    Args:
        spec: a module that can be imported, or a `.py` file of the project.
        folder: the project.

    Raises:
        UsageError: it isn't there, can't be imported, or lacks a part; the message says which.
    """
    return _load_plugin("generator", spec, folder, _check_generator)


def load_composers(specs: Sequence[str], folder: Folder) -> dict[str, ModuleType]:
    """The composers in `plugins.composers`, by name.

    A composer is a module with `NAME` and
    `async def compose(pieces: list[dict], context: dict, options: dict) -> str`.

    Raises:
        UsageError: as for a generator, or two have the same name.
    """
    found: dict[str, ModuleType] = {}
    for spec in specs:
        composer = _load_plugin("composer", spec, folder, _check_composer)
        if composer.NAME in found:
            raise _plugin_error("composer", spec, f"the name {composer.NAME} is taken by another one")
        found[composer.NAME] = composer
    return found


def source_digest(module: ModuleType) -> str:
    """SHA-256 of a plugin's source, so that an edited plugin's texts are generated again; empty for other modules."""
    return getattr(module, _DIGEST, "")


@contextmanager
def plugin_code(
    explain: Callable[[BaseException], Exception], passing: tuple[type[Exception], ...] = ()
) -> Generator[None]:
    """Run a plugin's code: whatever it raises is its own failure, be it `sys.exit` or `KeyboardInterrupt`.

    Cancellation passes, and so does Ctrl-C at a command; in a server, which receives SIGINT itself, only a plugin can
    raise `KeyboardInterrupt`.

    Args:
        explain: makes the error of what was raised.
        passing: errors that are raised as they are.

    Raises:
        Exception: what `explain` makes.
    """
    try:
        yield
    except (trio.Cancelled, GeneratorExit):
        raise
    except BaseException as error:
        is_interrupted = isinstance(error, KeyboardInterrupt) and not receives_signals()
        if is_interrupted or _is_cancelled(error) or isinstance(error, passing):
            raise
        explained = explain(error)
        if explained is error:
            raise
        raise explained from error


def _is_cancelled(error: BaseException) -> bool:
    """Whether an error is a group with a cancellation in it."""
    if not isinstance(error, BaseExceptionGroup):
        return False
    group = cast("BaseExceptionGroup[BaseException]", error)
    return group.subgroup(trio.Cancelled) is not None


def _load_plugin(kind: str, spec: str, folder: Folder, check: Check) -> ModuleType:
    source: bytes | None = None
    if spec.endswith(".py"):
        try:
            source = folder.read_bytes(spec, limit=CONFIG_LIMIT)
        except FileNotFoundError:
            raise _plugin_error(kind, spec, "there is no such file in the project") from None
        except ChoraError as error:
            raise _plugin_error(kind, spec, error.message.rstrip(".")) from None
    with plugin_code(partial(_import_error, kind, spec), (UsageError,)):
        if source is None:
            module, source = _import_module(spec)
        else:
            module = _execute_file(folder.resolve(spec), source)
        checked = check(spec, module)
    checked.__dict__[_DIGEST] = hashlib.sha256(source).hexdigest()
    return checked


def _import_error(kind: str, spec: str, error: BaseException) -> UsageError:
    if not isinstance(error, ImportError):
        return _plugin_error(kind, spec, f"it can't be imported: {type(error).__name__}: {error}")
    hint = ""
    if (error.name or "").startswith("chora_compose"):
        hint = "Leave out the import and the base class: any class with a generate method will do."
    return _plugin_error(kind, spec, f"it can't be imported: {error}", hint)


def _execute_file(path: Path, source: bytes) -> ModuleType:
    """A file of the project as a module; what was read is what runs and what the digest is of."""
    code = compile(source, str(path), "exec", dont_inherit=True)
    module = ModuleType(f"chora_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and type hints look there
    try:
        exec(code, module.__dict__)  # noqa: S102  (the settings name it: running it is what was asked for)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _import_module(spec: str) -> tuple[ModuleType, bytes]:
    module = importlib.import_module(spec)
    loader = module.__spec__.loader if module.__spec__ else None
    get_data = getattr(loader, "get_data", None)
    source = get_data(module.__file__) if get_data and module.__file__ else b""
    return module, source or spec.encode()


def _check_generator(spec: str, module: ModuleType) -> ModuleType:
    if not hasattr(module, "generate") and (plugin_class := _find_generator_class(spec, module)):
        return _adapt_class(spec, module, plugin_class)
    _check_name("generator", spec, module)
    for part in ("VERSION", "DESCRIPTION"):
        if not isinstance(getattr(module, part, None), str):
            raise _plugin_error("generator", spec, f"it lacks {part}, a text")
    for part in ("CAPABILITIES", "ALIASES"):
        words: Any = getattr(module, part, None if part == "CAPABILITIES" else ())
        if not isinstance(words, tuple | list) or not all(isinstance(word, str) for word in cast("list[Any]", words)):
            raise _plugin_error("generator", spec, f"it lacks {part}, a tuple of texts")
    _check_async("generator", spec, module, "generate", "job")
    if hasattr(module, "ingredients"):
        _check_async("generator", spec, module, "ingredients", "job")
    return module


def _check_composer(spec: str, module: ModuleType) -> ModuleType:
    _check_name("composer", spec, module)
    _check_async("composer", spec, module, "compose", "pieces, context, options")
    return module


def _check_name(kind: str, spec: str, module: ModuleType) -> None:
    name = getattr(module, "NAME", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _plugin_error(kind, spec, "it lacks NAME, a text of lower-case letters, digits, - and _")


def _check_async(kind: str, spec: str, module: ModuleType, function: str, parameters: str) -> None:
    import inspect

    found = getattr(module, function, None)
    if not inspect.iscoroutinefunction(found):
        raise _plugin_error(kind, spec, f"it lacks `async def {function}({parameters})`")
    try:
        inspect.signature(found).bind(*parameters.split(", "))
    except TypeError:
        raise _plugin_error(kind, spec, f"its {function} doesn't take ({parameters})") from None


def _plugin_error(kind: str, spec: str, what: str, hint: str = "") -> UsageError:
    return UsageError(
        f"The {kind} {spec} can't be used: {what}.",
        hint or f"Fix it, or remove it from the setting plugins.{kind}s.",
        setting=f"plugins.{kind}s",
        plugin=spec,
    )


# -- classes, as chora-compose has them -------------------------------------------------------------------------


def _find_generator_class(spec: str, module: ModuleType) -> type | None:
    """The class with a `generate` method that a module defines; base classes of another one don't count."""
    defined: list[type] = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__ and callable(getattr(each, "generate", None))
    ]
    last = [one for one in defined if not any(other is not one and issubclass(other, one) for other in defined)]
    if len(last) > 1:
        names = list_names([each.__name__ for each in last])
        raise _plugin_error("generator", spec, f"it has more than one class that generates: {names}")
    return last[0] if last else None


def _adapt_class(spec: str, module: ModuleType, plugin_class: type) -> ModuleType:
    """A class of chora-compose as a generator: its synchronous `generate` runs in a thread."""
    import inspect

    def explain(error: BaseException) -> UsageError:
        return _plugin_error("generator", spec, f"{plugin_class.__name__}() failed: {type(error).__name__}: {error}")

    with plugin_code(explain):
        instance: Any = plugin_class()
    adapted = ModuleType(module.__name__)
    stem = PurePath(spec).stem if spec.endswith(".py") else spec.rpartition(".")[2]
    adapted.NAME = (  # pyright: ignore[reportAttributeAccessIssue]
        getattr(module, "GENERATOR_TYPE", None)
        or getattr(plugin_class, "GENERATOR_TYPE", None)
        or stem.removesuffix("_generator")
    )
    _check_name("generator", spec, adapted)
    name: str = adapted.NAME
    arguments = _make_argument_binder(spec, instance.generate)
    is_async = inspect.iscoroutinefunction(instance.generate)
    depends: Any = getattr(instance, "upstream_dependencies", None)
    safe = cast("dict[str, Any]", depends).get("concurrency_safe", True) if isinstance(depends, dict) else True
    limiter = None if safe else trio.CapacityLimiter(1)

    async def ingredients(job: GenerationJob) -> dict[str, str]:
        return template_file(job, name)

    async def generate(job: GenerationJob) -> GeneratedText:
        def call() -> Any:
            _check_context(job, name, instance)
            values, named = arguments(job)
            return instance.generate(*values, **named)

        if is_async:
            text = await call()
        else:
            text = await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter)
        if not isinstance(text, str):
            raise job.failed(name, "the plugin returned no text", "Its generate must return a str.")
        return GeneratedText(text, (), job.template if job.template in job.sources else None)

    with plugin_code(explain):
        required = tuple(_required_keys(instance))
    summary = (plugin_class.__doc__ or f"Generates {name}.").strip().partition("\n")[0]
    adapted.__dict__.update(
        VERSION=str(getattr(instance, "version", "0.0.0")),
        DESCRIPTION=str(getattr(instance, "description", None) or summary),
        CAPABILITIES=tuple(map(str, getattr(instance, "capabilities", ()))),
        REQUIRED_CONTEXT_KEYS=required,
        UPSTREAM_DEPENDENCIES=_plain_dependencies(depends),
        ingredients=ingredients,
        generate=generate,
    )
    return adapted


def _make_argument_binder(
    spec: str, function: Callable[..., Any]
) -> Callable[[GenerationJob], tuple[list[Any], dict[str, Any]]]:
    """The arguments for a `generate` that takes some of config, context and template, in whichever order.

    A config annotated as a dict is the plain document, else the typed one; both are copies.
    """
    import inspect

    taken: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        if parameter.name in ("config", "context", "template"):
            taken.append(parameter)
        elif parameter.default is inspect.Parameter.empty:
            raise _plugin_error(
                "generator", spec, f"its generate requires {parameter.name}; it may take config, context and template"
            )

    def bind(job: GenerationJob) -> tuple[list[Any], dict[str, Any]]:
        values: list[Any] = []
        named: dict[str, Any] = {}
        for parameter in taken:
            if parameter.name == "context":
                value: Any = copy.deepcopy(job.context)
            elif parameter.name == "template":
                value = job.sources.get(job.template or "", job.template or "")
            elif "dict" in str(parameter.annotation).lower() or "mapping" in str(parameter.annotation).lower():
                value = msgspec.to_builtins(job.config)
            else:
                value = job.config
            if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
                values.append(value)
            else:
                named[parameter.name] = value
        return values, named

    return bind


def _required_keys(instance: Any) -> list[str]:
    keys: Any = getattr(instance, "required_context_keys", None) or getattr(instance, "get_required_context_keys", ())
    return [str(key) for key in cast("Iterable[Any]", keys() if callable(keys) else keys)]


def _plain_dependencies(depends: Any) -> dict[str, Any]:
    """What a class says of the services that it calls; nothing if that can't be shown as JSON."""
    try:
        return msgspec.json.decode(msgspec.json.encode(depends), type=dict[str, Any])
    except (msgspec.MsgspecError, TypeError, RecursionError):
        return {}


def _check_context(job: GenerationJob, name: str, instance: Any) -> None:
    """Check that the context has what the class requires."""
    missing = [key for key in _required_keys(instance) if key not in job.context]
    if missing:
        raise job.failed(
            name,
            f"the context lacks {list_names(missing)}",
            "Pass it in context.",
            error_type="MissingVariable",
            missing_variable=missing[0],
        )
    validate = getattr(instance, "validate_context", None)
    if validate and validate(copy.deepcopy(job.context)) is False:
        raise job.failed(name, "the plugin refuses the context", "Its documentation says what it needs.")
