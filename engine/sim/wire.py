"""The bytes of answers: one class for each API, the same JSON as vLLM 0.32, built from templates.

A `Wire` knows how to say things, never when. For streams it gives whole HTTP chunks; one server-sent event is one
chunk, as vLLM sends them. `pieces` lets a caller put one word between two constant halves, which is what almost every
chunk is.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from engine.sim.prompts import TOKEN_BYTES

FINGERPRINT = "vllm-0.32.0-sim"
LAST_CHUNK = b"0\r\n\r\n"


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts of one request, all choices together."""

    prompt: int
    completion: int
    cached: int
    created: int
    """Prompt tokens that entered the cache: those of full blocks that were not there."""


class Finished(msgspec.Struct, frozen=True, gc=False):
    """One finished choice."""

    index: int
    text: bytes
    reason: str
    """`stop` or `length`."""


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: bytes, name: bytes = b"") -> bytes:
    """One server-sent event as one HTTP chunk."""
    if name:
        return chunk(b"event: %b\ndata: %b\n\n" % (name, data))
    return chunk(b"data: %b\n\n" % data)


DONE = event(b"[DONE]")


class Wire:
    """How one API says it. `opening` comes with the first token, then `delta`s, one `last` a choice, `closing`."""

    id_prefix: ClassVar[str]

    def __init__(self, request_id: str, created: int, model: str, choices: int, include_usage: bool) -> None:
        self.request_id = self.id_prefix + request_id
        self.created = created
        self.model = model
        self.choices = choices
        self.include_usage = include_usage
        self.id_json = msgspec.json.encode(self.request_id)
        self.model_json = msgspec.json.encode(model)

    def pieces(self, index: int) -> tuple[bytes, bytes] | None:
        """The two halves of a chunk that brings one word of TOKEN_BYTES; None if they change from chunk to chunk."""
        marker = b"\xff" * TOKEN_BYTES
        head, _, tail = self.delta(index, marker).partition(marker)
        return head, tail

    def opening(self, prompt_tokens: int) -> bytes:
        """What precedes the first word; may be empty."""
        raise NotImplementedError

    def delta(self, index: int, text: bytes) -> bytes:
        """More text of a choice; `text` needs no JSON escapes."""
        raise NotImplementedError

    def last(self, index: int, text: bytes, reason: str) -> bytes:
        """The last text of a choice and why it ends."""
        raise NotImplementedError

    def closing(self, usage: Usage, finished: list[Finished]) -> bytes:
        """What follows the last choice, the end of the chunked body included."""
        raise NotImplementedError

    def whole(self, usage: Usage, finished: list[Finished]) -> bytes:
        """The answer as one JSON body."""
        raise NotImplementedError


