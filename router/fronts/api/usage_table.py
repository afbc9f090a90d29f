"""Rows of the admin API about usage."""

from __future__ import annotations

from pointsman.router.fronts.api.endpoint import TEXT, Answer, Endpoint
from pointsman.router.fronts.api.stream import NDJSON
from pointsman.router.fronts.api.usage import BY, TIME, UsageFront
from pointsman.router.fronts.api.usage_types import UsageReport

UNREADABLE = {503: "Neither Redis nor the file of usage can be read."}

USAGE_ENDPOINTS = (
    Endpoint(
        "GET", "/v1/usage", UsageFront.get_usage, "Get the usage of a time: requests, tokens and seconds",
        parameters=(*TIME, BY), answers={200: Answer("Usage by group.", UsageReport)}, errors=UNREADABLE,
    ),
    Endpoint(
        "GET", "/v1/usage/export", UsageFront.export_usage, "Get every row of usage, one JSON document a line",
        parameters=TIME,
        answers={200: Answer("Rows by hour, tenant, key, model and adapter.", other={NDJSON: TEXT})},
        errors=UNREADABLE,
    ),
)  # fmt: skip
