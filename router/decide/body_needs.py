"""Parts of request bodies that HAProxy must read for the active policy: the value of `proc.pm.body`.

Reading a body means waiting for it and running Lua, so it is asked for only when the answer is needed.
"""

from __future__ import annotations

from enum import IntFlag

from pointsman.haproxy.config import PREFIX_WINDOW_BYTES, SMALL_WINDOW_BYTES
from pointsman.policies.policy import Needs


class BodyNeeds(IntFlag):
    """Bits of `proc.pm.body`, read by the configuration's rules and by `lua.pm_body`."""

    NOTHING = 0
    FIELDS = 1
    """Model, session and max_tokens of every routed body."""
    PREFIX_KEYS = 2
    FIELDS_WITHOUT_SESSION = 4
    """Fields only where no header names the session."""
    MODELS = 8
    """The model of every POST, also of those that generate nothing."""


def body_window(policy: Needs) -> int:
    """Bytes of a body that HAProxy has to look at for a policy: as far as prefix keys reach where it goes by them."""
    return PREFIX_WINDOW_BYTES if policy & Needs.PREFIX else SMALL_WINDOW_BYTES


def body_needs(policy: Needs, names: int, *, aliases: bool = False) -> BodyNeeds:
    """The bits for a policy, for the number of distinct names (models, adapters) of replicas that one may ask for, and
    for whether there are aliases besides."""
    needs = BodyNeeds.NOTHING
    if policy & Needs.PREFIX:
        needs |= BodyNeeds.PREFIX_KEYS
    if names > 1 or aliases:
        needs |= BodyNeeds.FIELDS | BodyNeeds.MODELS
    elif policy & (Needs.TOKENS | Needs.ADAPTER | Needs.MODEL):
        needs |= BodyNeeds.FIELDS
    elif policy & Needs.SESSION:
        needs |= BodyNeeds.FIELDS_WITHOUT_SESSION
    return needs
