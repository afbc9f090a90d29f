"""The bytes of answers in the two APIs whose stream events have names: Anthropic's messages, OpenAI's responses."""

from __future__ import annotations

import msgspec

from pointsman.engine.sim.wire import Finished, Usage, Wire, event

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens"}
_STATUS = {"stop": "completed", "length": "incomplete"}


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
    """`/v1/responses`: numbered events for the beginning, each piece of text and the end."""

    id_prefix = "resp_"

    def __init__(self, request_id: str, created: int, model: str, choices: int, include_usage: bool) -> None:
        super().__init__(request_id, created, model, choices, include_usage)
        self._sequence = 0
        self._item_id = "msg_" + request_id

    def pieces(self, index: int) -> None:
        return None

    def opening(self, prompt_tokens: int) -> bytes:
        return self._event("response.created", response=self._response("in_progress", [], None))

    def delta(self, index: int, text: bytes) -> bytes:
        place = {"content_index": 0, "item_id": self._item_id, "output_index": 0}
        return self._event("response.output_text.delta", **place, delta=text.decode(), logprobs=[])

    def last(self, index: int, text: bytes, reason: str) -> bytes:
        return self.delta(index, text) if text else b""

    def closing(self, usage: Usage, finished: list[Finished]) -> bytes:
        done = "response.completed" if finished[0].reason == "stop" else "response.incomplete"
        return self._event(done, response=self._finished(usage, finished[0]))

    def whole(self, usage: Usage, finished: list[Finished]) -> bytes:
        return msgspec.json.encode(self._finished(usage, finished[0]))

    def _event(self, kind: str, **fields: object) -> bytes:
        data = msgspec.json.encode({**fields, "sequence_number": self._sequence, "type": kind})
        self._sequence += 1
        return event(data, kind.encode())

    def _finished(self, usage: Usage, finished: Finished) -> dict[str, object]:
        content = [{"annotations": [], "text": finished.text.decode(), "type": "output_text", "logprobs": []}]
        item: dict[str, object] = {
            "id": self._item_id,
            "content": content,
            "role": "assistant",
            "status": "completed",
            "type": "message",
        }
        return self._response(_STATUS[finished.reason], [item], usage)

    def _response(self, status: str, output: list[dict[str, object]], usage: Usage | None) -> dict[str, object]:
        counts = usage and {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt + usage.completion,
        }
        return {
            "id": self.request_id,
            "object": "response",
            "created_at": self.created,
            "model": self.model,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "usage": counts,
        }


def _anthropic_usage(usage: Usage) -> dict[str, int]:
    return {
        "input_tokens": usage.prompt - usage.cached - usage.created,
        "output_tokens": usage.completion,
        "cache_read_input_tokens": usage.cached,
        "cache_creation_input_tokens": usage.created,
    }
