"""Tokens of an answer by its length in bytes, for answers whose engine says nothing.

A streamed answer has an event of some hundred bytes for each token, a whole one the bare text. Both are learned from
answers whose engine reported its tokens.
"""

from __future__ import annotations

from pointsman.router.requests.end_line import Line

HEAD_BYTES = 700
"""Headers of an answer, and what its JSON has besides the text."""

STREAMED_BYTES = 220.0
"""Bytes of one event of a streamed chat in vLLM's and OpenAI's form."""

WHOLE_BYTES = 4.5
"""Bytes of one token of English text."""

WEIGHT = 0.05
"""Weight of one answer in the moving average: the last twenty count."""

MIN_TOKENS = 8
"""A shorter answer is mostly head, and teaches nothing."""

RANGE = (1.0, 10_000.0)
"""Bytes of a token outside of which an answer was none of text."""

EVENT_STREAM = "1"


class AnswerBytes:
    """Moving averages of the bytes of one token."""

    def __init__(self) -> None:
        self.streamed = STREAMED_BYTES
        self.whole = WHOLE_BYTES

    def observe(self, line: Line, tokens: int) -> None:
        """Learn from an answer of known length that ended in order."""
        if tokens < MIN_TOKENS or line.bytes <= HEAD_BYTES or line.ts != "--":
            return
        measured = (line.bytes - HEAD_BYTES) / tokens
        if RANGE[0] <= measured <= RANGE[1]:
            if line.sse == EVENT_STREAM:
                self.streamed += WEIGHT * (measured - self.streamed)
            else:
                self.whole += WEIGHT * (measured - self.whole)

    def tokens(self, line: Line) -> int:
        """Estimate the tokens of an answer."""
        size = max(0, line.bytes - HEAD_BYTES)
        return round(size / (self.streamed if line.sse == EVENT_STREAM else self.whole))
