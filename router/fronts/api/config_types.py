"""The configuration in effect, as the admin API shows it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec


class ConfigValue(msgspec.Struct, frozen=True, kw_only=True):
    """One setting."""

    key: Annotated[str, msgspec.Meta(description="Dotted path of the setting, as `admin.port`.")]
    value: Annotated[Any, msgspec.Meta(description="Value in effect; `***` in place of a secret.")]
    source: Annotated[
        str,
        msgspec.Meta(
            description="Place where the value was given: a file, an environment variable, `command line`, `pointsman "
            "up`, `admin API`; `default` where nobody gave one."
        ),
    ]


class ConfigView(msgspec.Struct, frozen=True, kw_only=True):
    values: Annotated[list[ConfigValue], msgspec.Meta(description="Settings of the router, in the order of its file.")]
