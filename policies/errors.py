"""Errors of a policy's configuration: nothing is built, and the live policy stays.

PolicyError
├── PolicyConfigError    a policy document that cannot be used: names key, value and what was expected
└── PolicyPluginError    an installed package offers a policy that cannot be used
"""

from __future__ import annotations

from typing import ClassVar

from pointsman.contract.errors import ConfigurationError


class PolicyError(Exception):
    """Base of the errors of this package."""


class PolicyConfigError(ConfigurationError, PolicyError):
    """A policy document that cannot be used. `key` is the dotted path to the bad key: `fallback.virtual_nodes`."""

    document: ClassVar[str] = "policy document"


class PolicyPluginError(PolicyError):
    """An entry point of the group `pointsman.policies` that clashes, does not load or is no policy."""
