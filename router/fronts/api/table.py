"""The admin API as one table: its routes, the checks before its handlers and its description come from here."""

from __future__ import annotations

from pointsman.contract.bounds import MAX_COUNT
from pointsman.contract.events import JSON_TYPE, MSGPACK_TYPE, EngineEvents, EventsAnswer
from pointsman.contract.pools import POOL_NAME_PATTERN, FleetLease, ScaleOrder
from pointsman.contract.registration import REPLICA_ID_PATTERN, Registration, Role
from pointsman.contract.tokens import TokenRole
from pointsman.router.decide.decision_view import DecisionView
from pointsman.router.fronts.api import sessions
from pointsman.router.fronts.api.alias_endpoints import ALIAS_ENDPOINTS
from pointsman.router.fronts.api.config import ConfigFront
from pointsman.router.fronts.api.config_types import ConfigView
from pointsman.router.fronts.api.decisions import DETAIL, FILTERS, REQUEST_ID, DecisionList, DecisionsFront
from pointsman.router.fronts.api.description import DescriptionFront
from pointsman.router.fronts.api.edges import EdgesFront
from pointsman.router.fronts.api.endpoint import TEXT, Answer, Endpoint, Parameter, Schema
from pointsman.router.fronts.api.etag import IF_MATCH, STALE, VERSION
from pointsman.router.fronts.api.events import (
    AFTER,
    FOLLOW,
    KIND,
    LAST,
    LAST_EVENT_ID,
    EventList,
    EventsFront,
    Whoami,
)
from pointsman.router.fronts.api.explain import ExplainAnswer, ExplainFront, ExplainRequest
from pointsman.router.fronts.api.health import HealthFront
from pointsman.router.fronts.api.live import LiveFront
from pointsman.router.fronts.api.paging import PAGE
from pointsman.router.fronts.api.policy_table import POLICY_ENDPOINTS
from pointsman.router.fronts.api.pools import PoolFront
from pointsman.router.fronts.api.replicas import STATES, ReplicaFront
from pointsman.router.fronts.api.served_model_types import ServedModelList
from pointsman.router.fronts.api.served_models import ServedModelsFront
from pointsman.router.fronts.api.session_types import SessionList, SessionMove, SessionView
from pointsman.router.fronts.api.sessions import SessionFront
from pointsman.router.fronts.api.signal_types import IndexView, LoadView
from pointsman.router.fronts.api.signals import SignalsFront
from pointsman.router.fronts.api.status import StatusFront
from pointsman.router.fronts.api.status_types import StatusView
from pointsman.router.fronts.api.stream import NDJSON, SSE
from pointsman.router.fronts.api.tenancy_table import TENANCY_ENDPOINTS
from pointsman.router.fronts.api.types import (
    Digests,
    EdgeList,
    PoolList,
    PoolView,
    ReplicaList,
    ReplicaView,
)
from pointsman.router.fronts.api.usage_table import USAGE_ENDPOINTS
from pointsman.router.watch.live_document import LiveDocument

POOL_SCHEMA: Schema = {
    "type": "object",
    "description": "A pool as in the fleet's file, see docs/how-to-run-a-fleet.md.",
}

REPLICA_ID = Parameter(name="id", where="path", schema={"type": "string", "pattern": REPLICA_ID_PATTERN})
POOL_NAME = Parameter(name="name", where="path", schema={"type": "string", "pattern": POOL_NAME_PATTERN})
ROLE = Parameter(
    name="role",
    where="query",
    schema={"type": "string", "enum": [str(role) for role in Role]},
    description="Role of the replicas.",
)
BORN_MS = Parameter(
    name="born_ms",
    where="query",
    schema={"type": "integer", "minimum": 0, "maximum": MAX_COUNT},
    description="Start time of the replica that calls; 409 while a later incarnation is registered.",
)
STATE = Parameter(
    name="state",
    where="query",
    schema={"type": "string", "enum": list(STATES)},
    description="State of the replicas.",
)
MODEL = Parameter(
    name="model", where="query", schema={"type": "string"}, description="Model or other name that the replicas serve."
)
POOL = Parameter(name="pool", where="query", schema={"type": "string"}, description="Pool of the replicas.")
EXCLUDE = Parameter(
    name="exclude",
    where="query",
    schema={"type": "array", "items": {"type": "string"}},
    description="Conditions to leave out, such as `replicas`; may be repeated.",
)

