"""Bodies of the operations on aliases, in one place so that handlers and OpenAPI cannot differ."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pointsman.router.fronts.api.paging import Next
from pointsman.router.fronts.api.policy_types import Why
from pointsman.router.fronts.api.trial_types import Percentiles
from pointsman.router.tenancy.aliases import MAX_VERSIONS, AliasName, AliasVersion, StopBounds, VersionModel


class VersionOrder(AliasVersion, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model that an alias shall stand for."""


class StopOrder(StopBounds, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits to how much worse than the stable version another one may be before it gets no more sessions."""


class AliasOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An alias as it shall be."""

    versions: Annotated[
        tuple[VersionOrder, ...],
        Meta(min_length=1, max_length=MAX_VERSIONS, description="Versions, the stable one first."),
    ]
    paused: Annotated[bool, Meta(description="Whether new sessions all begin with the stable version.")] = False
    override: Annotated[
        bool, Meta(description="Whether requests may name their version in the header that `version_header` allows.")
    ] = False
    stop: Annotated[StopOrder | None, Meta(description="Bounds beyond which a version is stopped; null: none.")] = None


class StepOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Order to pause or resume."""

    why: Why = ""


class PromoteOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Order to promote a version."""

    model: Annotated[
        VersionModel | UnsetType, Meta(description="Version to promote; absent: the only one that is not stable.")
    ] = UNSET
    why: Why = ""


class RollBackOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Order to withdraw a version."""

    model: Annotated[
        VersionModel | UnsetType, Meta(description="Version to withdraw; absent: all but the stable one.")
    ] = UNSET
    why: Why = ""


class AliasVersionView(msgspec.Struct, frozen=True, kw_only=True):
    """One version, and what its requests at this edge came to."""

    model: str
    stable: Annotated[bool, Meta(description="Whether it is the version that others are compared with.")]
    weight: float
    withdrawn: bool
    share: Annotated[float, Meta(description="Share of new sessions, 0 to 1.")]
    sessions: Annotated[int, Meta(description="Sessions on all edges that have the version and are not over.")]
    sessions_begun: Annotated[int, Meta(description="Sessions that began with it at this edge.")]
    requests: Annotated[int, Meta(description="Requests that ended, at this edge.")]
    errors: Annotated[int, Meta(description="Answers with a status of 5xx, and streams that the replica cut.")]
    error_share: float
    refused: Annotated[int, Meta(description="Requests refused with 429.")]
    ttft_ms: Annotated[Percentiles | None, Meta(description="Time to first token of the latest 2,000 requests.")]
    replicas: Annotated[list[str], Meta(description="Replicas that take requests for the alias, by id.")]
    refusing: Annotated[
        list[str],
        Meta(description="Replicas of the model that would refuse the name, since their `/v1/models` lacks it."),
    ]


class AliasView(msgspec.Struct, frozen=True, kw_only=True):
    """An alias and its versions beside each other, the stable one first."""

    name: AliasName
    versions: list[AliasVersionView]
    paused: bool
    override: bool
    stop: StopBounds | None
    sessions_moved: Annotated[
        int, Meta(description="Times a session changed its version at this edge, since the router started.")
    ]
    recomputed_tokens: Annotated[
        int, Meta(description="Prompt tokens computed again at this edge because of a rollout, as predicted.")
    ]
    version: Annotated[int, Meta(description="Number of changes of the alias so far, on all edges.")]
    author: Annotated[str, Meta(description="Author of the last change; empty where bounds stopped a version.")]
    why: Annotated[str, Meta(description="Reason of the last change.")]
    warnings: Annotated[list[str], Meta(description="Sentences on what keeps requests from being served.")] = []


class AliasList(msgspec.Struct, frozen=True, kw_only=True):
    """All aliases."""

    aliases: list[AliasView]
    next: Next = UNSET
