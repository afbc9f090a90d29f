"""The prefill request: how a decode replica has another replica compute a prompt, and what it does when that fails.

The router pairs two replicas and HAProxy gives the decode replica the other's address (`PREFILL_HEADER`). The decode
replica tokenises the prompt, once, as for any request. The tokens go to the prefill replica as a plain completion of
one token; the answer names where the KV lies, and the decode replica fetches it from there while it decodes. So the
prefill request is the same for every API, and none of the client's own wishes (`n`, `min_tokens`, `logprobs`,
streaming, tools) can reach a request that ends after one token.

    client -> HAProxy -> decode replica                              prefill replica
                         tokenise; POST /v1/completions  ---------->  prefill, keep the KV
                         decode with kv_transfer_params  <----------  kv_transfer_params

Whatever fails, the decode replica computes the prompt itself: the client waits longer and sees no error. Every outcome
is counted. When the client leaves, closing the connection of the prefill request ends it on the prefill replica too.

`kv_transfer_params` name hosts to connect to and blocks to read, so they are taken from a prefill replica alone:
`carries_transfer_params` finds them in what a client sent, whatever its spelling.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import json
import logging
import struct
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import httpx
import msgspec

from pointsman.contract.events import Handoffs
from pointsman.contract.prefix_keys import MAX_KEYS
from pointsman.contract.priority import PRIORITY_HEADER
from pointsman.contract.registration import leg_id
from pointsman.contract.tls import tls_for
from pointsman.engine.prefill_patience import PrefillPatience

log = logging.getLogger("pointsman.disaggregation")

PREFILL_HEADER = "x-pointsman-prefill"
"""To the decode replica: host:port of the prefill replica. HAProxy sets it, and takes it from clients."""

PREFILL_KEYS_HEADER = "x-pointsman-leg"
"""To the prefill replica: prefix keys of the prompt, as the router knows it. Marks a request that may carry
`kv_transfer_params`; HAProxy takes it from clients."""

PARAMS = "kv_transfer_params"

CONNECT_TIMEOUT_S = 0.5
"""Within one network a connection is made in a millisecond, or not at all."""

TIMEOUT_S = 30.0
"""The longest a prefill request may take, its time in the prefill replica's queue included; see `PrefillPatience`."""

KEEP_ALIVE_S = 4.0
"""Idle connections are closed before the 5 s after which a plain vLLM closes them: none is reused too late."""

CONNECTIONS_MAX = 1024
"""Prefill requests at once; each waits for a whole prefill. When met, the next ones wait, within their time."""

COMPLETIONS = "/v1/completions"

NIXL_PARAMS = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}
"""`kv_transfer_params` of a prefill request, as vLLM's NixlConnector takes them: the decode replica pulls when the
prefill is done, from where the answer says."""

PREFILL_TOKENS = 1
"""A prefill ends with one token; the client's first token is the decode replica's own."""


class HandoffOutcome(StrEnum):
    """Outcome of a handoff; the fields of `Handoffs`."""

    __hash__ = str.__hash__

    OK = "ok"
    FAILED = "failed"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    UNSUITABLE = "unsuitable"
    LOST = "lost"


class Peer(NamedTuple):
    """Where a replica is reached: an IP address, or a host name, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_peer(text: str) -> Peer | None:
    """`1.2.3.4:80` or `[::1]:80`; None for anything else. Routers send addresses, so no name is ever resolved."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return None
    if (address.version == 6) != (bare != host) or "%" in bare:
        return None
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        return None
    return Peer(bare, int(port))


# What a client may not send


class _Carries(msgspec.Struct):
    kv_transfer_params: msgspec.Raw = msgspec.Raw(b"null")


_carries = msgspec.json.Decoder(_Carries)


def carries_transfer_params(body: bytes) -> bool:
    """Whether a JSON object has `kv_transfer_params` other than null, however the key is spelt.

    What msgspec will not read is read as FastAPI does, by the standard library; what neither reads is for the API to
    refuse.
    """
    try:
        return bytes(_carries.decode(body).kv_transfer_params) != b"null"
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) and value.get(PARAMS) is not None


REFUSAL = f"{PARAMS} is set by replicas for each other and is not accepted from clients"


# What goes to the prefill replica


class PrefillRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt for a prefill replica."""

    request_id: str
    """Id of the client's request; the prefill request's own is `leg_id` of it."""
    model: str
    """As the prefill replica serves it; an adapter's name where the request uses one."""
    prompt_token_ids: Sequence[int]
    cache_salt: str = ""
    authorization: str = ""
    """The client's header: a fleet that asks for keys asks everywhere for the same."""
    prefix: str = ""
    """See `pack_prefix`."""
    priority: str = ""
    """Priority class of the client's request, as its replica was told it."""


def prefill_body(prefill: PrefillRequest) -> bytes:
    """The completion that makes a prefill replica compute a prompt and keep its KV."""
    body: dict[str, Any] = {
        "model": prefill.model,
        "prompt": prefill.prompt_token_ids,
        "max_tokens": PREFILL_TOKENS,
        "temperature": 0,
        "stream": False,
        PARAMS: NIXL_PARAMS,
    }
    if prefill.cache_salt:
        body["cache_salt"] = prefill.cache_salt
    return msgspec.json.encode(body)