BY_ENGINES = (TokenRole.ENGINE, TokenRole.OPERATE)
"""Done by replicas and drivers for themselves, and by people for endpoints that do nothing by themselves."""

REPLICA = Answer("The replica.", ReplicaView, headers=VERSION)
ORDERED = Answer("Accepted; the pool at present.", PoolView, headers=VERSION)

NO_REPLICA = {404: "No such replica."}
NO_SESSION = {404: "No such session."}
SUPERSEDED = {409: "A later incarnation of the replica is registered."}
NO_POOL = {404: "No such pool; the message names those there are."}
NO_DRIVER = {
    409: "The driver cannot do that at this moment.",
    502: "The driver of the pool's fleet gave an unusable answer.",
    503: "The driver of the pool's fleet cannot be reached.",
}
UNRESOLVED = {503: "The host name was not resolved in time."}
TOO_MANY_STREAMS = {503: "As many streams are open as may be."}
NO_PATH = {404: "No such path: the name in it has a slash."}

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET", "/v1/replicas", ReplicaFront.list_replicas, "List replicas",
        parameters=(STATE, MODEL, POOL, ROLE, *PAGE), answers={200: Answer("The replicas, by id.", ReplicaList)},
    ),
    Endpoint(
        "GET", "/v1/replicas/{id}", ReplicaFront.get_replica, "Get one replica",
        parameters=(REPLICA_ID,), allowed=tuple(TokenRole),  # a driver waits until its replicas are up
        answers={200: REPLICA}, errors=NO_REPLICA,
    ),
    Endpoint(
        "PUT", "/v1/replicas/{id}", ReplicaFront.put_replica, "Register or renew a replica",
        parameters=(REPLICA_ID, IF_MATCH), body=Registration, allowed=BY_ENGINES,
        answers={
            200: Answer("Renewed or changed.", ReplicaView, headers=VERSION),
            201: Answer("Registered.", ReplicaView, headers=VERSION),
        },
        errors={
            422: "The registration is wrong, or its address is not in `admin.engine_networks`.",
            507: "The registry is full.",
            **NO_PATH,
            **SUPERSEDED,
            **STALE,
            **UNRESOLVED,
        },
    ),
    Endpoint(
        "DELETE", "/v1/replicas/{id}", ReplicaFront.delete_replica, "Remove a replica; running streams finish",
        parameters=(REPLICA_ID, BORN_MS, IF_MATCH), allowed=BY_ENGINES,
        answers={204: Answer("Removed.")}, errors={**NO_REPLICA, **SUPERSEDED, **STALE},
    ),
    Endpoint(
        "POST", "/v1/replicas/{id}/drain", ReplicaFront.drain_replica, "Drain a replica; running streams finish",
        parameters=(REPLICA_ID, BORN_MS, IF_MATCH), allowed=(TokenRole.OPERATE, TokenRole.ENGINE),
        answers={200: REPLICA}, errors={**NO_REPLICA, **SUPERSEDED, **STALE},
    ),
    Endpoint(
        "DELETE", "/v1/replicas/{id}/drain", ReplicaFront.delete_drain, "End the drain of a replica",
        parameters=(REPLICA_ID, IF_MATCH), answers={200: REPLICA}, errors={**NO_REPLICA, **STALE},
    ),
    Endpoint(
        "POST", "/v1/replicas/{id}/undrain", ReplicaFront.undrain_replica,
        "End the drain of a replica, as DELETE of its drain does",
        parameters=(REPLICA_ID, IF_MATCH), answers={200: REPLICA}, errors={**NO_REPLICA, **STALE},
    ),
    Endpoint(
        "POST", "/v1/replicas/{id}/reset", ReplicaFront.reset_replica,
        "End the ejection or demotion of a replica at this edge; its answers are judged anew",
        parameters=(REPLICA_ID, IF_MATCH), answers={200: REPLICA}, errors={**NO_REPLICA, **STALE},
    ),
    Endpoint(
        "POST", "/v1/replicas/{id}/events", ReplicaFront.take_events,
        "Report changes of an engine: prefix keys, first tokens, ends of requests, load",
        parameters=(REPLICA_ID,), body=EngineEvents, media_types=(JSON_TYPE, MSGPACK_TYPE),
        allowed=(TokenRole.ENGINE,),
        answers={200: Answer("Accepted; whether a snapshot is needed, and the interval of messages.", EventsAnswer)},
        errors={
            **NO_REPLICA,
            400: "The body is neither JSON nor msgpack, or not UTF-8.",
            415: "The media type is neither JSON nor msgpack.",
        },
    ),
    Endpoint(
        "GET", "/v1/sessions", SessionFront.list_sessions, "List sessions and conversations with their replicas",
        parameters=(sessions.REPLICA, sessions.MODEL, sessions.TENANT, *sessions.PAGE),
        answers={200: Answer("The sessions, by key.", SessionList)},
    ),
    Endpoint(
        "GET", "/v1/sessions/{key}", SessionFront.get_session, "Get one session",
        parameters=(sessions.KEY, sessions.TENANT), answers={200: Answer("The session.", SessionView)},
        errors=NO_SESSION,
    ),
    Endpoint(
        "PUT", "/v1/sessions/{key}", SessionFront.move_session,
        "Move a session: its next request goes to that replica, on whichever edge it comes",
        parameters=(sessions.KEY, sessions.TENANT), body=SessionMove,
        answers={200: Answer("The session.", SessionView)},
        errors={409: "The replica gets no requests, or requests of the session cannot be told from others."},
    ),
    Endpoint(
        "DELETE", "/v1/sessions/{key}", SessionFront.delete_session,
        "Forget a session on all edges: its next request is placed as that of a new one",
        parameters=(sessions.KEY, sessions.TENANT), answers={204: Answer("Forgotten.")}, errors=NO_SESSION,
    ),
    Endpoint(
        "GET", "/v1/status", StatusFront.get_status, "Tell whether this edge is well, and what is not",
        answers={200: Answer("The state of the edge.", StatusView)},
    ),
    Endpoint(
        "GET", "/v1/index", SignalsFront.get_index, "Show the prefix index: keys held, by replica",
        parameters=PAGE, answers={200: Answer("The index.", IndexView)},
    ),
    Endpoint(
        "GET", "/v1/load", SignalsFront.get_load, "Show the load of each replica as policies read it",
        parameters=PAGE, answers={200: Answer("The load.", LoadView)},
    ),
    Endpoint(
        "GET", "/v1/models", ServedModelsFront.list_models, "List models with their replicas and adapters",
        answers={200: Answer("The models, by name.", ServedModelList)},
    ),
    Endpoint(
        "GET", "/v1/config", ConfigFront.get_config,
        "Show the settings in effect, and where each value comes from; secrets are hidden",
        answers={200: Answer("The settings.", ConfigView)},
    ),
    Endpoint(
        "PUT", "/v1/fleets/{name}", PoolFront.put_fleet, "Lease pools to a driver, which takes orders for them",
        parameters=(POOL_NAME,), body=FleetLease, allowed=(TokenRole.ENGINE,),
        answers={201: Answer("Known from here on."), 204: Answer("Renewed.")},
        errors={409: "A pool belongs to another fleet.", 507: "There are too many fleets.", **NO_PATH, **UNRESOLVED},
    ),
    Endpoint(
        "DELETE", "/v1/fleets/{name}", PoolFront.delete_fleet, "End the lease of a fleet's pools",
        parameters=(POOL_NAME,), allowed=BY_ENGINES,
        answers={204: Answer("Forgotten.")}, errors={404: "No such fleet."},
    ),
    Endpoint(
        "GET", "/v1/pools", PoolFront.list_pools, "List pools",
        parameters=PAGE, answers={200: Answer("The pools, by name.", PoolList)},
    ),
    Endpoint(
        "GET", "/v1/pools/{name}", PoolFront.get_pool, "Get one pool",
        parameters=(POOL_NAME,), answers={200: Answer("The pool.", PoolView, headers=VERSION)}, errors=NO_POOL,
    ),
    Endpoint(
        "PUT", "/v1/pools/{name}", PoolFront.put_pool, "Change a pool's configuration; replicas are rolled one by one",
        parameters=(POOL_NAME, IF_MATCH), body=POOL_SCHEMA, answers={202: ORDERED},
        errors={**NO_POOL, **NO_DRIVER, **STALE},
    ),
    Endpoint(
        "POST", "/v1/pools/{name}/scale", PoolFront.scale_pool, "Scale a pool",
        parameters=(POOL_NAME, IF_MATCH), body=ScaleOrder, answers={202: ORDERED},
        errors={**NO_POOL, **NO_DRIVER, **STALE},
    ),
    *POLICY_ENDPOINTS,
    *ALIAS_ENDPOINTS,
    *TENANCY_ENDPOINTS,
    Endpoint(
        "GET", "/v1/decisions", DecisionsFront.list_decisions, "List the latest decisions, or follow those that end",
        parameters=(*FILTERS, *PAGE, DETAIL, FOLLOW),
        answers={
            200: Answer(
                "Decisions, the newest first, 100 without a `limit`; with `follow`, an answer that goes on.",
                DecisionList, other={SSE: TEXT, NDJSON: TEXT},
            ),
        },
        errors={404: "This router keeps no decisions.", **TOO_MANY_STREAMS},
    ),
    Endpoint(
        "GET", "/v1/decisions/{id}", DecisionsFront.get_decision, "Get one decision: candidates, terms and outcome",
        parameters=(REQUEST_ID,), answers={200: Answer("The decision.", DecisionView)},
        errors={404: "No decision about such a request is kept."},
    ),
    Endpoint(
        "GET", "/v1/live", LiveFront.get_live, "Get the figures of this moment, or follow them, once a second",
        parameters=(FOLLOW,), answers={200: Answer("The figures.", LiveDocument, other={SSE: TEXT, NDJSON: TEXT})},
        errors=TOO_MANY_STREAMS,
    ),
    *USAGE_ENDPOINTS,
    Endpoint(
        "GET", "/v1/edges", EdgesFront.list_edges, "List the other edges that share state with this one",
        parameters=PAGE, answers={200: Answer("The edges, by name.", EdgeList)},
    ),
    Endpoint(
        "GET", "/v1/state/digests", EdgesFront.digests,
        "Get digests that are equal on two edges exactly when both know the same",
        answers={200: Answer("Digests by kind of state.", Digests)},
    ),
    Endpoint(
        "POST", "/v1/explain", ExplainFront.explain, "Explain the decision for a request, of a client or past",
        body=ExplainRequest, allowed=(TokenRole.READ,),
        answers={200: Answer("The decision, what it was made of, and the candidates, the best first.", ExplainAnswer)},
        errors={404: "No decision about such a request is kept."},
    ),
    Endpoint(
        "GET", "/v1/events", EventsFront.list_events, "List events, or follow them",
        parameters=(KIND, LAST, AFTER, FOLLOW, LAST_EVENT_ID),
        answers={200: Answer("The events.", EventList, other={SSE: TEXT, NDJSON: TEXT})}, errors=TOO_MANY_STREAMS,
    ),
    Endpoint(
        "GET", "/v1/whoami", EventsFront.whoami, "Get the name and the roles of the token",
        answers={200: Answer("Name and roles.", Whoami)},
    ),
    Endpoint(
        "GET", "/livez", HealthFront.livez, "Probe whether the router's process answers", public=True,
        answers={200: Answer("It does.", other={"text/plain": TEXT})},
    ),
    Endpoint(
        "GET", "/readyz", HealthFront.readyz, "Probe whether requests are decided and served", public=True,
        parameters=(EXCLUDE,),
        answers={
            200: Answer("Ready; a line `degraded: ...` for each part that works badly.", other={"text/plain": TEXT}),
            503: Answer("Not ready; a line for each reason.", other={"text/plain": TEXT}),
        },
    ),
    Endpoint(
        "GET", "/metrics", HealthFront.metrics, "Get all metrics for Prometheus", public=True,
        answers={200: Answer("Prometheus' text format.", other={"text/plain": TEXT})},
    ),
    Endpoint(
        "GET", "/openapi.json", DescriptionFront.get_description, "Get the description of this API", public=True,
        answers={200: Answer("An OpenAPI 3.1 document.", {"type": "object"})},
    ),
)  # fmt: skip
