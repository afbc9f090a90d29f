"""Request bodies of the four APIs, read the way vLLM 0.32 reads them: what it takes, what it refuses, in which words.

`read_json` is FastAPI's parsing, `Fields` the part of pydantic's lax validation that these APIs meet, `chat`,
`completion`, `response` and `message` the requests. Everything a client can send ends in an `Ask` or a `RequestError`.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from pointsman.engine.sim.errors import RequestError
from pointsman.engine.sim.prompts import Prompt, chat_prompt, text_prompt, token_prompt

PROMPTS_MAX = 1024
"""Prompts in one completion request (vLLM: VLLM_MAX_COMPLETION_PROMPTS)."""
SEQUENCES_MAX = 16_384
"""Answers of one request, all prompts together (vLLM bounds `n` by this: VLLM_MAX_N_SEQUENCES)."""
TOKEN_ID_MAX = 2**32 - 1
INPUT_CHARS_MAX = 200
"""How much of an offending value an error repeats."""


class Ask(msgspec.Struct, kw_only=True, gc=False):
    """One request, understood."""

    model: str
    prompts: list[Prompt]
    choices: int = 1
    """Answers for each prompt."""
    max_tokens: int | None = None
    """None: up to the context length."""
    min_tokens: int = 0
    ignore_eos: bool = False
    stream: bool = False
    include_usage: bool = False
    cache_salt: str = ""
    keeps_kv: bool = False
    """A prefill leg: the KV is kept for another replica."""


def read_json(body: bytes, content_type: bytes) -> dict[str, Any]:
    """The body as an object.

    msgspec reads it; where it will not, the standard library has the last word, since FastAPI uses that: it takes NaN
    and UTF-16, and its messages are part of vLLM's answers.
    """
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise _invalid("Unsupported Media Type: Only 'application/json' is allowed", None)
    if not body:
        raise _validation("missing", "", "Field required", None)
    try:
        value: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        try:
            value = json.loads(body)
        except json.JSONDecodeError as error:
            detail = {
                "type": "json_invalid",
                "loc": f"body.{error.pos}",
                "msg": "JSON decode error",
                "input": "<dict of 0 items>",
                "ctx": {"error": error.msg},
            }
            raise _invalid(str(detail), f"body.{error.pos}") from None
        except (RecursionError, ValueError):
            raise RequestError(400, "Bad Request", "There was an error parsing the body") from None
    if not isinstance(value, dict):
        raise _validation("model_attributes_type", "", "Input should be a valid dictionary or object", value)
    return value


class Fields:
    """Typed access to a request object."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def required(self, name: str) -> object:
        """A value that must be there; null counts as there."""
        if name not in self.values:
            raise _validation("missing", name, "Field required", self.values)
        value: object = self.values[name]
        return value

    def text(self, name: str) -> str | None:
        """A string."""
        value = self.values.get(name)
        if value is None or isinstance(value, str):
            return value
        raise _validation("string_type", name, "Input should be a valid string", value)

    def flag(self, name: str) -> bool:
        """A boolean, or what pydantic takes for one."""
        value = self.values.get(name)
        if value is None or isinstance(value, bool):
            return bool(value)
        if isinstance(value, int | float) and value in (0, 1):
            return bool(value)
        if isinstance(value, str):
            if value.lower() in ("true", "t", "yes", "y", "on", "1"):
                return True
            if value.lower() in ("false", "f", "no", "n", "off", "0"):
                return False
            raise _validation("bool_parsing", name, "Input should be a valid boolean, unable to interpret input", value)
        raise _validation("bool_type", name, "Input should be a valid boolean", value)

    def integer(self, name: str) -> int | None:
        """An integer, or what pydantic takes for one."""
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            if math.isfinite(value) and value == int(value):
                return int(value)
            raise _validation(
                "int_from_float", name, "Input should be a valid integer, got a number with a fractional part", value
            )
        if isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                raise _validation(
                    "int_parsing", name, "Input should be a valid integer, unable to parse string as an integer", value
                ) from None
        raise _validation("int_type", name, "Input should be a valid integer", value)

    def object(self, name: str) -> Fields:
        """A nested object; empty when absent."""
        value = self.values.get(name)
        if value is None:
            return Fields({})
        if not isinstance(value, dict):
            raise _validation("model_attributes_type", name, "Input should be a valid dictionary or object", value)
        return Fields(value)

    def messages(self, name: str) -> list[dict[str, Any]]:
        """A list of chat messages."""
        value = self.required(name)
        if not isinstance(value, list):
            raise _validation("list_type", name, "Input should be a valid list", value)
        for index, message in enumerate(value):
            if not isinstance(message, dict):
                raise _validation("dict_type", f"{name}.{index}", "Input should be a valid dictionary", message)
            content = message.get("content")
            if content is not None and not isinstance(content, str | list):
                raise _validation("string_type", f"{name}.{index}.content", "Input should be a valid string", content)
        return value


def chat(values: dict[str, Any]) -> Ask:
    """`POST /v1/chat/completions`."""
    fields = Fields(values)
    messages = fields.messages("messages")
    limit = fields.integer("max_completion_tokens")
    if limit is None:
        limit = fields.integer("max_tokens")
    return _openai(fields, _ask(fields, [chat_prompt(messages, values.get("tools"))], limit))


