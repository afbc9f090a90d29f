"""Pauses between tries."""

from __future__ import annotations

from pointsman.contract.backoff import Backoff


async def test_pauses_double_up_to_the_longest() -> None:
    """What worked in between makes the next pause the first again."""
    backoff = Backoff(0.001, 0.003)
    pauses = []
    for _ in range(4):
        pauses.append(backoff.next_s)
        await backoff.pause()
    assert pauses == [0.001, 0.002, 0.003, 0.003]
    backoff.reset()
    assert backoff.next_s == 0.001


def test_a_pause_may_be_taken_without_waiting() -> None:
    """For callers that wait by other means, or say how long they will."""
    backoff = Backoff(1.0, 3.0)
    assert [backoff.take() for _ in range(4)] == [1.0, 2.0, 3.0, 3.0]
