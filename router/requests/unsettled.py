"""Requests that are not counted to the end: what is known of one while a line or a report is waited for.

The module is left out of the compiled request path, as others of plain data.
"""

from __future__ import annotations

import msgspec

from pointsman.contract.events import FirstToken, RequestUsage
from pointsman.policies.request import RequestFeatures
from pointsman.router.requests.end_line import Line
from pointsman.router.tenancy.usage import UsageNames, UsageRow


class OpenRequest(msgspec.Struct):
    """A request without a record."""

    until_s: float
    tenant: str = ""
    key: str = ""
    model: str = ""
    adapter: str = ""
    row: UsageRow | None = None
    line: Line | None = None
    first: FirstToken | None = None
    features: RequestFeatures | None = None
    placed: bool = False
    """Whether this edge placed the request."""
    used: bool = False
    """Whether an engine reported the usage of the request."""
    counted: bool = False
    """Whether the request is counted as one of its hour."""
    output_tokens: int = 0
    """As an engine said that reports ends and no usage; 0 where none did."""
    waiting: list[tuple[int, RequestUsage, bool]] = []
    """Reports that came before anything said whose request it is: slot, report, whether it is of more than a prefill.
    """

    @property
    def names(self) -> UsageNames:
        return UsageNames(self.tenant, self.key, self.model, self.adapter)


class UnsettledRequest(msgspec.Struct, frozen=True):
    """A request that a router did not finish counting."""

    id: str
    names: UsageNames
    line: Line | None
    first: FirstToken | None
    used: bool
    counted: bool
