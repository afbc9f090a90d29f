"""From a request's content to tokens and block hashes, and from a seed to an answer's words.

The rule, in place of a tokenizer: **four bytes of UTF-8 are a token**. Each part of a chat (role, content, end of
message) is padded to whole tokens, so a conversation only ever grows at its end, and the words an answer was made of
are the same tokens when the next turn sends them back. A prompt of token ids has one token for each id. An image, or
any other part that is not text, counts IMAGE_TOKENS, named by its content.

An answer is a walk through a table of four-byte words. Where it starts and how it strides are drawn from the replica's
seed and the prompt: the same question to the same seed gets the same answer, whatever runs beside it.
"""

from __future__ import annotations

import json
import random
from array import array
from typing import Any

import msgspec
import xxhash

TOKEN_BYTES = 4
IMAGE_TOKENS = 256
"""About what a 448 x 448 image costs a small vision model."""
END_OF_TURN = b"\0\0\0\x03"
"""One token: closes a message in a prompt, and is the end-of-sequence token of an answer."""

_TEXT = (
    b" the and for are but not you all any can had her was one our out day get has him his how man new now old see two"
    b" way who boy did its let put say she too use dad mom act add age ago air art ask bad bag bar bed big bit box bus"
    b" buy car cat cup cut dog dry eat"
)
WORDS = tuple(_TEXT[at : at + TOKEN_BYTES] for at in range(0, len(_TEXT), TOKEN_BYTES))
"""64 words of one token each, which stand in JSON as they are."""
WORD_MASK = len(WORDS) - 1
assert len(WORDS) == 64


class Prompt(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one prompt as bytes, TOKEN_BYTES each."""

    data: bytes

    @property
    def tokens(self) -> int:
        """Length in tokens."""
        return len(self.data) // TOKEN_BYTES

    @property
    def digest(self) -> int:
        """64 bits that name the whole prompt."""
        return xxhash.xxh3_64_intdigest(self.data)


class Answer(msgspec.Struct, frozen=True, gc=False):
    """Return the answer of the engine: `tokens` tokens, the last one the end-of-sequence token if it stops itself."""

    start: int
    stride: int
    tokens: int
    stops: bool

    def text(self, first: int, after: int) -> bytes:
        """The text of tokens `first` up to and without `after`; the end-of-sequence token has none."""
        end = min(after, self.tokens - 1) if self.stops else after
        return b"".join([WORDS[(self.start + index * self.stride) & WORD_MASK] for index in range(first, end)])

    def data(self) -> bytes:
        """All tokens, as the next turn's prompt holds them."""
        return self.text(0, self.tokens) + (END_OF_TURN if self.stops else b"")


def draw_answer(prompt: Prompt, index: int, seed: int, mean_tokens: int, limit: int, at_least: int) -> Answer:
    """The answer to `prompt` as choice `index`.

    It stops by itself after a length drawn from an exponential distribution around `mean_tokens` (0: never), not before
    `at_least` tokens; `limit` cuts it off.
    """
    dice = random.Random(xxhash.xxh3_64_intdigest(b"%d %d %d" % (seed, index, prompt.digest)))
    start, stride = dice.getrandbits(6), dice.getrandbits(5) * 2 + 1
    if mean_tokens:
        tokens = max(1, at_least, round(dice.expovariate(1 / mean_tokens)))
        if tokens <= limit:
            return Answer(start, stride, tokens, True)
    return Answer(start, stride, limit, False)


def block_hashes(data: bytes, block_size: int, scope: str = "") -> list[int]:
    """Chained hashes of the full blocks of a token sequence. `scope` (a cache salt) keeps equal prompts apart."""
    digest, size = xxhash.xxh3_64_intdigest, block_size * TOKEN_BYTES
    parent = digest(scope.encode()) if scope else 0
    hashes = []
    for offset in range(0, len(data) - size + 1, size):
        parent = digest(data[offset : offset + size], seed=parent)
        hashes.append(parent)
    return hashes


def text_prompt(text: str) -> Prompt:
    """A plain completion prompt."""
    return Prompt(_padded(_utf8(text)))


def token_prompt(ids: list[int]) -> Prompt:
    """A prompt of token ids, each below 2**32."""
    return Prompt(array("I", ids).tobytes())


def chat_prompt(messages: list[dict[str, Any]], tools: object = None) -> Prompt:
    """Messages as a chat template renders them, up to where the assistant begins to speak."""
    parts: list[bytes] = []
    if tools:
        parts += [_padded(b"\x01tools"), _padded(_json(tools)), END_OF_TURN]
    for message in messages:
        role = message.get("role")
        parts.append(_padded(b"\x01" + _utf8(role if isinstance(role, str) else "user")))
        content = message.get("content")
        for part in content if isinstance(content, list) else (content,):
            parts.append(_content(part))
        if calls := message.get("tool_calls"):
            parts.append(_padded(_json(calls)))
        parts.append(END_OF_TURN)
    parts.append(_padded(b"\x01assistant"))
    return Prompt(b"".join(parts))


def _content(part: object) -> bytes:
    if part is None:
        return b""
    if isinstance(part, str):
        return _padded(_utf8(part))
    if isinstance(part, dict):
        for key in ("text", "content", "thinking"):
            if isinstance(part.get(key), str):
                return _padded(_utf8(part[key]))
    # Sixteen bytes of digest, repeated: equal images are equal tokens.
    return xxhash.xxh3_128_digest(_json(part)) * (IMAGE_TOKENS * TOKEN_BYTES // 16)


def _utf8(text: str) -> bytes:
    # JSON may spell a lone surrogate, which UTF-8 cannot.
    return text.encode("utf-8", "replace")


def _json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % TOKEN_BYTES)
