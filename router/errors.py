"""Errors of the router.

RouterError
    SettingsError        configuration: the process refuses to start (exit code 2)
    RegistrationError    configuration: one admin call is refused with 4xx, nothing changes
    ResolveError         operational: a host name could not be resolved in time; answered with 503, retried
    SupersededError      operational: a later incarnation of a replica is registered; answered with 409
    LimitError           operational: a named limit is met; answered with 4xx/503 and counted
    ScrapeError          operational: an endpoint did not tell what it was asked; counted, and asked again
    StateFileError       configuration: the saved state cannot be read or is of a later schema

HAProxy's own errors are in `pointsman.haproxy.errors`, policies' in `pointsman.policies.errors`. Anything else that
escapes is a programming error.
"""

from __future__ import annotations

from pointsman.contract.errors import ConfigurationError


class RouterError(Exception):
    """Base of all errors the router raises on purpose."""


class SettingsError(ConfigurationError, RouterError):
    """A setting that the router cannot start with."""


class RegistrationError(ConfigurationError, RouterError):
    """A registration that cannot be taken."""


class ResolveError(RouterError):
    """A host name was not resolved in time: names it, and the limit."""


class SupersededError(RouterError):
    """A later incarnation of the same replica is registered: names the replica."""


class LimitError(RouterError):
    """A bounded thing is full: names the limit and its value."""


class ScrapeError(RouterError):
    """An endpoint's page is missing, too long or not what was expected."""


class StateFileError(RouterError):
    """The state file is unreadable or written by a later version."""
