"""Named events: their order, their numbers, and that they add up to the whole answer."""

from __future__ import annotations

import json

from pointsman.engine.sim.wire import Finished, Usage, Wire
from pointsman.engine.sim.wire_events import MessageWire, ResponseWire

USAGE = Usage(prompt=40, completion=3, cached=16, created=16)


def stream(wire: Wire, reason: str = "stop") -> list[tuple[str, dict[str, object]]]:
    """(event name, data) of an answer of two words."""
    text = wire.opening(40) + wire.delta(0, b" the") + wire.delta(0, b" and") + wire.last(0, b"", reason)
    text += wire.closing(USAGE, [Finished(0, b" the and", reason)])
    names = [line.removeprefix(b"event: ").decode() for line in text.splitlines() if line.startswith(b"event: ")]
    data = [json.loads(line.removeprefix(b"data: ")) for line in text.splitlines() if line.startswith(b"data: ")]
    return list(zip(names, data, strict=True))


def test_messages_come_in_anthropics_order() -> None:
    """Start, block, deltas, end of block, reason with usage, stop."""
    events = stream(MessageWire("r", 1, "m", 1, False), "length")
    assert [name for name, _ in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(data["type"] == name for name, data in events)
    assert events[5][1]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}


def test_anthropics_input_tokens_leave_out_cached_and_created_ones() -> None:
    """40 prompt tokens: 16 read from the cache, 16 written to it, 8 neither."""
    whole = json.loads(MessageWire("r", 1, "m", 1, False).whole(USAGE, [Finished(0, b" the", "stop")]))
    assert whole["usage"] == {
        "input_tokens": 8,
        "output_tokens": 3,
        "cache_read_input_tokens": 16,
        "cache_creation_input_tokens": 16,
    }
    assert whole["stop_reason"] == "end_turn"


def test_response_events_are_numbered_and_complete() -> None:
    """Numbers from 0 without a gap; the text of the last event is the sum of the deltas."""
    events = stream(ResponseWire("r", 1, "m", 1, False))
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))
    deltas = "".join(str(data["delta"]) for name, data in events if name == "response.output_text.delta")
    name, last = events[-1]
    assert name == "response.completed"
    assert deltas == last["response"]["output"][0]["content"][0]["text"] == " the and"  # type: ignore[index]


def test_a_response_cut_short_is_incomplete() -> None:
    """Status and reason say that the token limit ended it."""
    name, data = stream(ResponseWire("r", 1, "m", 1, False), "length")[-1]
    response = data["response"]
    assert isinstance(response, dict)
    assert (name, response["status"]) == ("response.incomplete", "incomplete")
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
