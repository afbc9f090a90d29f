"""Followers: each has its own queue, and whoever is slow loses the oldest."""

from __future__ import annotations

from pointsman.router.journal.followers import Follower, Followers


def test_every_follower_gets_what_it_wants() -> None:
    """In order, from the moment it joined to the moment it left."""
    followers: Followers[int] = Followers()
    followers.offer(0)
    every: Follower[int] = Follower()
    even: Follower[int] = Follower(lambda number: number % 2 == 0)
    followers.join(every)
    followers.join(even)
    for number in range(1, 5):
        followers.offer(number)
    followers.leave(even)
    followers.leave(even)
    followers.offer(6)
    assert every.take() == (0, [1, 2, 3, 4, 6])
    assert even.take() == (0, [2, 4])
    assert every.take() == (0, [])
    assert len(followers) == 1


def test_a_slow_follower_loses_the_oldest_and_is_told() -> None:
    """Others lose nothing; the number is that since the last look."""
    followers: Followers[int] = Followers()
    slow: Follower[int] = Follower(queue_max=3)
    quick: Follower[int] = Follower(queue_max=3)
    followers.join(slow)
    followers.join(quick)
    for number in range(5):
        followers.offer(number)
        quick.take()
    assert len(slow) == 3
    assert slow.take() == (2, [2, 3, 4])
    assert quick.take() == (0, [])
    followers.offer(5)
    assert slow.take() == (0, [5])


def test_a_follower_is_woken_by_what_it_wants() -> None:
    """Once for each item; what it does not want leaves it asleep."""
    woken = []
    follower: Follower[int] = Follower(lambda number: number > 1)
    follower.wake = lambda: woken.append(len(follower))
    follower.offer(1)
    follower.offer(2)
    follower.offer(3)
    assert woken == [1, 2]
