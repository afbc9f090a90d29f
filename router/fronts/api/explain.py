"""Explaining in the admin API: where a request would go at this moment, and why.

`POST /v1/explain` takes a whole request as a client sends it, the id of a past one, or bare features. Of a whole
request the router makes what HAProxy would have told it, and reads that as it reads a lookup, so that what is explained
is what would be decided. Nothing is reserved, pinned or counted.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.bounds import Tokens
from pointsman.contract.errors import ConfigurationError
from pointsman.contract.events import check_keys
from pointsman.contract.http_api import decode_body, json_answer, read_body, unfit, unfit_for
from pointsman.contract.prefix_keys import CHUNK_BYTES, PROMPT_KEYS
from pointsman.haproxy.api_keys import find_tenant, key_hashes
from pointsman.haproxy.config import PREFIX_WINDOW_BYTES
from pointsman.haproxy.lookup_arguments import PlainRequest, is_asked, lookup_arguments, seen_bytes
from pointsman.haproxy.lookup_rules import LookupRules
from pointsman.policies.registry import installed_policies
from pointsman.policies.request import RequestFeatures
from pointsman.router.core import Core
from pointsman.router.decide.body_needs import body_needs
from pointsman.router.decide.candidate_view import Text
from pointsman.router.decide.decision_view import DecisionView
from pointsman.router.decide.explain import Explanation
from pointsman.router.fronts.api.decisions import find_record, kept_decisions
from pointsman.router.fronts.deciding import Decider
from pointsman.router.process.clock import Clock
from pointsman.router.watch.decision_feed import DecisionFeed

MAX_EXPLAIN_BYTES = 8 * 1024 * 1024
"""A prompt of a million tokens is 4 MiB, and longer as a string in JSON."""

MAX_REQUEST_ID = 128

SLICE = 256
"""Messages or tokens of a body that are encoded at once."""

REQUEST_ID = "explain"
"""Request id of what is explained."""

HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$", max_length=256)]
HeaderValue = Annotated[str, Meta(pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]*$")]

FEATURES = ("model", "session", "body_bytes", "max_tokens", "prefix_keys")
"""Fields that say what would be read of a request."""

KEYS_OF_BODIES = frozenset(key.decode().strip('"') for key in PROMPT_KEYS)


class ExplainRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request to explain: a whole one (`path`, `headers`, `body`), a past one (`request`), or its features."""

    request: Annotated[
        str,
        Meta(
            max_length=MAX_REQUEST_ID,
            description="`x-request-id` of a past request, as the edge made it or as the client sent it.",
        ),
    ] = ""
    path: str = "/v1/chat/completions"
    headers: Annotated[
        dict[HeaderName, HeaderValue] | None, Meta(description="Headers of the request, as the client sends them.")
    ] = None
    body: Annotated[
        dict[str, Any] | str | None,
        Meta(
            description="Body of the request. A string is taken as it is; an object is encoded as OpenAI's Python "
            "client does it: in the order of its keys, without blanks, in UTF-8."
        ),
    ] = None
    model: str = ""
    session: str = ""
    tenant: str = ""
    body_bytes: Tokens = 0
    max_tokens: Tokens = 0
    prefix_keys: Annotated[
        tuple[Annotated[int, Meta(ge=0)], ...],
        Meta(
            max_length=128, description="Prefix keys of the prompt, shortest prefix first; see contract/prefix_keys.py."
        ),
    ] = ()
    policy: Annotated[
        str,
        Meta(
            description="Another policy, as in the header `x-pointsman-policy`; ignored unless `override_header` is on."
        ),
    ] = ""

    @property
    def is_whole(self) -> bool:
        """Whether it is a request as a client sends it."""
        return self.headers is not None or self.body is not None

    def __post_init__(self) -> None:
        check_keys(self.prefix_keys)
        if self.request:
            self._refuse("request", "no other field but `policy`", (*FEATURES, "path", "headers", "body", "tenant"))
        elif self.is_whole:
            self._refuse("headers or body", "it in `headers` or `body`, which are read for it", FEATURES)

    def _refuse(self, beside: str, expected: str, names: tuple[str, ...]) -> None:
        defaults = dict(zip(self.__struct_fields__, self.__struct_defaults__, strict=True))
        for name in names:
            if (value := getattr(self, name)) != defaults[name]:
                raise ConfigurationError(name, value, expected, f"given beside {beside}")


