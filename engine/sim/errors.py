"""Errors of the simulated engine.

EngineSimError
    SimConfigError      a setting that cannot work: refuse to start, naming key, value and expectation
    RequestError        a request that vLLM would refuse: answered with its status and body, nothing else happens
"""

from __future__ import annotations

import msgspec

from pointsman.contract.errors import ConfigurationError


class EngineSimError(Exception):
    """Base of everything the simulated engine raises on purpose."""


class SimConfigError(ConfigurationError, EngineSimError):
    """A configuration of the simulated engine that cannot work."""


class RequestError(EngineSimError):
    """Errors as vLLM 0.32 answers them: `serve/exception_handling` in its sources."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        # JSON may spell a lone surrogate, which UTF-8 cannot: a client's own words are quoted back escaped.
        message = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.param = param

    def body(self) -> bytes:
        """The JSON body, keys in vLLM's order."""
        return msgspec.json.encode(
            {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}
        )
