"""The configuration in effect in the admin API: every setting, and where its value comes from."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.effective import effective
from pointsman.contract.http_api import json_answer
from pointsman.router.decide.policy_control import PolicyControl
from pointsman.router.fronts.api.config_types import ConfigValue, ConfigView
from pointsman.router.settings import Settings

POLICY = "policy"
CHANGED_LIVE = "admin API"
"""Source of a policy that was put while a router ran, at this edge or at another, in this life or in the one before."""


class ConfigFront:
    """Handler of `/v1/config`."""

    def __init__(self, settings: Settings, sources: Mapping[str, str], policy: PolicyControl) -> None:
        """sources: where values of `settings` were given, by dotted key."""
        self._values = [
            ConfigValue(key=key, value=value, source=given) for key, value, given in effective(settings, sources)
        ]
        self._policy = policy

    async def get_config(self, request: Request) -> Response:
        return json_answer(ConfigView(values=[self._live(value) for value in self._values]))

    def _live(self, value: ConfigValue) -> ConfigValue:
        """A setting with the value that it has at this moment: the policy alone changes at run time."""
        if value.key != POLICY or self._policy.put_live is None:
            return value
        return ConfigValue(key=POLICY, value=self._policy.document, source=CHANGED_LIVE)
