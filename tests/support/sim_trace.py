"""Builders for traces: small sessions with blocks of 4 tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from pointsman.simulator.trace import Session, Trace, Turn

_NAMES = count(1)


def make_turn(prompt: int = 16, output: int = 4, *, pause_s: float = 0.0, blocks: Sequence[int] | None = None) -> Turn:
    """A prompt of its own blocks unless some are given."""
    own = [next(_NAMES) for _ in range((prompt + output) // 4)] if blocks is None else blocks
    return Turn(prompt, output, pause_s, own)


def make_session(id: str = "s", start_s: float = 0.0, *turns: Turn) -> Session:
    """A session of the given turns, or of one."""
    return Session(id, start_s, turns or (make_turn(),))


def make_conversation(id: str, start_s: float, prompts: Sequence[int], *, output: int = 4, pause_s: float = 1.0):
    """Turns that go on with each other: one list of blocks, prompts of the given lengths."""
    blocks = [next(_NAMES) for _ in range((prompts[-1] + output) // 4)]
    return Session(
        id, start_s, tuple(Turn(prompt, output, pause_s if i else 0.0, blocks) for i, prompt in enumerate(prompts))
    )


def make_trace(*sessions: Session, **given: object) -> Trace:
    """A trace of blocks of 4 tokens."""
    return Trace("made", 4, sessions or (make_session(),), **given)  # type: ignore[arg-type]
