"""Settings of usage; part of `pointsman.router.settings`."""

from __future__ import annotations

from typing import Annotated

import msgspec


class UsageSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Usage by tenant, API key and model; see [how to meter usage](how-to-meter-usage.md)."""

    file: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    """SQLite file that keeps usage across restarts. Empty: it is kept in Redis where `shared.url` is set, else in
    memory, for 31 days at most."""
    retention_days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] = 400
    """Days for which the file and Redis keep usage: by default the present month and that of a year before."""
