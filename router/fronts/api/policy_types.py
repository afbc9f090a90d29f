"""Bodies of the operations on policies, in one place so that handlers and OpenAPI cannot differ."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pointsman.router.decide.policy_history import WHY_MAX
from pointsman.router.fronts.api.paging import Next

Why = Annotated[str, Meta(max_length=WHY_MAX, description="Reason of the change, for those who look afterwards.")]

RevisionNumber = Annotated[int, Meta(ge=1, le=2**31 - 1)]


class PolicyDetail(msgspec.Struct, frozen=True, kw_only=True):
    """An installed policy with the schema of its documents."""

    name: str
    summary: str
    schema: Annotated[
        dict[str, Any], Meta(description="JSON Schema (draft 2020-12) of a document for PUT /v1/policy that names it.")
    ]


class ReloadedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy of another package, after a look at what is installed."""

    name: str
    package: str
    version: Annotated[str, Meta(description="Version that is installed; empty where the package is gone.")]
    state: Annotated[
        str,
        Meta(
            description="`loaded`: new, and may be put live. `unchanged`. `needs_restart`: installed files differ from "
            "those that were imported. `failed`: does not load, or is no policy."
        ),
    ]
    detail: str


class ReloadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    policies: Annotated[list[ReloadedPolicy], Meta(description="Policies that other packages offer, by name.")]


class ValidPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A document that may be put live."""

    document: Annotated[dict[str, Any], Meta(description="The document, defaults filled in.")]
    etag: Annotated[str, Meta(description="ETag that the document would have if it were live.")]
    live: Annotated[bool, Meta(description="Whether an equal document is live.")]
    warnings: Annotated[
        list[str], Meta(description="Sentences on what would keep the policy from working as it should.")
    ]


class RevisionView(msgspec.Struct, frozen=True, kw_only=True):
    """One policy document that is or was live at this edge."""

    revision: Annotated[int, Meta(description="Number of the revision, as this edge counts them.")]
    at: Annotated[str, Meta(description="Time when this edge put it, RFC 3339.")]
    author: Annotated[
        str, Meta(description="Name of the token or person; `configuration` for what the router started with.")
    ]
    why: str
    etag: Annotated[str, Meta(description="ETag of the document; equal documents have equal ETags on every edge.")]
    document: Annotated[dict[str, Any], Meta(description="The document, all defaults filled in.")]
    active: Annotated[bool, Meta(description="Whether the document is live.")]
    tried: Annotated[
        bool,
        Meta(description="True for a document that was not live: a rollout tried it on a share of sessions."),
    ]


class RevisionList(msgspec.Struct, frozen=True, kw_only=True):
    revisions: Annotated[list[RevisionView], Meta(description="Revisions, the newest first.")]
    next: Next = UNSET


class PolicyChange(msgspec.Struct, frozen=True, kw_only=True):
    """One value that differs between two documents. A side without the key has no field."""

    key: Annotated[str, Meta(description="Dotted path of the value in the document.")]
    before: Annotated[Any, Meta(description="Value in the earlier document.")] = msgspec.field(
        name="from", default=UNSET
    )
    after: Annotated[Any, Meta(description="Value in `to`.")] = msgspec.field(name="to", default=UNSET)


class PolicyDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Differences between two revisions."""

    before: Annotated[int, Meta(description="Revision that is compared.")] = msgspec.field(name="from")
    after: Annotated[int, Meta(description="Revision that it is compared with.")] = msgspec.field(name="to")
    changes: list[PolicyChange]


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Order to put an earlier revision live again."""

    revision: Annotated[
        RevisionNumber | UnsetType, Meta(description="Number of the revision; absent: the one that was live before.")
    ] = UNSET
    why: Why = ""
