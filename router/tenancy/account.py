"""Limits that bind the requests of one tenant, key and model together, and what is left of them as headers say it.

What always holds: what an `Account` says is left is right to a hundredth of the burst of each limit.
"""

from __future__ import annotations

from pointsman.router.tenancy.allowance import Allowance, Bucket

NOTHING_LEFT = b""
"""Said where no limit a minute binds."""

GRAIN = 0.01
"""Part of its burst by which a limit may change before what is left of it is written anew. A request that finds a limit
of 100 a minute changed by a tenth of a request is told so, one that finds a limit of millions changed by ten is not."""


class Account:
    """The scopes of one tenant, key and model that have limits."""

    __slots__ = ("_said", "_share", "_shown", "scopes")

    def __init__(self, scopes: tuple[Allowance, ...]) -> None:
        self.scopes = scopes
        self._said = NOTHING_LEFT
        self._share = -1.0
        """Part of each limit that counted when that was said; nothing was at first."""
        self._shown: list[tuple[Bucket, float, float]] = []
        """Levels between which each limit is as it was said."""

    def __repr__(self) -> str:
        return f"Account({', '.join(scope.scope for scope in self.scopes)})"

    def left(self, share: float) -> bytes:
        """What is left.

        Of the limits a minute that are nearest: limit, rest and seconds until all of it is back, of requests and then
        of tokens, with slashes between: `60/5/1/6000/250/4`. The part of what is not limited is empty: `///...`; empty
        as a whole where neither is.

        share: part of each limit that counts at this edge.
        """
        if share == self._share:
            for bucket, least, most in self._shown:
                if not least <= bucket.level <= most:
                    break
            else:
                return self._said
        return self._say(share)

    def _say(self, share: float) -> bytes:
        requests = [scope.requests for scope in self.scopes if scope.requests is not None]
        tokens = [scope.tokens for scope in self.scopes if scope.tokens is not None]
        self._shown = [
            (bucket, bucket.level - GRAIN * bucket.capacity, bucket.level + GRAIN * bucket.capacity)
            for bucket in (*requests, *tokens)
        ]
        self._share = share
        self._said = b"%b/%b" % (_nearest(requests, share), _nearest(tokens, share)) if self._shown else NOTHING_LEFT
        return self._said


def _nearest(buckets: list[Bucket], share: float) -> bytes:
    """The limit, rest and seconds of the bucket that is nearest to its end."""
    return b"%d/%d/%d" % min(buckets, key=_level).left(share) if buckets else b"//"


def _level(bucket: Bucket) -> float:
    return bucket.level
