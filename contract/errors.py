"""The one form of a configuration error: where the value stands, what it is, and what was expected instead.

    edge.yaml: admin.port: got 70000, expected an integer from 0 to 65535

Each package derives its own class from `ConfigurationError`, so that callers may catch those of one package or all.
A `ConfigurationError` is a ValueError, so that a `__post_init__` may raise it while msgspec decodes;
`pointsman.contract.config` then adds where the struct stands.
"""

from __future__ import annotations

import reprlib
from typing import Any, ClassVar, Self

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


class ConfigurationError(ValueError):
    """A value of a configuration that cannot be used.

    key: dotted path of the value below its source (`fallback.points`, `binds[1].port`); empty for the whole document.
    value: the value found there; None where the key is missing.
    expected: a phrase that completes "expected ...".
    problem: what is wrong, where "got VALUE" does not say it, such as `missing` or `unknown key`.
    source: file, variable or flag that the value comes from; empty where there is only one.
    """

    document: ClassVar[str] = "document"
    """Name of a document without a source, for errors that concern no single key."""

    def __init__(self, key: str, value: object, expected: str, problem: str = "", source: str = "") -> None:
        self.key = key
        self.value = value
        self.expected = expected
        self.problem = problem
        self.source = source
        where = ": ".join(part for part in (source, key) if part) or self.document
        super().__init__(f"{where}: {problem or f'got {_repr.repr(value)}'}, expected {expected}")

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        # The arguments of an exception are its text, from which it cannot be made again in another process.
        return type(self), (self.key, self.value, self.expected, self.problem, self.source)
