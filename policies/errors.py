"""What can be wrong with a policy. Both are configuration errors: nothing is built, what decides keeps deciding.

PolicyError
├── PolicyConfigError    a policy document that cannot be used: names key, value and what was expected
└── PolicyPluginError    an installed package offers a policy that cannot be used
"""

from __future__ import annotations

import reprlib

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


class PolicyError(Exception):
    """Base of the errors of this package."""


class PolicyConfigError(PolicyError):
    """A policy document that cannot be used.

    `path` is the dotted way to the bad key (`fallback.virtual_nodes`; empty for the document itself), `value` what
    stands there (None where the key is missing), `expected` a phrase that completes "expected ...".
    """

    def __init__(self, path: str, value: object, expected: str, *, problem: str = "") -> None:
        self.path = path
        self.value = value
        self.expected = expected
        said = problem or f"got {_repr.repr(value)}"
        super().__init__(f"{path or 'policy document'}: {said}, expected {expected}")


class PolicyPluginError(PolicyError):
    """An entry point of the group `pointsman.policies` that clashes, does not load or is no policy."""
