"""Choosing among records of decisions: which of them somebody wants to see."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from pointsman.router.requests.decision_record import DecisionRecord

STATUS_PATTERN = r"^[1-5](xx|[0-9][0-9])$"
"""A status of HTTP, or a class of them such as `5xx`."""

_STATUS = re.compile(STATUS_PATTERN)


class DecisionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions on a record; an empty field lets every record pass."""

    session: str = ""
    """The session as the client named it, or the hash that is shown for it."""
    tenant: str = ""
    model: str = ""
    replica: str = ""
    """Id of the replica that served; of the first choice while nobody has."""
    reason: str = ""
    status: str = ""
    """Status that the client received, or a class such as `5xx`."""
    policy: str = ""
    client_id: str = ""
    """`x-request-id` as the client sent it."""
    ended: bool = False
    """Whether requests in flight are left out."""

    def check(self) -> None:
        """Raises ValueError for a status that is none."""
        if self.status and not _STATUS.fullmatch(self.status):
            raise ValueError("a status such as 503, or a class such as 5xx")

    def wants(self, record: DecisionRecord, shown: Callable[[str], str]) -> bool:
        """Whether a record has all of it.

        shown: a session or tenant as people see it.
        """
        features, line = record.features, record.line
        if self.session and self.session not in (features.session, shown(features.session)):
            return False
        if self.tenant and self.tenant not in (features.tenant, shown(features.tenant)):
            return False
        if self.model and self.model != features.model:
            return False
        if self.reason and self.reason != record.decision.reason:
            return False
        if self.policy and self.policy != record.policy:
            return False
        if self.replica and self.replica != (record.decision.first if line is None else line.srv):
            return False
        if self.ended and line is None:
            return False
        if self.client_id and (line is None or self.client_id != line.cid):
            return False
        return not self.status or (line is not None and _is_status(line.st, self.status))


def _is_status(status: int, wanted: str) -> bool:
    return str(status) == wanted or (wanted.endswith("xx") and status // 100 == int(wanted[0]))
