"""Bounds of numbers and texts that come from outside, and the types that carry them."""

from __future__ import annotations

from typing import Annotated

import msgspec

MIN_LEASE_S = 1.0

MAX_LEASE_S = 86_400.0

MAX_COUNT = 2**53
"""Counts and milliseconds since 1970: as far as JSON numbers and floats count exactly. Integers of JSON have no bound
of their own, and one beyond 64 bits could neither be kept in a column nor written to the state file."""

Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]

MAX_TOKENS = 2**40
"""Tokens in one number: far beyond any engine, and the sum over 4,096 replicas is still exact in a float."""

MAX_MS = 7 * 86_400_000
"""A week: no request lasts longer. It keeps infinity out, which msgpack can carry."""

MAX_WORD = 128
"""Characters of a state or a revision."""

Word = Annotated[str, msgspec.Meta(max_length=MAX_WORD)]

Url = Annotated[str, msgspec.Meta(max_length=256)]

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
