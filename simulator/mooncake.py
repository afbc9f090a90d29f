"""Traces as files: JSON lines in Mooncake's format, one request a line.

Fields (milliseconds, tokens): `timestamp` of a session's first request, `session_id`, `delay` after the previous answer
for later ones, `input_length`, `output_length`, `hash_ids` (one number a block, the last one possibly not full). Each
line may have a `tenant`, to whom its session belongs, and a session's first line a `priority` (the class that its
requests name) and a `model`. A line without `session_id` is a session of its own. Other fields are ignored. Two
dialects differ in what a later turn's `input_length` and `hash_ids` mean:

- *whole*: the whole prompt, as in Mooncake's own traces and in Dynamo's replay. The hashes repeat the history.
- *added*: what the client adds, as `aiperf synthesize agentic-code` (0.13) writes. History, answers and additions
  follow each other without a gap; blocks past the first prompt belong to the session alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pointsman.router.tenancy.records import ModelName, PriorityName, TenantName
from pointsman.simulator.errors import TraceError
from pointsman.simulator.generate import MAX_REQUESTS
from pointsman.simulator.trace import BYTES_PER_TOKEN, Session, Trace, Turn

Dialect = Literal["whole", "added"]

TENANT_FIELD = "tenant"

_OWN_NAMES_FROM = 1 << 62
"""Blocks the file does not name are numbered from here."""

_Tokens = Annotated[int, Meta(ge=1, le=10_000_000)]
_Milliseconds = Annotated[float, Meta(ge=0.0)]


class Row(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """One line."""

    session_id: str | None = None
    timestamp: _Milliseconds | None = None
    delay: _Milliseconds | None = None
    input_length: _Tokens
    output_length: _Tokens
    hash_ids: list[int] = []
    tenant: TenantName | None = None
    priority: PriorityName | None = None
    model: ModelName | None = None


def read_trace(
    path: Path,
    *,
    block_size: int,
    dialect: Dialect | None = None,
    bytes_per_token: float = BYTES_PER_TOKEN,
    reuse_generated: bool = True,
    tenants_by: str = TENANT_FIELD,
) -> Trace:
    """The trace in a file; without `dialect`, the one its sessions speak. Raises TraceError.

    tenants_by: field with the tenant of a line, text or a whole number.
    """
    grouped: dict[tuple[str | None, str | int], list[Row]] = {}
    for number, row in _rows(path, tenants_by):
        key = row.session_id if row.session_id is not None else number
        grouped.setdefault((row.tenant, key), []).append(row)
    if not grouped:
        raise TraceError(f"{path}: no request in it")
    for (_, key), rows in grouped.items():
        first = rows[0]
        if len(first.hash_ids) > -(-first.input_length // block_size):
            raise TraceError(
                f"{path}: session {key}: {len(first.hash_ids)} hash_ids for {first.input_length} tokens: at most one a "
                f"block of {block_size}; is the block size another?"
            )
    spoken = dialect or _dialect(list(grouped.values()))
    names = count(_OWN_NAMES_FROM)
    make = _whole_turns if spoken == "whole" else _added_turns
    sessions = [
        Session(
            key if isinstance(key, str) else "",
            (rows[0].timestamp or 0.0) / 1000,
            make(rows, block_size, names),
            rows[0].tenant or "",
            rows[0].priority or "",
            rows[0].model or "",
        )
        for (_, key), rows in grouped.items()
    ]
    sessions.sort(key=lambda session: session.start_s)
    return Trace(path.stem, block_size, tuple(sessions), bytes_per_token, reuse_generated)


def write_trace(trace: Trace, path: Path) -> None:
    """Writes the dialect `whole`, which Dynamo's replay takes too. Raises TraceError where the file cannot be."""
    past_named = count(_OWN_NAMES_FROM)
    encode = msgspec.json.Encoder().encode
    try:
        with path.open("wb") as file:
            for number, session in enumerate(trace.sessions):
                for index, turn in enumerate(session.turns):
                    full, rest = divmod(turn.prompt_tokens, trace.block_size)
                    hashes = list(turn.blocks[:full]) + [next(past_named)] * (rest > 0)
                    row = Row(
                        # A replay needs one to keep turns together; a lone request needs none.
                        session_id=session.id or (f"unnamed-{number}" if len(session.turns) > 1 else None),
                        timestamp=round(session.start_s * 1000, 3) if index == 0 else None,
                        delay=round(turn.pause_s * 1000, 3) if index else None,
                        input_length=turn.prompt_tokens,
                        output_length=turn.output_tokens,
                        hash_ids=hashes,
                        tenant=session.tenant or None,
                        priority=session.priority or None,
                        model=session.model or None,
                    )
                    file.write(encode(row) + b"\n")
    except OSError as error:
        raise TraceError(f"{path}: cannot be written: {error.strerror}") from error


def _rows(path: Path, tenants_by: str) -> Iterator[tuple[int, Row]]:
    decode = msgspec.json.Decoder(Row).decode if tenants_by == TENANT_FIELD else partial(_decode_by, tenants_by)
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                if number > MAX_REQUESTS:
                    raise TraceError(f"{path}: more than {MAX_REQUESTS} lines")
                yield number, decode(line)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise TraceError(f"{path}: line {number}: {error}") from error


def _decode_by(tenants_by: str, line: bytes) -> Row:
    """One line whose tenant has a field of another name."""
    fields = msgspec.json.decode(line, type=dict[str, Any])
    tenant = fields.get(tenants_by)
    fields[TENANT_FIELD] = str(tenant) if isinstance(tenant, int) else tenant
    return msgspec.convert(fields, Row)


def _dialect(sessions: list[list[Row]]) -> Dialect:
    """`whole` unless most second turns begin with another block than the first ones, or are shorter."""
    pairs = [(rows[0], rows[1]) for rows in sessions if len(rows) > 1]
    added = sum(
        later.hash_ids[:1] != first.hash_ids[:1] or later.input_length < first.input_length for first, later in pairs
    )
    return "added" if 2 * added > len(pairs) else "whole"


def _whole_turns(rows: Sequence[Row], block_size: int, names: count[int]) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    chain: list[int] = []
    full_before = 0
    for row in rows:
        full = row.input_length // block_size
        own = row.hash_ids[:full]
        if len(own) < full and not own:  # unnamed: the conversation goes on
            own = chain[:full] + [next(names) for _ in range(full - len(chain))]
        own += [next(names) for _ in range(full - len(own))]
        if own[:full_before] == chain[:full_before] and full >= full_before:
            # A conversation that goes on shares one list: its turns are as much of it as they are long.
            chain[full_before:] = own[full_before:]
        else:
            chain = own
        full_before = full
        turns.append(Turn(row.input_length, row.output_length, (row.delay or 0.0) / 1000 if turns else 0.0, chain))
    return tuple(turns)


def _added_turns(rows: Sequence[Row], block_size: int, names: count[int]) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    chain = rows[0].hash_ids[: rows[0].input_length // block_size]
    tokens = 0
    for row in rows:
        tokens += row.input_length
        while len(chain) < (tokens + row.output_length) // block_size:
            chain.append(next(names))
        turns.append(Turn(tokens, row.output_length, (row.delay or 0.0) / 1000 if turns else 0.0, chain))
        tokens += row.output_length
    return tuple(turns)
