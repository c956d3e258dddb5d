"""Fields that do nothing in chora, although chora-compose had them and a writer may expect something of them."""

from __future__ import annotations

from collections.abc import Iterator

from chora.engine.validation.rules import RuleFinding
from chora.model import ContentConfig, EphemeralStorage


def find_unused_fields(config: object) -> Iterator[RuleFinding]:
    """One finding for each field that is set."""
    if not isinstance(config, ContentConfig):
        return
    for name, written in zip(
        EphemeralStorage.__struct_fields__, EphemeralStorage.__struct_encode_fields__, strict=True
    ):
        if getattr(config.ephemeral_storage, name) != getattr(EphemeralStorage(), name):
            place = f"ephemeralStorage.{written}"
            message = f"{place} has no effect: the settings storage.backend and storage.path say where texts are kept"
            yield RuleFinding("no_effect", message, place, severity="info")
    for index, rule in enumerate(config.validation.rules):
        if rule.threshold is not None:
            place = f"validation.rules[{index}].threshold"
            yield RuleFinding("no_effect", f"{place} has no effect: no check gives a score", place, severity="info")
