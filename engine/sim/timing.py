"""Durations of engine steps.

A step computes some prompt tokens (prefill) and one token for each decoding sequence. Its duration is a polynomial in
the prompt tokens of the step, plus one in the share of KV blocks in use when anything decodes: attention reads every
block of the batch. Both parts add, as when one batch holds both.
"""

from __future__ import annotations

import msgspec


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Coefficients of a step's duration; all seconds, per prompt token or per unit of KV usage (0 to 1)."""

    prefill_base_s: float = 0.0
    prefill_per_token_s: float = 0.0
    prefill_per_token_squared_s: float = 0.0
    decode_base_s: float = 0.0
    decode_per_usage_s: float = 0.0
    decode_per_usage_squared_s: float = 0.0

    def prefill_s(self, tokens: int) -> float:
        """Duration of the prefill part of a step that computes `tokens` prompt tokens; 0 for none."""
        if tokens <= 0:
            return 0.0
        per_token_s = self.prefill_per_token_s + self.prefill_per_token_squared_s * tokens
        return self.prefill_base_s + per_token_s * tokens

    def decode_s(self, usage: float) -> float:
        """Duration of the decode part of a step while the share `usage` of all KV blocks is held."""
        return self.decode_base_s + (self.decode_per_usage_s + self.decode_per_usage_squared_s * usage) * usage


DENSE_H100 = Timing(
    prefill_base_s=16.50142e-3,
    prefill_per_token_s=1.518344e-5,
    prefill_per_token_squared_s=4.209989e-10,
    decode_base_s=5.74e-3,
    decode_per_usage_s=54.01e-3,
    decode_per_usage_squared_s=-25.74e-3,
)
"""The polynomial NVIDIA Dynamo 1.6 ships with its mocker: roughly a large dense model on one H100.

8,192 prompt tokens in one step take 169 ms, one decode step 5.7 ms on an idle cache and 34 ms on a full one.
"""

FAST = Timing()
"""Steps cost nothing: tokens come as fast as the process can send them. For tests and for benches of what is around."""

TIMINGS: dict[str, Timing] = {"dense-h100": DENSE_H100, "fast": FAST}


def paced(token_interval_s: float) -> Timing:
    """A fixed pace: prefill costs nothing, each decode step lasts `token_interval_s` whatever runs beside it."""
    return Timing(decode_base_s=token_interval_s)
