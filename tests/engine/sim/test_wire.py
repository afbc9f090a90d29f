"""Answers byte for byte as vLLM 0.32 sends them; the expected lines were recorded from a real one."""

from __future__ import annotations

import json

import pytest

from pointsman.engine.sim.wire import DONE, ChatWire, CompletionWire, Finished, Usage, Wire
from pointsman.engine.sim.wire_events import MessageWire, ResponseWire

CREATED = 1795422184
USAGE = Usage(prompt=16, completion=4, cached=0, created=0)


def wire(kind: type[Wire], *, choices: int = 1, include_usage: bool = True) -> Wire:
    """The answer to request id `rid1`, model `tiny`."""
    return kind("rid1", CREATED, "tiny", choices, include_usage)


def fingerprinted(recorded: bytes) -> bytes:
    """vLLM's fingerprint replaced by ours, the chunk's length with it."""
    data = recorded.partition(b"\r\n")[2].removesuffix(b"\r\n")
    data = data.replace(b"vllm-0.32.0-ca593bb0", b"vllm-0.32.0-sim")
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_chat_chunks_are_vllms() -> None:
    """Role, word, last word with its reason, usage, [DONE]."""
    chat = wire(ChatWire)
    assert chat.opening(16) == (
        b'f5\r\ndata: {"id":"chatcmpl-rid1","object":"chat.completion.chunk","created":1795422184,"model":"tiny",'
        b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
        b'"prompt_token_ids":null,"prompt_text":null}\n\n\r\n'
    )
    assert chat.delta(0, b"Async") == (
        b'cd\r\ndata: {"id":"chatcmpl-rid1","object":"chat.completion.chunk","created":1795422184,"model":"tiny",'
        b'"choices":[{"index":0,"delta":{"content":"Async"},"logprobs":null,"finish_reason":null,"token_ids":null}]}'
        b"\n\n\r\n"
    )
    assert chat.last(0, rb"\n", "length") == (
        b'e1\r\ndata: {"id":"chatcmpl-rid1","object":"chat.completion.chunk","created":1795422184,"model":"tiny",'
        b'"choices":[{"index":0,"delta":{"content":"\\n"},"logprobs":null,"finish_reason":"length",'
        b'"stop_reason":null,"token_ids":null}]}\n\n\r\n'
    )
    usage = fingerprinted(
        b'126\r\ndata: {"id":"chatcmpl-rid1","object":"chat.completion.chunk","created":1795422184,"model":"tiny",'
        b'"choices":[],"usage":{"prompt_tokens":16,"total_tokens":20,"completion_tokens":4,"prompt_tokens_details":'
        b'{"cached_tokens":0,"created_cache_tokens":0}},"system_fingerprint":"vllm-0.32.0-ca593bb0"}\n\n\r\n'
    )
    assert chat.closing(USAGE, []) == usage + b"e\r\ndata: [DONE]\n\n\r\n"


def test_completion_chunks_are_vllms() -> None:
    """No role; text; usage without a count of created tokens."""
    completion = wire(CompletionWire)
    assert completion.opening(6) == b""
    assert completion.delta(0, b"ld") == (
        b'de\r\ndata: {"id":"cmpl-rid1","object":"text_completion","created":1795422184,"model":"tiny","choices":'
        b'[{"index":0,"text":"ld","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,'
        b'"token_ids":null}]}\n\n\r\n'
    )
    assert completion.last(0, b".)", "length") == (
        b'e2\r\ndata: {"id":"cmpl-rid1","object":"text_completion","created":1795422184,"model":"tiny","choices":'
        b'[{"index":0,"text":".)","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":'
        b'null,"token_ids":null}]}\n\n\r\n'
    )
    usage = fingerprinted(
        b'101\r\ndata: {"id":"cmpl-rid1","object":"text_completion","created":1795422184,"model":"tiny","choices":[],'
        b'"usage":{"prompt_tokens":6,"total_tokens":9,"completion_tokens":3,"prompt_tokens_details":'
        b'{"cached_tokens":0}},"system_fingerprint":"vllm-0.32.0-ca593bb0"}\n\n\r\n'
    )
    assert completion.closing(Usage(6, 3, 0, 0), []) == usage + DONE


def test_a_whole_chat_answer_is_vllms() -> None:
    """The 737 bytes of the recorded answer, but for the fingerprint."""
    recorded = (
        b'{"id":"chatcmpl-rid1","object":"chat.completion","created":1795422184,"model":"tiny","choices":[{"index":0,'
        b'"message":{"role":"assistant","content":"Async\\n","refusal":null,"annotations":null,"audio":null,'
        b'"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":"length","stop_reason":null,'
        b'"token_ids":null,"routed_experts":null}],"service_tier":null,"system_fingerprint":"vllm-0.32.0-ca593bb0",'
        b'"usage":{"prompt_tokens":16,"total_tokens":18,"completion_tokens":2,"prompt_tokens_details":'
        b'{"cached_tokens":0,"created_cache_tokens":0,"multimodal_tokens":null},"completion_tokens_details":null},'
        b'"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null,"kv_transfer_params":null,'
        b'"ec_transfer_params":null,"metrics":null}'
    )
    assert len(recorded) == 737
    whole = wire(ChatWire).whole(Usage(16, 2, 0, 0), [Finished(0, b"Async\n", "length")])
    assert whole == recorded.replace(b"ca593bb0", b"sim")


@pytest.mark.parametrize("kind", [ChatWire, CompletionWire])
def test_without_usage_the_last_chunk_of_a_choice_has_the_fingerprint(kind: type[Wire]) -> None:
    """vLLM stamps the terminal chunk when no usage chunk follows."""
    answer = wire(kind, include_usage=False)
    assert answer.last(0, b"", "stop").endswith(b'],"system_fingerprint":"vllm-0.32.0-sim"}\n\n\r\n')
    assert answer.closing(USAGE, []) == DONE


@pytest.mark.parametrize("kind", [ChatWire, CompletionWire, MessageWire])
def test_pieces_make_the_same_chunk(kind: type[Wire]) -> None:
    """Head, one word, tail: what `delta` would say."""
    answer = wire(kind)
    pieces = answer.pieces(0)
    assert pieces is not None
    assert pieces[0] + b" the" + pieces[1] == answer.delta(0, b" the")


def test_each_choice_gets_a_role() -> None:
    """n=2: two opening chunks, index 0 and 1."""
    opening = wire(ChatWire, choices=2).opening(16)
    assert opening.count(b'"role":"assistant"') == 2
    assert b'"index":1,"delta":{"role"' in opening


@pytest.mark.parametrize("kind", [ChatWire, CompletionWire, MessageWire, ResponseWire])
def test_a_model_name_is_escaped(kind: type[Wire]) -> None:
    """A quote in the name must not end the JSON string."""
    answer = kind('a"b', CREATED, 'x"\n', 1, True)
    stream = answer.opening(3) + answer.delta(0, b" the") + answer.last(0, b"", "stop")
    stream += answer.closing(USAGE, [Finished(0, b" the", "stop")])
    for line in stream.splitlines():
        if line.startswith(b"data: {"):
            json.loads(line.removeprefix(b"data: "))
