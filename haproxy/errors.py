"""Errors between Pointsman and HAProxy.

HAProxyError
├── ConfigError          a value, or HAProxy's own check, refuses the configuration (configuration error)
│   └── BinaryError      no usable haproxy executable: missing, unreadable or too old
├── HAProxyUnavailable   the socket cannot be reached or did not answer in time (operational)
├── WorkerGone           the master process knows no worker of that pid: it has ended (operational)
├── CommandRefused       HAProxy read a Runtime API command and said no, in its own words (operational)
├── ProtocolError        an answer does not have the form management.txt gives it (programming, ours or HAProxy's)
└── ProcessError         the HAProxy process did not start, or did not accept a reload (operational)
"""

from __future__ import annotations

from pointsman.contract.errors import ConfigurationError


class HAProxyError(Exception):
    """Root of everything raised by `haproxy/`."""


class ConfigError(ConfigurationError, HAProxyError):
    """A configuration value that must not be used."""


class BinaryError(ConfigError):
    """No haproxy executable that can be used."""


class HAProxyUnavailable(HAProxyError):  # noqa: N818 -- a state of the world, not a mistake
    """The Runtime API socket cannot be connected to, was closed, or did not answer within its time."""


class WorkerGone(HAProxyError):  # noqa: N818 -- a state of the world, not a mistake
    """A worker process has ended."""


class CommandRefused(HAProxyError):  # noqa: N818 -- HAProxy's verdict
    """HAProxy refused one Runtime API command.

    `command` is what was sent, `answer` what HAProxy said.
    """

    def __init__(self, command: str, answer: str) -> None:
        super().__init__(f"{command!r} refused: {answer}")
        self.command = command
        self.answer = answer


class ProtocolError(HAProxyError):
    """An answer of the Runtime API that cannot be read."""


class ProcessError(HAProxyError):
    """The HAProxy process did not do what was asked: start, reload or stop. Carries HAProxy's own words."""
