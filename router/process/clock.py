"""The one place the router reads clocks; everything else takes `now_s`."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds from an arbitrary origin, never going back."""

monotonic: Clock = time.monotonic
perf_counter: Clock = time.perf_counter
wall: Clock = time.time
"""Seconds since 1970, for what people read: logs and saved documents. Never for intervals."""
