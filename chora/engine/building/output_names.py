"""The names of an artifact's outputs: templates of the context that its composition sees."""

from __future__ import annotations

from chora.engine.building.build import CallerContext
from chora.engine.engine import Engine
from chora.engine.outputs import is_template
from chora.errors import ChoraError, CompositionFailed
from chora.model import ArtifactConfig
from chora.render import RenderFailed, RenderJob


async def render_output_names(
    engine: Engine, config: ArtifactConfig, caller: CallerContext, *, given_first: bool = False
) -> list[str]:
    """The files that a config names for its outputs.

    Args:
        engine: the project.
        config: the artifact.
        caller: the context that names may use, as a composition template may; an undefined name is always an error.
        given_first: whether the first one is replaced anyway.

    Raises:
        CompositionFailed: a name can't be rendered, or comes to none.
    """
    names = [output.file for output in config.metadata.outputs]
    context = caller.with_reserved(artifact_id=config.id).all_names
    for index, template in enumerate(names):
        if given_first and index == 0:
            continue
        if not is_template(template):
            if template.endswith("/"):
                raise _failed(config, template, "it is a folder")
            continue
        job = RenderJob(template=template, name="the output's name", context=context)
        try:
            name = (await engine.templates.pool.render_template(job)).text
        except RenderFailed as failure:
            raise _failed(config, template, failure.reason.message.removesuffix(".")) from None
        except ChoraError as error:
            raise _failed(config, template, error.message.removesuffix(".")) from None
        if name != name.strip() or not name or name.endswith("/") or not name.isprintable() or is_template(name):
            raise _failed(config, template, f"it comes to {name[:200]!r}")
        names[index] = name
    return names


def _failed(config: ArtifactConfig, template: str, problem: str) -> CompositionFailed:
    return CompositionFailed(
        f"{config.id}: the output {template} names no file: {problem}.",
        "The name of an output knows the context of the caller and of the collection, and artifact_id; sources of a "
        "content aren't among them.",
        composition_strategy=config.metadata.composition_strategy,
        error_type="InvalidOutputName",
        output_path=template,
    )
