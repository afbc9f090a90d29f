"""Trace files in both dialects, there and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sim_trace import make_conversation, make_session, make_trace, make_turn

from pointsman.simulator.errors import TraceError
from pointsman.simulator.generate import WORKLOADS, generate
from pointsman.simulator.mooncake import read_trace, write_trace
from pointsman.simulator.trace import Trace


def read(tmp_path: Path, *rows: object, block_size: int = 4, **given: object) -> Trace:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return read_trace(path, block_size=block_size, **given)  # type: ignore[arg-type]


def test_a_line_without_a_session_is_one_of_its_own(tmp_path: Path) -> None:
    """Mooncake's public traces: a timestamp, lengths, hashes; the last block is not full."""
    trace = read(
        tmp_path,
        {"timestamp": 1500, "input_length": 10, "output_length": 3, "hash_ids": [1, 2, 3]},
        {"timestamp": 500, "input_length": 8, "output_length": 1, "hash_ids": [1, 9]},
    )
    first, second = trace.sessions
    assert (first.id, first.start_s, list(first.turns[0].blocks)) == ("", 0.5, [1, 9])
    assert (second.start_s, list(second.turns[0].blocks)) == (1.5, [1, 2])


def test_turns_of_whole_prompts_share_one_list(tmp_path: Path) -> None:
    """A prompt that goes on with the one before is a longer part of the same list; pauses come from `delay`."""
    trace = read(
        tmp_path,
        {"session_id": "a", "timestamp": 0, "input_length": 8, "output_length": 4, "hash_ids": [1, 2]},
        {"session_id": "a", "delay": 250, "input_length": 17, "output_length": 4, "hash_ids": [1, 2, 3, 4, 5]},
    )
    one, two = trace.sessions[0].turns
    assert one.blocks is two.blocks
    assert list(two.blocks) == [1, 2, 3, 4]
    assert (one.pause_s, two.pause_s) == (0.0, 0.25)


def test_a_whole_prompt_that_begins_anew_has_a_list_of_its_own(tmp_path: Path) -> None:
    """A session whose history was cut: nothing of the first prompt is in the second."""
    trace = read(
        tmp_path,
        {"session_id": "a", "timestamp": 0, "input_length": 8, "output_length": 4, "hash_ids": [1, 2]},
        {"session_id": "a", "delay": 1, "input_length": 8, "output_length": 4, "hash_ids": [1, 7]},
        {"session_id": "a", "delay": 1, "input_length": 12, "output_length": 4, "hash_ids": [1, 7, 8]},
    )
    assert [list(turn.blocks) for turn in trace.sessions[0].turns] == [[1, 2], [1, 7, 8], [1, 7, 8]]


def test_added_lengths_add_up(tmp_path: Path) -> None:
    """aiperf's rows: 10 + (3 answered) + 6 = 19 tokens; blocks past the first prompt are the session's own."""
    trace = read(
        tmp_path,
        {"session_id": "a", "timestamp": 0.0, "input_length": 10, "output_length": 3, "hash_ids": [1, 2, 3]},
        {"session_id": "a", "delay": 5, "input_length": 6, "output_length": 2, "hash_ids": [40, 41]},
        {"session_id": "b", "timestamp": 0.0, "input_length": 10, "output_length": 3, "hash_ids": [1, 2, 8]},
        {"session_id": "b", "delay": 5, "input_length": 6, "output_length": 2, "hash_ids": [50, 51]},
    )
    a, b = trace.sessions
    assert [turn.prompt_tokens for turn in a.turns] == [10, 19]
    assert list(a.turns[1].blocks)[:2] == list(b.turns[1].blocks)[:2] == [1, 2]
    assert len(a.turns[1].blocks) == (19 + 2) // 4
    assert not set(a.turns[1].blocks[2:]) & set(b.turns[1].blocks[2:])


def test_the_dialect_can_be_told(tmp_path: Path) -> None:
    """Rows that could be either are read as said."""
    rows = [
        {"session_id": "a", "timestamp": 0, "input_length": 8, "output_length": 4, "hash_ids": [1, 2]},
        {"session_id": "a", "delay": 1, "input_length": 12, "output_length": 4, "hash_ids": [1, 2, 3]},
    ]
    assert read(tmp_path, *rows).sessions[0].turns[1].prompt_tokens == 12
    assert read(tmp_path, *rows, dialect="added").sessions[0].turns[1].prompt_tokens == 8 + 4 + 12