class FeaturesView(msgspec.Struct, frozen=True, kw_only=True):
    """Features that were read of a request."""

    path: str
    model: Annotated[Text, Meta(description="Model that the request asks for; absent where any will do.")] = UNSET
    session: Annotated[Text, Meta(description="Session of the request; absent without one.")] = UNSET
    tenant: Annotated[Text, Meta(description="Tenant of the request's API key; absent without one.")] = UNSET
    body_bytes: Annotated[int, Meta(description="Length of the body in bytes.")]
    prefix_keys: Annotated[int, Meta(description="Number of prefix keys of the prompt.")]
    max_tokens: Annotated[int, Meta(description="Bound of the answer in tokens; 0 without one.")]
    generates: Annotated[bool, Meta(description="False for a request that makes no model generate.")]


class ExplainAnswer(Explanation, frozen=True, kw_only=True):
    """The decision that a request would get at this moment, and why."""

    features: Annotated[
        FeaturesView, Meta(description="Features of the request, as the router reads them of a lookup.")
    ]
    assumed: Annotated[
        list[str],
        Meta(description="Settings of HAProxy that its configuration does not state; their defaults were taken."),
    ]
    warnings: Annotated[
        list[str],
        Meta(description="Circumstances that make the answer another than one might expect, a sentence each."),
    ]
    then: Annotated[DecisionView | UnsetType, Meta(description="The decision as it was made, for a past request.")] = (
        UNSET
    )


class Asked(NamedTuple):
    """A request to explain, as a lookup would show it."""

    features: RequestFeatures
    assumed: list[str]
    warnings: list[str]
    then: DecisionView | UnsetType = UNSET


class ExplainFront:
    """Handler of `/v1/explain`."""

    def __init__(self, core: Core, decider: Decider, feed: DecisionFeed | None, *, clock: Clock) -> None:
        """feed: None on a router that keeps no decisions."""
        self._core = core
        self._decider = decider
        self._feed = feed
        self._clock = clock

    async def explain(self, request: Request) -> Response:
        asked = _decoded(await read_body(request, MAX_EXPLAIN_BYTES))
        if asked.policy and asked.policy not in installed_policies():
            raise unfit("policy", asked.policy, f"one of {', '.join(sorted(installed_policies()))}")
        found = await self._asked(asked)
        features = found.features
        if asked.policy:
            features = msgspec.structs.replace(features, policy=asked.policy)
        explanation = self._core.pipeline.explain(features, self._clock())
        answer = ExplainAnswer(
            **msgspec.structs.asdict(explanation),
            features=self._view(features),
            assumed=found.assumed,
            warnings=[*found.warnings, *self._warnings(asked, features, explanation)],
            then=found.then,
        )
        return json_answer(answer)

    async def _asked(self, asked: ExplainRequest) -> Asked:
        if asked.request:
            return await self._past(asked.request)
        if asked.is_whole:
            return await self._whole(asked)
        given = {name: getattr(asked, name) for name in (*FEATURES, "path", "tenant")}
        return Asked(RequestFeatures(request_id=REQUEST_ID, **given), [], [])

    async def _past(self, request_id: str) -> Asked:
        feed = kept_decisions(self._feed)
        record = await find_record(feed, request_id)
        if record.excluded is None:
            raise unfit("request", request_id, "a request that this router decided; HAProxy placed that one alone")
        return Asked(record.features, [], [], feed.view(record, detail=True))

    async def _whole(self, asked: ExplainRequest) -> Asked:
        health = self._core.edge_health
        rules, window_bytes = health.lookup_rules, health.body_window_bytes
        assumed = [] if rules is not None else [*LookupRules.__struct_fields__]
        if rules is None:
            rules = LookupRules()
            if not window_bytes:
                window_bytes = PREFIX_WINDOW_BYTES
                assumed.append("body_window_bytes")
        needs = int(body_needs(self._core.pipeline.choice.needs, len(self._core.replicas.memberships.names())))
        path = asked.path.partition("?")[0]
        # To encode a long body, and to read an odd one, takes as long as HAProxy waits for a lookup: in a thread.
        body = await asyncio.to_thread(encode_body, asked.body)
        request = PlainRequest(path, tuple((asked.headers or {}).items()), body)
        warnings = [] if is_asked(path, rules, needs) else [_not_asked(path)]
        tenant, key = asked.tenant, ""
        if (rules.api_keys_map or rules.keys_map) and not tenant:
            tenant, key, missing = await self._owner_of(request, rules)
            warnings += missing
        arguments = await asyncio.to_thread(
            lookup_arguments, request, rules, needs=needs, window_bytes=window_bytes, tenant=tenant, key=key
        )
        seen = seen_bytes(request, window_bytes)
        if "body" in arguments and seen < len(request.body):
            warnings.append(
                f"HAProxy looks at about the first {seen:,} of the body's {len(request.body):,} bytes "
                "(body_window_bytes); what stands behind them is not read."
            )
        features = self._decider.features({"id": REQUEST_ID, **arguments})
        return Asked(features, assumed, warnings)

    async def _owner_of(self, request: PlainRequest, rules: LookupRules) -> tuple[str, str, list[str]]:
        """Tenant and id of a request's API key, and a warning where there is none."""
        hashes = key_hashes(request)
        if not hashes:
            return "", "", ["HAProxy refuses a request without an API key with 401; no tenant was taken."]
        if rules.keys_map:
            made = next((key for known in hashes if (key := self._core.keys.find(known)) is not None), None)
            if made is not None:
                return made.tenant, made.id, []
        tenant = ""
        if rules.api_keys_map:
            try:
                tenant = await asyncio.to_thread(find_tenant, Path(rules.api_keys_map), hashes)
            except OSError as error:
                why = f"{rules.api_keys_map} cannot be read ({error.strerror}); `tenant` may name it."
                return "", "", [f"No tenant was taken: {why}"]
        return tenant, "", [] if tenant else ["HAProxy refuses the request with 401: its API key is not known."]

    def _view(self, features: RequestFeatures) -> FeaturesView:
        shown = self._feed.shown if self._feed is not None else str
        return FeaturesView(
            path=features.path,
            model=_text(features.model) or UNSET,
            session=_text(shown(features.session)) or UNSET,
            tenant=_text(shown(features.tenant)) or UNSET,
            body_bytes=features.body_bytes,
            prefix_keys=len(features.prefix_keys),
            max_tokens=features.max_tokens,
            generates=features.generates,
        )

    def _warnings(self, asked: ExplainRequest, features: RequestFeatures, explanation: Explanation) -> list[str]:
        """Reasons why a decision may not be the one to expect."""
        warnings = []
        name, candidates = str(explanation.policy["policy"]), explanation.candidates
        if features.naming:
            warnings.append(
                "Several models are served, and nothing tells which one this request wants: send `model` in front of "
                "the prompt, or name it in a header (HAProxy's setting model_header)."
            )
        if asked.policy and asked.policy != name:
            warnings.append(f"The policy {asked.policy} was not asked: the setting override_header is off.")
        if features.generates and candidates:
            if candidates[0].resident_tokens is UNSET:
                warnings.append(f"The policy {name} does not look at prompts: what is cached where plays no part.")
            elif asked.is_whole and not features.prefix_keys:
                warnings.append(
                    f"The prompt has no prefix key: it is shorter than {CHUNK_BYTES[0]} bytes, or the body has none of "
                    f"{', '.join(sorted(KEYS_OF_BODIES))}."
                )
        return warnings + self._core.policy.warnings(self._core.policy.document)


