"""The bytes of answers in OpenAI's completion APIs: the same JSON as vLLM 0.32, built from templates.

A `Wire` knows the form of answers, not their time. For streams it gives whole HTTP chunks; one server-sent event is one
chunk, as vLLM sends them. `pieces` lets a caller put one word between two constant halves, which is what almost every
chunk is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import msgspec

from pointsman.engine.sim.prompts import TOKEN_BYTES

FINGERPRINT = "vllm-0.32.0-sim"
_FINGERPRINT_TAIL = b',"system_fingerprint":"%b"}' % FINGERPRINT.encode()


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


class Wire(ABC):
    """The words of one API. `opening` comes with the first token, then `delta`s, one `last` a choice, `closing`."""

    id_prefix: ClassVar[str]

    def __init__(self, request_id: str, created: int, model: str, choices: int, include_usage: bool) -> None:
        self.request_id = self.id_prefix + request_id
        self.created = created
        self.model = model
        self.choices = choices
        self.include_usage = include_usage
        self.kv_transfer_params: dict[str, Any] | None = None
        """Of a prefill request's answer."""
        self.id_json = msgspec.json.encode(self.request_id)
        self.model_json = msgspec.json.encode(model)

    def pieces(self, index: int) -> tuple[bytes, bytes] | None:
        """The two halves of a chunk that brings one word of TOKEN_BYTES; None if they change from chunk to chunk."""
        marker = b"\xff" * TOKEN_BYTES
        head, _, tail = self.delta(index, marker).partition(marker)
        return head, tail

    @abstractmethod
    def opening(self, prompt_tokens: int) -> bytes:
        """Return the text before the first word; may be empty."""

    @abstractmethod
    def delta(self, index: int, text: bytes) -> bytes:
        """More text of a choice; `text` needs no JSON escapes."""

    @abstractmethod
    def last(self, index: int, text: bytes, reason: str) -> bytes:
        """The last text of a choice and why it ends."""

    @abstractmethod
    def closing(self, usage: Usage, finished: list[Finished]) -> bytes:
        """Return the text after the last choice."""

    @abstractmethod
    def whole(self, usage: Usage, finished: list[Finished]) -> bytes:
        """The answer as one JSON body."""


class ObjectWire(Wire):
    """Wire format of chat and text completions: one object with choices, whole or in chunks."""

    object_name: ClassVar[bytes]
    chunk_name: ClassVar[bytes]
    delta_form: ClassVar[bytes]
    """A choice of a chunk, up to the end of the choices: takes index and text."""
    last_form: ClassVar[bytes]
    """A choice of the last chunk that has it: takes index, text and reason."""
    counts_created: ClassVar[bool]
    """Usage says how many prompt tokens entered the cache."""

    def __init__(self, request_id: str, created: int, model: str, choices: int, include_usage: bool) -> None:
        super().__init__(request_id, created, model, choices, include_usage)
        self._stem = b'{"id":%b,"object":"%b","created":%d,"model":%b,"choices":[' % (
            self.id_json,
            self.chunk_name,
            created,
            self.model_json,
        )

    @abstractmethod
    def choice(self, finished: Finished) -> dict[str, Any]:
        """One choice of a whole answer, keys in vLLM's order."""

    def delta(self, index: int, text: bytes) -> bytes:
        return event(self._stem + self.delta_form % (index, text) + b"}")

    def last(self, index: int, text: bytes, reason: str) -> bytes:
        choice = self.last_form % (index, text, reason.encode())
        return event(self._stem + choice + (b"}" if self.include_usage else _FINGERPRINT_TAIL))

    def closing(self, usage: Usage, finished: list[Finished]) -> bytes:
        if not self.include_usage:
            return DONE
        created = b',"created_cache_tokens":%d' % usage.created if self.counts_created else b""
        counts = (
            b'],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"prompt_tokens_details":'
            b'{"cached_tokens":%d%b}}'
            % (usage.prompt, usage.prompt + usage.completion, usage.completion, usage.cached, created)
        )
        return event(self._stem + counts + _FINGERPRINT_TAIL) + DONE

    def whole(self, usage: Usage, finished: list[Finished]) -> bytes:
        return msgspec.json.encode(
            {
                "id": self.request_id,
                "object": self.object_name.decode(),
                "created": self.created,
                "model": self.model,
                "choices": [self.choice(one) for one in finished],
                "service_tier": None,
                "system_fingerprint": FINGERPRINT,
                "usage": {
                    "prompt_tokens": usage.prompt,
                    "total_tokens": usage.prompt + usage.completion,
                    "completion_tokens": usage.completion,
                    "prompt_tokens_details": {
                        "cached_tokens": usage.cached,
                        "created_cache_tokens": usage.created if self.counts_created else None,
                        "multimodal_tokens": None,
                    },
                    "completion_tokens_details": None,
                },
                **self.tail(),
                "ec_transfer_params": None,
                "metrics": None,
            }
        )

    @abstractmethod
    def tail(self) -> dict[str, Any]:
        """Fields of a whole answer after its usage."""


class ChatWire(ObjectWire):
    """`/v1/chat/completions`."""

    id_prefix = "chatcmpl-"
    object_name = b"chat.completion"
    chunk_name = b"chat.completion.chunk"
    delta_form = b'{"index":%d,"delta":{"content":"%b"},"logprobs":null,"finish_reason":null,"token_ids":null}]'
    last_form = (
        b'{"index":%d,"delta":{"content":"%b"},"logprobs":null,"finish_reason":"%b","stop_reason":null,'
        b'"token_ids":null}]'
    )
    counts_created = True

    def opening(self, prompt_tokens: int) -> bytes:
        role = (
            b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
            b',"prompt_token_ids":null,"prompt_text":null}'
        )
        return b"".join([event(self._stem + role % index) for index in range(self.choices)])

    def choice(self, finished: Finished) -> dict[str, Any]:
        return {
            "index": finished.index,
            "message": {
                "role": "assistant",
                "content": finished.text.decode(),
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "reasoning": None,
            },
            "logprobs": None,
            "finish_reason": finished.reason,
            "stop_reason": None,
            "token_ids": None,
            "routed_experts": None,
        }

    def tail(self) -> dict[str, Any]:
        return {"prompt_logprobs": None, "prompt_token_ids": None, "prompt_text": None, "kv_transfer_params": None}


class CompletionWire(ObjectWire):
    """`/v1/completions`."""

    id_prefix = "cmpl-"
    object_name = chunk_name = b"text_completion"
    delta_form = (
        b'{"index":%d,"text":"%b","logprobs":null,"finish_reason":null,"stop_reason":null,'
        b'"prompt_token_ids":null,"token_ids":null}]'
    )
    last_form = (
        b'{"index":%d,"text":"%b","logprobs":null,"finish_reason":"%b","stop_reason":null,'
        b'"prompt_token_ids":null,"token_ids":null}]'
    )
    counts_created = False

    def opening(self, prompt_tokens: int) -> bytes:
        return b""

    def choice(self, finished: Finished) -> dict[str, Any]:
        return {
            "index": finished.index,
            "text": finished.text.decode(),
            "logprobs": None,
            "finish_reason": finished.reason,
            "stop_reason": None,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }

    def tail(self) -> dict[str, Any]:
        return {"kv_transfer_params": self.kv_transfer_params}