def test_unnamed_blocks_belong_to_their_session(tmp_path: Path) -> None:
    """Without hash_ids a conversation still goes on with itself, and shares nothing with another."""
    rows = [
        {"session_id": id, **at, "input_length": length, "output_length": 4}
        for id in "ab"
        for at, length in (({"timestamp": 0}, 8), ({"delay": 1}, 16))
    ]
    a, b = read(tmp_path, *rows).sessions
    assert a.turns[0].blocks is a.turns[1].blocks
    assert len(set(a.turns[1].blocks)) == 4
    assert not set(a.turns[1].blocks) & set(b.turns[1].blocks)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    """Sessions, lengths, pauses and shared blocks survive; times are kept to a microsecond."""
    trace = make_trace(
        make_conversation("a", 0.5, [16, 33, 50], pause_s=1.25),
        make_session("b", 0.75, make_turn(9, 2)),
    )
    path = tmp_path / "trace.jsonl"
    write_trace(trace, path)
    again = read_trace(path, block_size=4)
    assert [(s.id, s.start_s) for s in again.sessions] == [("a", 0.5), ("b", 0.75)]
    for before, after in zip(trace.sessions, again.sessions, strict=True):
        for turn, same in zip(before.turns, after.turns, strict=True):
            assert (turn.prompt_tokens, turn.output_tokens, turn.pause_s) == (
                same.prompt_tokens,
                same.output_tokens,
                same.pause_s,
            )
            full = turn.prompt_tokens // 4
            assert list(turn.blocks[:full]) == list(same.blocks[:full])


def test_a_generated_workload_survives_the_file(tmp_path: Path) -> None:
    """Heads shared by applications and each turn's blocks are the same after reading."""
    trace = generate(WORKLOADS["agentic"], sessions=5, seed=3)
    path = tmp_path / "trace.jsonl"
    write_trace(trace, path)
    again = read_trace(path, block_size=trace.block_size)
    for before, after in zip(trace.sessions, again.sessions, strict=True):
        assert [trace.prefix_keys(turn) for turn in before.turns] == [again.prefix_keys(turn) for turn in after.turns]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        pytest.param('{"input_length": 1}\n', "line 1: .*output_length", id="missing"),
        pytest.param('{"input_length": 0, "output_length": 1}\n', "line 1: .*>= 1", id="zero"),
        pytest.param("not json\n", "line 1: ", id="no json"),
        pytest.param("\n", "no request", id="empty"),
        pytest.param(
            '{"input_length": 4, "output_length": 1, "hash_ids": [1, 2, 3]}\n', "block size another", id="block size"
        ),
    ],
)
def test_a_file_that_is_no_trace_is_refused(tmp_path: Path, line: str, says: str) -> None:
    """The error names the file, the line and what was expected."""
    with pytest.raises(TraceError, match=says):
        read(tmp_path, line)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """In one sentence."""
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path / "none.jsonl", block_size=64)


def test_tenants_priorities_and_models_survive_writing(tmp_path: Path) -> None:
    """Of sessions of several turns, of lone requests, and of those that have none."""
    path = tmp_path / "out.jsonl"
    conversation = replace(make_conversation("a", 0.0, [8, 16]), tenant="acme", priority="high", model="chat")
    lone = replace(make_session("", 1.0), tenant="beta")
    write_trace(make_trace(conversation, lone, make_session("c", 2.0)), path)
    found = read_trace(path, block_size=4)
    assert [(one.id, one.tenant, one.priority, one.model, len(one.turns)) for one in found.sessions] == [
        ("a", "acme", "high", "chat", 2),
        ("", "beta", "", "", 1),
        ("c", "", "", "", 1),
    ]


def test_sessions_of_two_tenants_may_have_one_id(tmp_path: Path) -> None:
    """Each tenant counts its own."""
    rows = [{"session_id": "1", "timestamp": 0, "input_length": 8, "output_length": 1, "tenant": name} for name in "ab"]
    assert [(one.id, one.tenant) for one in read(tmp_path, *rows).sessions] == [("1", "a"), ("1", "b")]


def test_a_tenant_may_be_a_field_of_another_name(tmp_path: Path) -> None:
    """A number counts as its digits."""
    row = {"timestamp": 0, "input_length": 8, "output_length": 1}
    trace = read(tmp_path, row | {"client_id": 17}, row | {"client_id": "x"}, row, tenants_by="client_id")
    assert [one.tenant for one in trace.sessions] == ["17", "x", ""]


def test_a_tenant_of_no_name_is_refused(tmp_path: Path) -> None:
    """With the line, and so is a class that there is none of."""
    row = {"timestamp": 0, "input_length": 8, "output_length": 1}
    with pytest.raises(TraceError, match=r"line 2: .*tenant"):
        read(tmp_path, row, row | {"tenant": "a b"})
    with pytest.raises(TraceError, match=r"line 1: .*priority"):
        read(tmp_path, row | {"priority": "urgent"})
    with pytest.raises(TraceError, match=r"line 1: .*tenant"):
        read(tmp_path, row | {"user": ["a"]}, tenants_by="user")