def completion(values: dict[str, Any]) -> Ask:
    """`POST /v1/completions`: a text, a list of texts, token ids, or a list of lists of token ids."""
    fields = Fields(values)
    prompt = values.get("prompt")
    if prompt is None or prompt == "":
        raise _refused("Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)", "prompt")
    limit = fields.integer("max_tokens")
    return _openai(fields, _ask(fields, _prompts(prompt), 16 if limit is None else limit))


def response(values: dict[str, Any]) -> Ask:
    """`POST /v1/responses`, with the input in the request (none is stored here)."""
    fields = Fields(values)
    asked = fields.required("input")
    messages: list[dict[str, Any]] = []
    if instructions := fields.text("instructions"):
        messages.append({"role": "system", "content": instructions})
    if isinstance(asked, str):
        messages.append({"role": "user", "content": asked})
    else:
        messages += fields.messages("input")
    limit = fields.integer("max_output_tokens")
    return _ask(fields, [chat_prompt(messages, values.get("tools"))], limit)


def message(values: dict[str, Any]) -> Ask:
    """`POST /v1/messages`, Anthropic's API."""
    fields = Fields(values)
    messages = fields.messages("messages")
    fields.required("model")
    if fields.integer("max_tokens") is None:
        raise _validation("missing", "max_tokens", "Field required", values)
    system = values.get("system")
    if system is not None and not isinstance(system, str | list):
        raise _validation("string_type", "system", "Input should be a valid string", system)
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    return _ask(fields, [chat_prompt(messages, values.get("tools"))], fields.integer("max_tokens"))


def _ask(fields: Fields, prompts: list[Prompt], max_tokens: int | None) -> Ask:
    """The fields all four share."""
    if max_tokens is not None and max_tokens < 1:
        raise _refused(
            f"max_tokens must be at least 1, got {max_tokens}. (parameter=max_tokens, value={max_tokens})", "max_tokens"
        )
    stop = fields.values.get("stop")
    if stop is not None and not isinstance(stop, str | list):
        raise _validation("string_type", "stop", "Input should be a valid string", stop)
    min_tokens = fields.integer("min_tokens") or 0
    if max_tokens is not None and min_tokens > max_tokens:
        raise _refused(
            f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}. "
            f"(parameter=min_tokens, value={min_tokens})",
            "min_tokens",
        )
    return Ask(
        model=fields.text("model") or "",
        prompts=prompts,
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        ignore_eos=fields.flag("ignore_eos"),
        stream=fields.flag("stream"),
    )


def _openai(fields: Fields, ask: Ask) -> Ask:
    """What the two completion APIs have besides."""
    choices = fields.integer("n")
    ask.choices = 1 if choices is None else choices
    if ask.choices < 1:
        raise _refused(f"n must be at least 1, got {choices}. (parameter=n, value={choices})", "n")
    if ask.choices * len(ask.prompts) > SEQUENCES_MAX:
        text = f"n must be at most {SEQUENCES_MAX}, got {choices}. To increase this limit, set the "
        raise _refused(text + "VLLM_MAX_N_SEQUENCES environment variable.", None)
    options = fields.object("stream_options")
    if options.values and not ask.stream:
        text = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
        raise _refused(text, "stream_options")
    ask.include_usage = options.flag("include_usage")
    ask.cache_salt = fields.text("cache_salt") or ""
    return ask


def _prompts(prompt: object) -> list[Prompt]:
    if isinstance(prompt, str):
        return [text_prompt(prompt)]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(item, str) for item in prompt):
            return [text_prompt(item) for item in _bounded(prompt)]
        if _are_ids(prompt):
            return [token_prompt(prompt)]
        if all(isinstance(item, list) and item and _are_ids(item) for item in prompt):
            return [token_prompt(item) for item in _bounded(prompt)]
    raise _validation("string_type", "prompt", "Input should be a valid string", prompt)


def _are_ids(items: list[object]) -> bool:
    if not all(type(item) is int for item in items):
        return False
    for item in items:
        assert isinstance(item, int)
        if item < 0:
            raise _validation("greater_than_equal", "prompt", "Input should be greater than or equal to 0", item)
        if item > TOKEN_ID_MAX:
            raise _refused(f"Token id {item} is out of vocabulary", None)
    return True


def _bounded(prompts: list[Any]) -> list[Any]:
    if len(prompts) > PROMPTS_MAX:
        raise _refused(
            f"prompt list length {len(prompts)} exceeds the maximum allowed count of {PROMPTS_MAX}. To increase this "
            "limit, set the VLLM_MAX_COMPLETION_PROMPTS environment variable. (parameter=prompt)",
            "prompt",
        )
    return prompts


def _refused(message: str, param: str | None) -> RequestError:
    """vLLM's own checks (`VLLMValidationError`)."""
    return RequestError(400, "BadRequestError", message, param)


def _validation(kind: str, name: str, message: str, value: object) -> RequestError:
    """One pydantic error as `handlers/validation.py` words it."""
    location = f"body.{name}" if name else "body"
    return _invalid(str({"type": kind, "loc": location, "msg": message, "input": _summary(value)}), location)


def _invalid(text: str, location: str | None) -> RequestError:
    return RequestError(400, "Bad Request", f"1 validation error:\n  {text}", location)


def _summary(value: object) -> str:
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    try:
        text = str(value)
    except ValueError:  # an integer of more digits than Python will print
        return f"<{type(value).__name__}>"
    return text if len(text) <= INPUT_CHARS_MAX else text[:INPUT_CHARS_MAX] + "...[truncated]"
