"""A line of HAProxy's log ring."""

from __future__ import annotations

import msgspec


def line(**fields: object) -> bytes:
    """A line as HAProxy's log-format writes it."""
    whole = {
        "ev": "end", "id": "r1", "pid": 1, "srv": "a", "first": "a", "reason": "least-load", "st": 200, "tw": 0,
        "tc": 0, "tr": 20, "ta": 300, "ttft": "-", "bytes": 1, "ts": "--", "rc": "0", "routed": "1", "cid": "-",
    } | fields  # fmt: skip
    return msgspec.json.encode(whole)