def _decoded(body: bytes) -> ExplainRequest:
    """The request to explain. Raises HTTPException (422) for what is none, with advice for the body of one alone."""
    try:
        return decode_body(body, ExplainRequest)
    except HTTPException as refusal:
        cause = refusal.__cause__
        if isinstance(cause, ConfigurationError) and cause.key in KEYS_OF_BODIES and cause.problem:
            whole = 'a whole request: {"path": "/v1/chat/completions", "headers": {...}, "body": {...}}'
            wrong = ConfigurationError(cause.key, cause.value, whole, "a key of the request's body")
            raise unfit_for(wrong)  # noqa: B904 -- its cause is the explanation
        raise


def encode_body(body: dict[str, Any] | str | None) -> bytes:
    """A body as bytes: an object as httpx encodes it, and OpenAI's client with it. Raises HTTPException (422) for what
    no client could send."""
    if isinstance(body, str):
        return body.encode()
    if body is None:
        return b""
    try:
        pairs = (f"{_json(name)}:{_sliced(value)}" for name, value in body.items())
        return f"{{{','.join(pairs)}}}".encode()
    except (ValueError, RecursionError) as error:
        raise unfit("body", body, f"an object that can be sent as JSON ({error})") from error


_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _sliced(value: Any) -> str:
    """A value as JSON; a long list of messages or tokens in slices, for nothing else runs while one is encoded."""
    if not isinstance(value, list):
        return _json(value)
    slices = (_json(value[at : at + SLICE])[1:-1] for at in range(0, len(value), SLICE))
    return f"[{','.join(slices)}]"


def _not_asked(path: str) -> str:
    return (
        f"HAProxy does not ask the router about POST {path}, which is none of generation_paths, while one model is "
        "served: replicas take turns."
    )


def _text(text: str) -> str:
    """Text that can be encoded; lone surrogates stand for bytes that were no UTF-8."""
    return text.encode("utf-8", "replace").decode()
