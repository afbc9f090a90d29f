"""Usage as the admin API shows it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

Moment = Annotated[str, Meta(description="Beginning of an hour or a day, in ISO 8601, UTC.")]


class UsageEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the figures that is an estimate, since no engine reported it."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class UsageLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Usage of one group of requests. Of the first six fields, those that were asked for by `by` are there."""

    tenant: str | UnsetType = UNSET
    key: Annotated[str | UnsetType, Meta(description="Id of the API key; empty where keys have none.")] = UNSET
    model: str | UnsetType = UNSET
    adapter: Annotated[str | UnsetType, Meta(description="LoRA adapter; empty for the model itself.")] = UNSET
    hour: Moment | UnsetType = UNSET
    day: Moment | UnsetType = UNSET
    requests: Annotated[int, Meta(description="Requests that a replica served, each once, however they ended.")]
    prompt_tokens: int
    cached_tokens: Annotated[int, Meta(description="Prompt tokens that an engine found in its prefix cache.")]
    output_tokens: int
    seconds: Annotated[float, Meta(description="Time in engines; of requests no engine reported, time at the edge.")]
    estimated: UsageEstimate


class UsageReport(msgspec.Struct, frozen=True, kw_only=True):
    """Usage of a time, added up."""

    begin: Annotated[str, Meta(description="Beginning of the first hour that is in the report.")] = msgspec.field(
        name="from"
    )
    to: Annotated[str, Meta(description="End of the last hour that is in the report.")]
    by: list[str]
    complete: Annotated[
        bool, Meta(description="Whether the usage of all edges is in it; false while Redis is out of reach.")
    ]
    usage: list[UsageLine]