def prefill_headers(prefill: PrefillRequest) -> dict[str, str]:
    """Headers of a prefill request."""
    headers = {
        "content-type": "application/json",
        "x-request-id": leg_id(prefill.request_id),
        PREFILL_KEYS_HEADER: prefill.prefix or "-",
    }
    if prefill.authorization:
        headers["authorization"] = prefill.authorization
    if prefill.priority:
        headers[PRIORITY_HEADER] = prefill.priority
    return headers


def pack_prefix(keys: Sequence[int], prompt_bytes: int) -> str:
    """Prefix keys of a body, and its bytes from the start of the chain on, as a header's value of at most 1.4 KB.

    A prefill request has tokens where the client's body had text, so a prefill replica cannot make these keys itself.
    """
    keys = keys[:MAX_KEYS]
    return base64.b64encode(struct.pack(f"<I{len(keys)}Q", min(prompt_bytes, 2**32 - 1), *keys)).decode()


def unpack_prefix(value: str) -> tuple[list[int], int]:
    """Keys and bytes; none of either where the value is no such thing."""
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return [], 0
    count, rest = divmod(len(raw) - 4, 8)
    if rest or not 0 <= count <= MAX_KEYS:
        return [], 0
    prompt_bytes, *keys = struct.unpack(f"<I{count}Q", raw)
    return keys, prompt_bytes


# The prefill requests of one decode replica


class PrefillError(Exception):
    """A prefill request brought nothing; `outcome` says how it counts."""

    def __init__(self, outcome: HandoffOutcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


class _Answer(msgspec.Struct):
    kv_transfer_params: dict[str, Any] | None = None


_answer = msgspec.json.Decoder(_Answer)


class Prefiller:
    """Runs the prefill requests of one decode replica over kept-alive connections, and counts what became of them."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        """Prepare without connecting. `timeout_s`: the longest a prefill request may take, whatever its length."""
        self._patience = PrefillPatience(timeout_s)
        self._counts: Counter[HandoffOutcome] = Counter()
        self._prefill_s = 0.0
        # Environment proxies are for the outside world, not for a replica next door.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            limits=httpx.Limits(
                max_connections=CONNECTIONS_MAX,
                max_keepalive_connections=CONNECTIONS_MAX,
                keepalive_expiry=KEEP_ALIVE_S,
            ),
            trust_env=False,
            verify=tls_for(),
        )

    def count(self, outcome: HandoffOutcome) -> None:
        self._counts[outcome] += 1

    def totals(self) -> Handoffs:
        """Since the start."""
        counts = {outcome.value: self._counts[outcome] for outcome in HandoffOutcome}
        return Handoffs(**counts, leg_ms=round(self._prefill_s * 1000))

    async def close(self) -> None:
        """Close connections; prefill requests under way fail."""
        await self._client.aclose()

    async def handoff(self, peer: Peer, prefill: PrefillRequest) -> dict[str, Any] | None:
        """Run the prefill request and give the `kv_transfer_params` to decode with; None: compute the prompt here.

        To cancel the call (the client left) ends the prefill request on the prefill replica too.
        """
        clock = asyncio.get_running_loop().time
        began_s = clock()
        try:
            answered = await self._ask(peer, prefill)
        except PrefillError as error:
            self.count(error.outcome)
            log.warning("request %s: prefill at %s: %s; computed here", prefill.request_id, peer, error)
            return None
        self.count(HandoffOutcome.OK)
        took_s = clock() - began_s
        self._patience.answered(len(prefill.prompt_token_ids), took_s)
        self._prefill_s += took_s
        return answered

    async def _ask(self, peer: Peer, prefill: PrefillRequest) -> dict[str, Any]:
        """The `kv_transfer_params` of the answer. Raises PrefillError."""
        tokens = len(prefill.prompt_token_ids)
        clock, patience_s = asyncio.get_running_loop().time, self._patience.patience_s(tokens)
        began_s = clock()
        try:
            # httpx times each read; this bounds them together.
            async with asyncio.timeout(patience_s):
                response = await self._client.post(
                    f"http://{peer}{COMPLETIONS}", content=prefill_body(prefill), headers=prefill_headers(prefill)
                )
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise PrefillError(HandoffOutcome.REFUSED, f"no connection ({type(error).__name__})") from error
        except (TimeoutError, httpx.TimeoutException) as error:
            self._patience.given_up(tokens, began_s, clock())
            raise PrefillError(HandoffOutcome.TIMEOUT, f"no answer within {patience_s:.3g} s") from error
        except httpx.HTTPError as error:
            raise PrefillError(HandoffOutcome.FAILED, f"connection lost ({type(error).__name__})") from error
        if response.status_code != 200:
            raise PrefillError(HandoffOutcome.FAILED, f"answered {response.status_code}: {response.text[:200]}")
        try:
            answered = _answer.decode(response.content).kv_transfer_params
        except msgspec.MsgspecError as error:
            raise PrefillError(HandoffOutcome.FAILED, f"answered no completion: {error}") from error
        if not answered:
            raise PrefillError(
                HandoffOutcome.FAILED, f"answered without {PARAMS}: it has no KV connector, or kept nothing"
            )
        return answered