class ChatWire(Wire):
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl-"

    def __init__(self, request_id: str, created: int, model: str, choices: int, include_usage: bool) -> None:
        super().__init__(request_id, created, model, choices, include_usage)
        self._stem = b'{"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % (
            self.id_json,
            created,
            self.model_json,
        )

    def opening(self, prompt_tokens: int) -> bytes:
        role = (
            b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
            b',"prompt_token_ids":null,"prompt_text":null}'
        )
        return b"".join([event(self._stem + role % index) for index in range(self.choices)])

    def delta(self, index: int, text: bytes) -> bytes:
        return event(
            self._stem
            + b'{"index":%d,"delta":{"content":"%b"},"logprobs":null,"finish_reason":null,"token_ids":null}]}'
            % (index, text)
        )

    def last(self, index: int, text: bytes, reason: str) -> bytes:
        choice = (
            b'{"index":%d,"delta":{"content":"%b"},"logprobs":null,"finish_reason":"%b","stop_reason":null,'
            b'"token_ids":null}]' % (index, text, reason.encode())
        )
        return event(self._stem + choice + (b"}" if self.include_usage else _FINGERPRINT_TAIL))

    def closing(self, usage: Usage, finished: list[Finished]) -> bytes:
        if not self.include_usage:
            return DONE + LAST_CHUNK
        counts = (
            b'],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":'
            b'{"cached_tokens":%d,"created_cache_tokens":%d}}'
            % (usage.prompt, usage.prompt + usage.completion, usage.completion, usage.cached, usage.created)
        )
        return event(self._stem + counts + _FINGERPRINT_TAIL) + DONE + LAST_CHUNK

    def whole(self, usage: Usage, finished: list[Finished]) -> bytes:
        choices = [
            {
                "index": choice.index,
                "message": {
                    "role": "assistant",
                    "content": choice.text.decode(),
                    "refusal": None,
                    "annotations": None,
                    "audio": None,
                    "function_call": None,
                    "reasoning": None,
                },
                "logprobs": None,
                "finish_reason": choice.reason,
                "stop_reason": None,
                "token_ids": None,
                "routed_experts": None,
            }
            for choice in finished
        ]
        return msgspec.json.encode(
            {
                "id": self.request_id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": choices,
                "service_tier": None,
                "system_fingerprint": FINGERPRINT,
                "usage": {
                    "prompt_tokens": usage.prompt,
                    "total_tokens": usage.prompt + usage.completion,
                    "completion_tokens": usage.completion,
                    "prompt_tokens_details": {
                        "cached_tokens": usage.cached,
                        "created_cache_tokens": usage.created,
                        "multimodal_tokens": None,
                    },
                    "completion_tokens_details": None,
                },
                "prompt_logprobs": None,
                "prompt_token_ids": None,
                "prompt_text": None,
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )


class CompletionWire(Wire):
    """`/v1/completions`."""

    id_prefix = "cmpl-"

    def __init__(self, request_id: str, created: int, model: str, choices: int, include_usage: bool) -> None:
        super().__init__(request_id, created, model, choices, include_usage)
        self._stem = b'{"id":%b,"object":"text_completion","created":%d,"model":%b,"choices":[' % (
            self.id_json,
            created,
            self.model_json,
        )

    def opening(self, prompt_tokens: int) -> bytes:
        return b""

    def delta(self, index: int, text: bytes) -> bytes:
        return event(
            self._stem + b'{"index":%d,"text":"%b","logprobs":null,"finish_reason":null,"stop_reason":null,'
            b'"prompt_token_ids":null,"token_ids":null}]}' % (index, text)
        )

    def last(self, index: int, text: bytes, reason: str) -> bytes:
        choice = (
            b'{"index":%d,"text":"%b","logprobs":null,"finish_reason":"%b","stop_reason":null,'
            b'"prompt_token_ids":null,"token_ids":null}]' % (index, text, reason.encode())
        )
        return event(self._stem + choice + (b"}" if self.include_usage else _FINGERPRINT_TAIL))

    def closing(self, usage: Usage, finished: list[Finished]) -> bytes:
        if not self.include_usage:
            return DONE + LAST_CHUNK
        counts = (
            b'],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":'
            b'{"cached_tokens":%d}}' % (usage.prompt, usage.prompt + usage.completion, usage.completion, usage.cached)
        )
        return event(self._stem + counts + _FINGERPRINT_TAIL) + DONE + LAST_CHUNK

    def whole(self, usage: Usage, finished: list[Finished]) -> bytes:
        choices = [
            {
                "index": choice.index,
                "text": choice.text.decode(),
                "logprobs": None,
                "finish_reason": choice.reason,
                "stop_reason": None,
                "token_ids": None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
                "routed_experts": None,
            }
            for choice in finished
        ]
        return msgspec.json.encode(
            {
                "id": self.request_id,
                "object": "text_completion",
                "created": self.created,
                "model": self.model,
                "choices": choices,
                "service_tier": None,
                "system_fingerprint": FINGERPRINT,
                "usage": {
                    "prompt_tokens": usage.prompt,
                    "total_tokens": usage.prompt + usage.completion,
                    "completion_tokens": usage.completion,
                    "prompt_tokens_details": {
                        "cached_tokens": usage.cached,
                        "created_cache_tokens": None,
                        "multimodal_tokens": None,
                    },
                    "completion_tokens_details": None,
                },
                "kv_transfer_params": None,
                "ec_transfer_params": None,
                "metrics": None,
            }
        )


class MessageWire(Wire):
    """`/v1/messages`: Anthropic's events round the same text. vLLM gives the message its chat completion's id."""

    id_prefix = "chatcmpl-"

    def opening(self, prompt_tokens: int) -> bytes:
        start = (
            b'{"type":"message_start","message":{"id":%b,"type":"message","role":"assistant","content":[],'
            b'"model":%b,"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":%d,"output_tokens":0}}}'
            % (self.id_json, self.model_json, prompt_tokens)
        )
        block = b'{"type":"content_block_start","content_block":{"type":"text","text":""},"index":0}'
        return event(start, b"message_start") + event(block, b"content_block_start")

    def delta(self, index: int, text: bytes) -> bytes:
        return event(
            b'{"type":"content_block_delta","delta":{"type":"text_delta","text":"%b"},"index":0}' % text,
            b"content_block_delta",
        )

    def last(self, index: int, text: bytes, reason: str) -> bytes:
        return self.delta(index, text) if text else b""

    def closing(self, usage: Usage, finished: list[Finished]) -> bytes:
        stop = b'{"type":"message_delta","delta":{"stop_reason":"%b","stop_sequence":null},"usage":%b}' % (
            _STOP_REASONS[finished[0].reason].encode(),
            msgspec.json.encode(_anthropic_usage(usage)),
        )
        return (
            event(b'{"type":"content_block_stop","index":0}', b"content_block_stop")
            + event(stop, b"message_delta")
            + event(b'{"type":"message_stop"}', b"message_stop")
            + LAST_CHUNK
        )

    def whole(self, usage: Usage, finished: list[Finished]) -> bytes:
        return msgspec.json.encode(
            {
                "id": self.request_id,
                "type": "message",
                "role": "assistant",
                "content": [{"type": "text", "text": finished[0].text.decode()}],
                "model": self.model,
                "stop_reason": _STOP_REASONS[finished[0].reason],
                "usage": _anthropic_usage(usage),
            }
        )


class ResponseWire(Wire):
    """`/v1/responses`: numbered events. The text of the done events is kept until the end."""

    id_prefix = "resp_"

    def __init__(self, request_id: str, created: int, model: str, choices: int, include_usage: bool) -> None:
        super().__init__(request_id, created, model, choices, include_usage)
        self._sequence = 0
        self._item_id = "msg_" + request_id

    def pieces(self, index: int) -> None:
        return None

    def opening(self, prompt_tokens: int) -> bytes:
        response = self._response("in_progress", [], None)
        item = {"id": self._item_id, "content": [], "role": "assistant", "status": "in_progress", "type": "message"}
        return (
            self._event("response.created", response=response)
            + self._event("response.in_progress", response=response)
            + self._event("response.output_item.added", item=item, output_index=0)
            + self._event("response.content_part.added", **self._place(), part=_text_part(""))
        )

    def delta(self, index: int, text: bytes) -> bytes:
        return self._event("response.output_text.delta", **self._place(), delta=text.decode(), logprobs=[])

    def last(self, index: int, text: bytes, reason: str) -> bytes:
        return self.delta(index, text) if text else b""

    def closing(self, usage: Usage, finished: list[Finished]) -> bytes:
        text, reason = finished[0].text.decode(), finished[0].reason
        item = self._item(text)
        done = "response.completed" if reason == "stop" else "response.incomplete"
        return (
            self._event("response.output_text.done", **self._place(), text=text, logprobs=[])
            + self._event("response.content_part.done", **self._place(), part=_text_part(text))
            + self._event("response.output_item.done", item=item, output_index=0)
            + self._event(done, response=self._response(_STATUS[reason], [item], usage))
            + LAST_CHUNK
        )

    def whole(self, usage: Usage, finished: list[Finished]) -> bytes:
        item = self._item(finished[0].text.decode())
        return msgspec.json.encode(self._response(_STATUS[finished[0].reason], [item], usage))

    def _event(self, kind: str, **fields: object) -> bytes:
        data = msgspec.json.encode({**fields, "sequence_number": self._sequence, "type": kind})
        self._sequence += 1
        return event(data, kind.encode())

    def _place(self) -> dict[str, Any]:
        return {"content_index": 0, "item_id": self._item_id, "output_index": 0}

    def _item(self, text: str) -> dict[str, object]:
        return {
            "id": self._item_id,
            "content": [_text_part(text)],
            "role": "assistant",
            "status": "completed",
            "type": "message",
        }

    def _response(self, status: str, output: list[dict[str, object]], usage: Usage | None) -> dict[str, object]:
        return {
            "id": self.request_id,
            "created_at": self.created,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": None,
            "metadata": None,
            "model": self.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "background": False,
            "max_output_tokens": None,
            "previous_response_id": None,
            "service_tier": "auto",
            "status": status,
            "truncation": "disabled",
            "usage": None
            if usage is None
            else {
                "input_tokens": usage.prompt,
                "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens": usage.completion,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt + usage.completion,
            },
            "user": None,
        }


WIRES: dict[str, type[Wire]] = {
    "/v1/chat/completions": ChatWire,
    "/v1/completions": CompletionWire,
    "/v1/responses": ResponseWire,
    "/v1/messages": MessageWire,
}

_FINGERPRINT_TAIL = b',"system_fingerprint":"%b"}' % FINGERPRINT.encode()
_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
_STATUS = {"stop": "completed", "length": "incomplete"}


def _text_part(text: str) -> dict[str, object]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": []}


def _anthropic_usage(usage: Usage) -> dict[str, int]:
    return {
        "input_tokens": usage.prompt - usage.cached - usage.created,
        "output_tokens": usage.completion,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": usage.created,
    }
