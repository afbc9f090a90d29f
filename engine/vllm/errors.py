"""Errors of the vLLM engine.

VllmError
    VllmConfigError      configuration: a setting is wrong; names key, value and what was expected
    MissingExtraError    configuration: Ray or vLLM is not installed; says how to install it
    EngineStartError     configuration: vLLM refused to start; carries vLLM's own message
    UnknownPoolError     configuration: an order names a pool that the fleet does not have; names those it has
    ClusterError         operational: Ray cannot be reached, or has no room for a replica
    ReplicaDiedError     operational: a replica that served stopped doing so; its supervisor starts it again

They cross process borders inside Ray's own exceptions, so each can be pickled.
"""

from __future__ import annotations

from pointsman.contract.errors import ConfigurationError


class VllmError(Exception):
    """Base of all errors this package raises on purpose."""


class VllmConfigError(ConfigurationError, VllmError):
    """A setting that the fleet cannot be started or changed with."""


class UnknownPoolError(VllmError):
    """An order names a pool the fleet has not; the text names those it has."""


class MissingExtraError(VllmError):
    """Ray or vLLM cannot be imported."""

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.module = module

    def __str__(self) -> str:
        return (
            f"real vLLM replicas need the Python package {self.module!r}, which is not installed: "
            "`pip install '.[engine]'` in the clone where there is a GPU, `make engine-cpu` where there is none"
        )


class EngineStartError(VllmError):
    """vLLM refused to start a replica; the text is vLLM's own message. Trying again would end the same way."""


class ClusterError(VllmError):
    """Ray cannot be reached, or has no room for a replica."""


class ReplicaDiedError(VllmError):
    """The engine or the HTTP server of a running replica ended without being asked to."""
