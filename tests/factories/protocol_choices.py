"""The parameters of a protocol, for tests that make a profile of it."""

from typing import Any

from ctlib.training.protocol import CHOICES_OF_METHOD, PARTS


def parameters_of(protocol: str) -> dict[str, Any]:
    """The parameters that a protocol decides, with its values; lists of parts joined."""
    found: dict[str, Any] = {}
    for choice in CHOICES_OF_METHOD:
        for name, value in choice.of(protocol).parameters.items():
            found[name] = [*found.get(name, []), *value] if name in PARTS else value
    return found
