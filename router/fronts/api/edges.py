"""Other edges, as the admin API shows them, and the claim on a version of the policy before it is put live.

On an edge that is alone the lists are empty and every claim succeeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.http_api import json_answer
from pointsman.policies.errors import PolicyError
from pointsman.router.core import Core
from pointsman.router.decide.policy_control import StaleVersionError
from pointsman.router.edges.digest import digests
from pointsman.router.edges.peers import Peer
from pointsman.router.edges.sharing import Sharing
from pointsman.router.fronts.api.paging import paged
from pointsman.router.fronts.api.types import Digest, Digests, EdgeList, OtherEdge
from pointsman.router.process.clock import Clock

HEAR_STEP_S = 0.01
HEAR_STEPS = 50
"""Half a second at most for a change that another edge made to arrive here, which usually takes 10 ms."""


class EdgesFront:
    """Handlers of `/v1/edges` and `/v1/state/digests`."""

    def __init__(self, core: Core, sharing: Sharing | None, *, clock: Clock) -> None:
        """sharing: None for an edge that is alone."""
        self._sharing = sharing
        self._replicas = core.replicas
        self._sessions = core.sessions
        self._kv = core.kv
        self._policy = core.policy
        self._book = core.book
        self._clock = clock

    async def list_edges(self, request: Request) -> Response:
        sharing = self._sharing
        views = [self._view(peer) for peer in sharing.protocol.peers] if sharing is not None else []
        page, next_ = paged(sorted(views, key=_key), request, key=_key)
        if sharing is None:
            return json_answer(EdgeList(edge="", name="", batches=0, store="none", in_step=True, edges=page))
        protocol = sharing.protocol
        return json_answer(
            EdgeList(
                edge=protocol.edge,
                name=sharing.info.name,
                batches=protocol.seq,
                store=str(sharing.cause or "up"),
                in_step=protocol.in_step,
                edges=page,
                next=next_,
            )
        )

    def _view(self, peer: Peer) -> OtherEdge:
        return OtherEdge(
            edge=peer.info.edge,
            name=peer.info.name,
            admin_url=peer.info.admin_url,
            state=peer.state,
            heard_s=round(self._clock() - peer.heard_s, 3),
            position=peer.position,
            lag=max(0, peer.info.seq - peer.position),
            in_flight=sum(requests for requests, _, _ in peer.loads.values()),
            holds=len(peer.holds),
            refused=peer.refused,
        )

    async def digests(self, request: Request) -> Response:
        parts = await digests(self._replicas, self._sessions, self._kv, self._policy.document, self._book)
        shown = {name: Digest(count=part.count, digest=part.digest) for name, part in parts.items()}
        return json_answer(Digests(parts=shown))

    async def claim_policy(
        self, document: Mapping[str, Any] | bytes, if_match: str | None, about: dict[str, str]
    ) -> None:
        """Before a policy is put live. Raises StaleVersionError when another edge put one that is not known here.

        about: author and reason, for the other edges.
        """
        if self._sharing is None:
            return
        try:
            described = self._policy.put(document, if_match=if_match, dry_run=True)
        except PolicyError:
            return  # putting it will say so, and count it
        before = self._policy.etag
        if not await self._sharing.claim("policy", described, about):
            await self._hear_of_another(before)
            raise StaleVersionError(
                f"another edge changed the policy at the same time: the live policy is {self._policy.etag}, "
                f"{self._policy.revision_line}"
            )

    async def _hear_of_another(self, before: str) -> None:
        """Wait until the policy that another edge put is live here too, so that a refusal can name it."""
        for _ in range(HEAR_STEPS):
            if self._policy.etag != before:
                return
            await asyncio.sleep(HEAR_STEP_S)


def _key(edge: OtherEdge) -> str:
    return f"{edge.name} {edge.edge}"  # names may be alike; ids are not
