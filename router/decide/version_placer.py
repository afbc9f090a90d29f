"""Requests for aliases as they are placed: the version that a session began with, and what changing it costs.

`VersionPlacer` has the table of aliases remember the version, and counts the prompt tokens that are computed again
because of a rollout: those that the fleet holds for another version of the alias, and not for the one that serves. They
arise where a session changes its version, and where one begins with a version that has not seen its prompt's head.
"""

from __future__ import annotations

from msgspec.structs import replace

from pointsman.contract.prefix_keys import scope_of, scoped
from pointsman.policies.candidates import NO_SLOT, names
from pointsman.policies.request import RequestFeatures
from pointsman.router.decide.fleet_state import FleetState
from pointsman.router.kv.parts import Prompt


class VersionPlacer:
    """Writer of what a placed request means for its alias."""

    def __init__(self, fleet: FleetState) -> None:
        self._aliases = fleet.aliases
        self._replicas = fleet.replicas
        self._kv = fleet.kv
        fleet.aliases.has_replicas = self._has_replicas

    def _has_replicas(self, model: str, alias: str) -> bool:
        return len(self._replicas.memberships.of_alias(model, alias).slots) > 0

    def placed(self, features: RequestFeatures, prompt: Prompt | None, slot: int, longest: int, now_s: float) -> None:
        """Note that a request for an alias goes to a slot; called before its KV is expected there.

        prompt: as the fleet's KV sees it; None for policies that do not look at prompts, where no tokens are counted.
        longest: tokens of the longest prompt that counts in full.
        """
        name, session, aliases = features.alias, features.session, self._aliases
        before = aliases.placed(name, session, features.model, now_s) if session else ""
        alias = aliases.get(name)
        if prompt is None or alias is None or len(alias.versions) < 2 or before == features.model:
            return
        elsewhere = max(self._of_conversation(features, prompt), self._of_prefix(features, longest, now_s))
        lost = min(elsewhere, prompt.tokens) - prompt.resident.tokens(slot)
        if lost > 0:
            aliases.recomputed[name] += lost

    def _of_conversation(self, features: RequestFeatures, prompt: Prompt) -> int:
        """Tokens that the request's conversation has on a replica of another version."""
        known = prompt.conversation
        if known is None or known.slot == NO_SLOT:
            return 0
        home = self._replicas.get(self._replicas.ids[known.slot])
        return known.counted_tokens if home is not None and home.model != features.model else 0

    def _of_prefix(self, features: RequestFeatures, longest: int, now_s: float) -> int:
        """Tokens of the prompt that a replica of another version holds, the most of any."""
        alias = self._aliases.get(features.alias)
        if alias is None or not features.prefix_keys:
            return 0
        number, _, whose = features.scope.partition(" ")
        here, most = int(number or "0", 16), 0
        for version in alias.versions:
            if version.model != features.model:
                there = scope_of(version.model, features.salt, whose)
                keys = tuple(scoped(features.prefix_keys, here ^ there))
                asked = replace(features, model=version.model, session="", prefix_keys=keys)
                slots = self._replicas.memberships.of(version.model).slots
                for tokens, holders in self._kv.read(asked, now_s, longest).resident.levels:
                    if tokens > most and any(names(slots, holder) for holder in holders):
                        most = tokens
        return most
