"""Builders for traces: small sessions with blocks of 4 tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain, count

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


def arrivals(
    tenant: str, per_s: float, *, seed: int, length_s: float, prompt: int = 400, output: int = 100, priority: str = ""
) -> list[Session]:
    """Requests of one tenant, each a session of its own, at random times.

    prompt, output: tokens in the mean. priority: class that the requests name.
    """
    dice, sessions, at_s = random.Random(f"{seed} {tenant}"), list[Session](), 0.0
    while (at_s := at_s + dice.expovariate(per_s)) < length_s:
        turn = make_turn(dice.randrange(prompt // 2, prompt * 3 // 2), dice.randrange(output // 2, output * 3 // 2))
        sessions.append(Session(f"{tenant}-{priority}-{len(sessions)}", at_s, (turn,), tenant, priority))
    return sessions


def make_merged(*parts: Sequence[Session]) -> Trace:
    """A trace of the sessions of several lists, in the order in which they begin."""
    return make_trace(*sorted(chain(*parts), key=lambda session: session.start_s))
