"""Where things lie in Redis: every key of one fleet, under one prefix and in one slot of a cluster.

| key | type | what | lives |
| --- | --- | --- | --- |
| `{pointsman:NAME}:schema` | string | `SHARED_SCHEMA` of who came first | always |
| `{pointsman:NAME}:life` | string | drawn when the store is found empty; another one means that it lost all | always |
| `{pointsman:NAME}:edges` | hash | edge id -> `EdgeInfo` | until the edge leaves, or is forgotten |
| `{pointsman:NAME}:replicas` | hash | replica id -> `ReplicaRecord`, of those that are registered | always |
| `{pointsman:NAME}:documents` | hash | name -> version, colon, `Document` | always |
| `{pointsman:NAME}:usage:HOUR` | hash | life, tenant, key, model, adapter -> figures | `usage.retention_days` |
| `{pointsman:NAME}:log:EDGE` | stream | batches; entry `N-0` is batch N, field `b` | `STREAM_TTL_S` after a heartbeat |
"""

from __future__ import annotations

STREAM_TTL_S = 900
"""Life of a stream, longer than `peers.FORGET_S`: an edge that another one remembers can be read on where it was."""

FIELD = b"b"


class Keys:
    """The keys of one fleet."""

    def __init__(self, name: str) -> None:
        # The braces make a cluster keep all of a fleet in one slot.
        prefix = f"{{pointsman:{name}}}:"
        self.schema = prefix + "schema"
        self.life = prefix + "life"
        self.edges = prefix + "edges"
        self.replicas = prefix + "replicas"
        self.documents = prefix + "documents"
        self._log = prefix + "log:"
        self._usage = prefix + "usage:"

    def log(self, edge: str) -> str:
        """Return the key of an edge's stream."""
        return self._log + edge

    def usage(self, hour: int) -> str:
        """Return the key of the usage of one hour, counted since 1970."""
        return f"{self._usage}{hour}"

    def edge_of(self, log: bytes) -> str:
        """Return the id of the edge that a stream is of."""
        return log.decode()[len(self._log) :]


def entry_id(seq: int) -> str:
    """Return the stream id of a batch. Redis refuses an id that is not greater than the last: none is stored twice."""
    return f"{seq}-0"


def seq_of(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])
