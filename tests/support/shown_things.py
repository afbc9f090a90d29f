"""Answers of the admin API with fixed values, as commands draw them: a fleet with one of each kind of trouble."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

NOW = datetime(2026, 11, 30, 12, 4, 31, 213_000, UTC)


def replica(id: str, state: str = "up", **about: Any) -> dict[str, Any]:
    """One replica of `GET /v1/replicas`."""
    return {
        "id": id,
        "url": f"http://10.0.0.{len(id)}:8000",
        "model": "qwen3-8b",
        "names": ["qwen3-8b"],
        "adapters": [],
        "adapters_loaded": [],
        "role": "both",
        "pool": "",
        "state": state,
        "since": "2026-11-30T09:00:00.000Z",
        "why": None,
        "last_check": None,
        "in_flight": 23,
        "in_flight_tokens": 61_440,
        "kv": {
            "footprint_tokens": 372_000,
            "capacity_tokens": 524_288,
            "usage": 0.71,
            "backlog_tokens": 9_120,
            "backlog_ms": 2_110.4,
        },
        "engine": {"running": 20, "waiting": 3, "kv_usage": 0.74},
        "hit_rate": 0.944,
        "hit_rate_predicted": 0.946,
        "keys": 812,
        "sessions": 120,
        "ttl_s": 15.0,
        "lease_left_s": 11.2,
        "cause": None,
        "failures": None,
        "until": None,
        "demotion": None,
    } | about


def check(status: str, detail: str, **about: Any) -> dict[str, Any]:
    """The last check of a replica."""
    at = "2026-11-30T12:04:30.000Z"
    return {"at": at, "status": status, "code": None, "detail": detail, "duration_ms": 4} | about


EJECTED = replica(
    "chat-3",
    "ejected",
    since="2026-11-30T12:04:27.000Z",
    why="Ejected after 7 failed answers, the last by error: probed from 2026-11-30T12:04:39Z on.",
    cause="error",
    failures=7,
    in_flight=0,
    last_check=check("L7OK", "Layer7 check passed, code 200", code=200),
)
DOWN = replica(
    "a-plain-endpoint-of-the-other-team-17",
    "down",
    since="2026-11-30T11:52:00.000Z",
    why="The health check GET /health failed: Layer7 wrong status, code 404; `health_path` of the registration names "
    "another path.",
    model="meta-llama/Llama-3.3-70B-Instruct",
    names=["meta-llama/Llama-3.3-70B-Instruct", "llama"],
    last_check=check("L7STS", "Layer7 wrong status, code 404", code=404),
    in_flight=0,
    engine=None,
    hit_rate=None,
    hit_rate_predicted=None,
    kv={
        "footprint_tokens": 0,
        "capacity_tokens": None,
        "usage": None,
        "backlog_tokens": 0,
        "backlog_ms": 0.0,
    },
    lease_left_s=None,
    ttl_s=None,
)
REPLICAS = [
    DOWN,
    replica("chat-1"),
    replica(
        "chat-2",
        in_flight=19,
        sessions=98,
        hit_rate=0.96,
        demotion={"cause": "slow", "share": 0.25, "ratio": 3.2},
        adapters=["sql", "law"],
        adapters_loaded=["sql"],
    ),
    EJECTED,
    replica(
        "chat-4",
        "draining",
        why="Drained: no further requests until DELETE /v1/replicas/chat-4/drain ends that.",
        in_flight=3,
        sessions=0,
    ),
]

CANDIDATES = [
    {
        "replica": "chat-1",
        "in_flight": 23,
        "in_flight_tokens": 61_440,
        "resident_tokens": 37_904,
        "score": 112.2,
        "terms": {"queue": 12.1, "miss": 21.3, "evict": 0.0, "interference": 5.0, "tie": 73.8},
        "is_home": True,
    },
    {
        "replica": "chat-2",
        "in_flight": 19,
        "in_flight_tokens": 41_000,
        "resident_tokens": 0,
        "score": 1_039.4,
        "terms": {"queue": 3.4, "miss": 842.0, "evict": 60.0, "interference": 31.0, "tie": 103.0},
    },
]

DECISION: dict[str, Any] = {
    "id": "6f1c8a04-5d3e-4e4f-9a3e-1c2d3e4f5a6b",
    "at": "2026-11-30T12:04:31.213Z",
    "edge": "edge-1",
    "path": "/v1/chat/completions",
    "model": "qwen3-8b",
    "session": "ab12",
    "tenant": "team-a",
    "prompt_tokens": 38_211,
    "resident_tokens": 37_904,
    "policy": {"name": "kv_cost", "revision": 17},
    "reason": "kv-home",
    "first": "chat-1",
    "second": "chat-2",
    "score": 112.2,
    "outcome": {
        "replica": "chat-1",
        "status": 200,
        "ttft_ms": 58.0,
        "duration_ms": 3_214,
        "prompt_tokens": 38_214,
        "predicted_cached": 37_904,
        "actual_cached": 37_888,
        "output_tokens": 412,
        "decode_ms": 3_150.2,
        "ended": "stop",
    },
    "candidates": CANDIDATES,
    "excluded": {"chat-3": "ejected", "chat-4": "draining"},
    "would_change": "It leaves chat-1 for chat-2 when the queue of chat-1 is 927 ms longer.",
}

REFUSED: dict[str, Any] = {
    "id": "0b7d",
    "at": "2026-11-30T12:04:30.001Z",
    "reason": "admission",
    "status": 429,
    "model": "qwen3-8b",
    "outcome": {"status": 429, "duration_ms": 2_003, "ended": "refused"},
}

UNDER_WAY: dict[str, Any] = {
    "id": "77aa",
    "at": "2026-11-30T12:04:29.900Z",
    "reason": "kv-moved",
    "first": "chat-2",
    "session": "a-session-with-a-very-long-name-0042",
    "prompt_tokens": 61_000,
    "resident_tokens": 410,
    "policy": {"name": "kv_cost", "revision": 17},
}

STATUS: dict[str, Any] = {
    "state": "degraded",
    "not_ready": [],
    "degraded": ["shared state: the store is unreachable"],
    "edge": "e1",
    "name": "edge-1",
    "version": "0.1.0",
    "started": "2026-11-30T09:00:00Z",
    "uptime_s": 11_071.2,
    "policy": {"name": "kv_cost", "etag": '"7d3f"'},
    "replicas": {
        "total": 5,
        "by_state": {"up": 2, "ejected": 1, "draining": 1, "down": 1},
        "out": [
            {
                "replica": view["id"],
                "model": view["model"],
                "state": view["state"],
                "since": view["since"],
                "why": view["why"],
            }
            for view in REPLICAS
            if view["state"] != "up"
        ],
    },
    "in_flight": 45,
    "held": 2,
    "queue": {
        "by_priority": {"normal": 1, "batch": 1},
        "shares": [
            {"priority": "batch", "tenant": "night", "requests": 1},
            {"priority": "normal", "tenant": "chat", "requests": 1},
        ],
        "others": 0,
        "longest_s": 12.25,
        "body_bytes": 4096,
    },
    "lookups": 1_000_000,
    "lookup_errors": 0,
    "fail_open": 0,
    "haproxy": {"attached": True, "error": "", "restarts": 0, "old_workers": 0},
    "edges": [
        {"name": "edge-2", "admin_url": "http://edge-2:8001", "state": "in-step"},
        {"name": "edge-3", "admin_url": "http://edge-3:8001", "state": "silent"},
    ],
}

LIVE: dict[str, Any] = {
    "at": "2026-11-30T12:04:31.000Z",
    "edge": "edge-1",
    "not_ready": [],
    "degraded": [],
    "policy": {"name": "kv_cost", "revision": 17, "since": "2026-11-30T11:52:31Z", "author": "ops", "why": "longer"},
    "over_s": 60.0,
    "requests_per_s": 812.4,
    "by_reason": {"kv-home": 655.2, "kv-prefix": 101.0, "kv-cold": 44.0, "kv-moved": 12.0, "admission": 0.2},
    "fail_open_per_s": 0.0,
    "in_flight": 45,
    "ttft_ms": {
        "qwen3-8b": {"p50": 61.0, "p99": 640.0, "count": 4_096},
        "meta-llama/Llama-3.3-70B-Instruct": {"p50": 210.4, "p99": 12_400.0, "count": 80},
    },
    "hit": {"prompt": 1_000, "actual": 944, "predicted": 946, "best": 946, "share": 0.944, "share_best": 0.946},
    "regret": {"tokens": 12.0, "ms": 3.1},
    "held": 2,
    "conversations": {"live": 1_204, "known": 18_022},
    "edges": [
        {"name": "edge-2", "state": "in-step", "admin_url": "http://edge-2:8001"},
        {"name": "edge-3", "state": "silent", "admin_url": "http://edge-3:8001"},
    ],
    "replicas": [
        {
            "id": view["id"],
            "state": view["state"],
            "model": view["model"],
            "in_flight": view["in_flight"],
            "backlog_ms": view["kv"]["backlog_ms"],
        }
        | (
            {"running": 20, "waiting": 3, "kv_used": 0.74, "kv_live": 0.71, "hit_share": 0.944}
            if view["engine"]
            else {}
        )
        | ({"why": "7 failed answers (error), probe in 8 s"} if view["state"] == "ejected" else {})
        | ({"why": "its health check fails"} if view["state"] == "down" else {})
        for view in REPLICAS
    ],
}


def compared(judged: int, moved: int, made: float, other: float, **about: Any) -> dict[str, Any]:
    """Two policies on the same requests: how many there are and move, and the TTFT of each policy."""
    return {
        "judged": judged,
        "moved": moved,
        "moved_share": moved / max(1, judged),
        "tied": 3,
        "predicted": judged,
        "regret_ms": {"sum": judged * (made - other), "per_request": made - other},
        "cached_tokens": {"sum": -judged * 120, "per_request": -120.0},
        "ttft_ms": {"made": made, "candidate": other},
    } | about


TRIED: dict[str, Any] = {
    "document": {"policy": "least_load"},
    "looked_at": 1_000,
    "result": compared(980, 412, 58.1, 96.4)
    | {
        "moves": [{"from": "chat-1", "to": f"a-replica-with-a-long-name-{at}", "requests": 40 - at} for at in range(9)],
        "moves_left_out": 88,
        "by_reason": {"kv-home": compared(900, 400, 41.0, 95.0), "kv-cold": compared(80, 12, 250.0, 112.0)},
    },
    "unjudged": {"no-candidates": 20},
    "missing_signals": [],
    "partial": 0,
    "measured_ttft_ms": 61.2,
    "notes": ["The fleet is as the live policy made it: a policy that had been live would have filled other caches."],
}
