"""Prefill and decode apart, simulated: KV that one replica keeps for another, and how the other fetches it.

A prefill replica keeps the blocks of a prefill request until they are fetched, at most for a lease, as NIXL does. A
decode replica sends the prefill request (engine/disaggregation.py), waits as long as the transfer would take, and asks
the prefill replica to free the blocks: that call stands for the transfer, and fails where the transfer would.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Coroutine
from typing import Any

import httpx
import msgspec

from pointsman.contract.events import Handoffs
from pointsman.contract.prefix_keys import prefix_keys, prompt_start, scoped
from pointsman.contract.priority import PRIORITY_HEADER
from pointsman.contract.tls import tls_for
from pointsman.engine.disaggregation import (
    CONNECT_TIMEOUT_S,
    PREFILL_HEADER,
    HandoffOutcome,
    Peer,
    Prefiller,
    PrefillRequest,
    pack_prefix,
    parse_peer,
)
from pointsman.engine.sim.bodies import Ask
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.errors import RequestError
from pointsman.engine.sim.http import Exchange
from pointsman.engine.sim.model import EngineModel

FETCH_PATH = "/sim/kv"


class _Fetch(msgspec.Struct):
    request: str


class KeptKV:
    """The KV that a prefill replica keeps for decode replicas."""

    def __init__(self, model: EngineModel, loop: asyncio.AbstractEventLoop, lease_s: float) -> None:
        self._model = model
        self._loop = loop
        self._lease_s = lease_s
        self._tokens: dict[str, int] = {}
        self.fetched = 0

    def __len__(self) -> int:
        return len(self._tokens)

    def keep(self, sequence_id: str, tokens: int, host: str, port: int) -> dict[str, Any]:
        """Keep the blocks of a prefill request that is done; the transfer parameters to answer with."""
        self._tokens[sequence_id] = tokens
        self._loop.call_later(self._lease_s, self._expire, sequence_id)
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_engine_id": "sim",
            "remote_block_ids": [[]],
            "remote_request_id": sequence_id,
            "remote_host": host,
            "remote_port": port,
            "remote_num_tokens": tokens,
        }

    def serve(self, exchange: Exchange) -> None:
        """Answer `POST /sim/kv`: free the KV of one prefill request. Raises RequestError."""
        try:
            asked = msgspec.json.decode(exchange.body, type=_Fetch).request
        except msgspec.MsgspecError as error:
            raise RequestError(400, "Bad Request", str(error)) from None
        tokens = self._tokens.pop(asked, None)
        if tokens is None:
            raise RequestError(404, "NotFoundError", f"no KV of {asked!r} is kept")
        self._model.let_go(asked)
        self.fetched += 1
        exchange.respond(200, msgspec.json.encode({"tokens": tokens}))

    def _expire(self, sequence_id: str) -> None:
        if self._tokens.pop(sequence_id, None) is not None:
            self._model.let_go(sequence_id)


class HandoffClient:
    """The handoffs of one decode replica."""

    def __init__(self, config: SimConfig) -> None:
        self._config = config
        self._prefiller = Prefiller(config.prefill_timeout_s)
        self._client = httpx.AsyncClient(timeout=CONNECT_TIMEOUT_S, trust_env=False, verify=tls_for())

    def totals(self) -> Handoffs:
        return self._prefiller.totals()

    def plan(
        self, exchange: Exchange, ask: Ask, request_id: str, scope: int, salt: str
    ) -> Coroutine[Any, Any, int] | None:
        """The handoff of a request, where the router chose a prefill replica for it; None computes the prompt here.

        The coroutine gives the tokens that need no computing here, see `take`. `scope` and `salt` are those of the
        request's keys and blocks.
        """
        named = exchange.header(PREFILL_HEADER.encode())
        if named is None:
            return None
        peer = parse_peer(named.decode("latin-1"))
        if peer is None or len(ask.prompts) * ask.choices > 1:
            self._prefiller.count(HandoffOutcome.UNSUITABLE)
            return None
        body = exchange.body
        prefill = PrefillRequest(
            request_id=request_id,
            model=ask.model or self._config.model,
            prompt_token_ids=array("I", ask.prompts[0].data).tolist(),
            cache_salt=salt,
            priority=exchange.text(PRIORITY_HEADER.encode()),
            prefix=pack_prefix(scoped(prefix_keys(body), scope), len(body) - max(0, prompt_start(body))),
        )
        return self.take(peer, prefill)

    async def take(self, peer: Peer, prefill: PrefillRequest) -> int:
        """Have the prompt computed and fetch its KV; the tokens that need no computing here, 0 after any failure."""
        params = await self._prefiller.handoff(peer, prefill)
        if params is None:
            return 0
        tokens = int(params["remote_num_tokens"])
        await asyncio.sleep((self._config.handoff_ms + tokens * self._config.handoff_us_per_token / 1000) / 1000)
        where = Peer(params["remote_host"], params["remote_port"])
        try:
            answer = await self._client.post(
                f"http://{where}{FETCH_PATH}", json={"request": params["remote_request_id"]}
            )
        except httpx.HTTPError:
            answer = None
        if answer is None or answer.status_code != 200:
            self._prefiller.count(HandoffOutcome.LOST)
            return 0
        return tokens

    async def close(self) -> None:
        await self._prefiller.close()
        await self._client.aclose()
