"""Request bodies of the four APIs, as far as the simulated engine acts on them.

`read_request` decodes a body into the fields of its API and gives an `Ask`. What vLLM would refuse is a RequestError
with vLLM's status; the words are msgspec's. Fields that change nothing here (sampling, penalties) are passed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pointsman.engine.sim.errors import RequestError
from pointsman.engine.sim.prompts import Prompt, chat_prompt, text_prompt, token_prompt

PROMPTS_MAX = 1024
"""Prompts in one completion request (vLLM: VLLM_MAX_COMPLETION_PROMPTS)."""
SEQUENCES_MAX = 16_384
"""Answers of one request, all prompts together (vLLM bounds `n` by this: VLLM_MAX_N_SEQUENCES)."""
TOKEN_ID_MAX = 2**32 - 1
COMPLETION_TOKENS = 16
"""Limit of a completion that names none: OpenAI's default, and vLLM's."""

Positive = Annotated[int, Meta(ge=1)]
TokenIds = Annotated[list[Annotated[int, Meta(ge=0, le=TOKEN_ID_MAX)]], Meta(min_length=1)]
Messages = list[dict[str, Any]]


class Ask(msgspec.Struct, kw_only=True, gc=False):
    """One request, understood."""

    model: str
    prompts: list[Prompt]
    choices: int = 1
    """Answers for each prompt."""
    max_tokens: int | None = None
    """Most tokens of the answer; None: up to the context length."""
    min_tokens: int = 0
    ignore_eos: bool = False
    stream: bool = False
    include_usage: bool = False
    cache_salt: str = ""
    kv_transfer_params: Any = None
    """As another replica set them; None where they are absent."""
    keeps_kv: bool = False
    """A prefill request: the KV is kept for another replica."""


class _Fields(msgspec.Struct, kw_only=True):
    """Fields of all four APIs."""

    model: str | None = None
    max_tokens: Positive | None = None
    min_tokens: int | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    tools: Any = None
    kv_transfer_params: Any = None

    def ask(self, prompts: list[Prompt], max_tokens: int | None) -> Ask:
        """The request for these prompts. Raises RequestError."""
        min_tokens = self.min_tokens or 0
        if max_tokens is not None and min_tokens > max_tokens:
            raise _refused(f"min_tokens must be at most max_tokens={max_tokens}, got {min_tokens}", "min_tokens")
        return Ask(
            model=self.model or "",
            prompts=prompts,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            ignore_eos=bool(self.ignore_eos),
            stream=bool(self.stream),
            kv_transfer_params=self.kv_transfer_params,
        )


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _OpenAIFields(_Fields, kw_only=True):
    """Further fields of chat and text completions."""

    n: Annotated[int, Meta(ge=1, le=SEQUENCES_MAX)] | None = None
    stream_options: _StreamOptions | None = None
    cache_salt: str | None = None

    def ask(self, prompts: list[Prompt], max_tokens: int | None) -> Ask:
        ask = super().ask(prompts, max_tokens)
        ask.choices = self.n or 1
        if ask.choices * len(prompts) > SEQUENCES_MAX:
            raise _refused(f"n must be at most {SEQUENCES_MAX} over all prompts", "n")
        if self.stream_options is not None:
            if not ask.stream:
                raise _refused("Stream options can only be defined when `stream=True`.", "stream_options")
            ask.include_usage = bool(self.stream_options.include_usage)
        ask.cache_salt = self.cache_salt or ""
        return ask


class _Chat(_OpenAIFields, kw_only=True):
    messages: Messages
    max_completion_tokens: Positive | None = None


class _Completion(_OpenAIFields, kw_only=True):
    prompt: str | list[Any]


class _Response(_Fields, kw_only=True):
    input: str | Messages
    instructions: str | None = None
    max_output_tokens: Positive | None = None


class _Message(_Fields, kw_only=True):
    messages: Messages
    system: str | list[Any] | None = None


def _read_chat(fields: _Chat) -> Ask:
    return fields.ask([chat_prompt(fields.messages, fields.tools)], fields.max_completion_tokens or fields.max_tokens)


def _read_completion(fields: _Completion) -> Ask:
    return fields.ask(_prompts(fields.prompt), fields.max_tokens or COMPLETION_TOKENS)


def _read_response(fields: _Response) -> Ask:
    messages: Messages = [{"role": "system", "content": fields.instructions}] if fields.instructions else []
    asked = fields.input
    messages += [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    return fields.ask([chat_prompt(messages, fields.tools)], fields.max_output_tokens)


def _read_message(fields: _Message) -> Ask:
    if fields.model is None or fields.max_tokens is None:
        raise _refused("model and max_tokens are required", "model" if fields.model is None else "max_tokens")
    system: Messages = [{"role": "system", "content": fields.system}] if fields.system else []
    return fields.ask([chat_prompt(system + fields.messages, fields.tools)], fields.max_tokens)


_READERS: dict[str, tuple[msgspec.json.Decoder[Any], Callable[[Any], Ask]]] = {
    "/v1/chat/completions": (msgspec.json.Decoder(_Chat), _read_chat),
    "/v1/completions": (msgspec.json.Decoder(_Completion), _read_completion),
    "/v1/responses": (msgspec.json.Decoder(_Response), _read_response),
    "/v1/messages": (msgspec.json.Decoder(_Message), _read_message),
}


def read_request(path: str, body: bytes, content_type: bytes) -> Ask:
    """The request to one of the four paths. Raises RequestError."""
    if content_type.partition(b";")[0].strip().lower() != b"application/json":
        raise _refused("Unsupported Media Type: Only 'application/json' is allowed", None)
    decoder, read = _READERS[path]
    try:
        return read(decoder.decode(body))
    # RecursionError is nesting deeper than the interpreter goes; UnicodeDecodeError is text that is no UTF-8.
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _refused(str(error), None) from None


def _prompts(prompt: str | list[Any]) -> list[Prompt]:
    """A text, a list of texts, token ids, or a list of lists of token ids. Raises RequestError, MsgspecError."""
    if not prompt:
        raise _refused("prompt must be provided and non-empty", "prompt")
    if isinstance(prompt, str):
        return [text_prompt(prompt)]
    if isinstance(prompt[0], int):
        return [token_prompt(msgspec.convert(prompt, TokenIds))]
    if len(prompt) > PROMPTS_MAX:
        raise _refused(f"prompt list length {len(prompt)} exceeds the maximum of {PROMPTS_MAX}", "prompt")
    if isinstance(prompt[0], str):
        return [text_prompt(text) for text in msgspec.convert(prompt, list[str])]
    return [token_prompt(ids) for ids in msgspec.convert(prompt, list[TokenIds])]


def _refused(message: str, param: str | None) -> RequestError:
    return RequestError(400, "BadRequestError", message, param)
