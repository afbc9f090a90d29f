"""The model of a request that does not show it, by what is known besides.

A body names its model behind a long prompt, or not at all. Then the only model there is decides, or what the session's
earlier requests asked for, or the replica the session is at home on; where several models are possible nothing is
guessed, because a replica of another model could only refuse the request.
"""

from __future__ import annotations

from pointsman.policies.request import Naming
from pointsman.router.decide.session_models import SessionModels
from pointsman.router.fleet.replica import ANY_MODEL, ANYTHING, OTHER_MODEL
from pointsman.router.fleet.replicas import ReplicaRegistry
from pointsman.router.fleet.sessions import SessionTable
from pointsman.router.kv.state import KVState


class ModelRecall:
    """Reads registry, pins and conversations; owns what sessions asked for."""

    def __init__(self, replicas: ReplicaRegistry, sessions: SessionTable, kv: KVState) -> None:
        self._replicas = replicas
        self._sessions = sessions
        self._kv = kv
        self._models = SessionModels()
        self._common: dict[Naming, str | None] = {}
        self._names: frozenset[str] | None = None
        """The names registered when `_common` was found; a change of the registry makes another set."""

    def asked(self, session: str, model: str) -> None:
        """A request of the session named this model or alias; neither is empty. Kept where several names can be asked
        for."""
        names = self._replicas.memberships.names()
        if len(names) > 1 or model not in names:
            self._models.asked(session, model)

    def model_of(
        self, session: str, naming: Naming, now_s: float, *, pin_ttl_s: float | None, by_kv: bool
    ) -> str | None:
        """The model of a request of `session` (empty: without one); "" where any replica will do, None where nothing
        tells it. `pin_ttl_s`: how long pins count, None where the policy makes none; `by_kv`: whether it keeps
        conversations."""
        if naming is Naming.UNSEEN and session and (asked := self._models.model_of(session)) is not None:
            return asked
        common = self._common_model(naming)
        if common is not None or not session:
            return common
        if self._models.is_known(session):
            return self._models.model_of(session)
        home = None if pin_ttl_s is None else self._sessions.get(session, now_s, pin_ttl_s)
        if home is None and by_kv:
            conversation = self._kv.conversations.find(session, (), -1)
            home = None if conversation is None else self._replicas.ids[conversation.slot]
        replica = self._replicas.get(home) if home else None
        return replica.model if replica is not None and replica.names else None

    def _common_model(self, naming: Naming) -> str | None:
        """The model of a request that shows none, if all replicas have the same: a name, ANY_MODEL where nobody has
        names, OTHER_MODEL where only replicas without names may take it. None where several are served.

        A request that names none (`ABSENT`) wants the model itself; one whose name was not seen may want an adapter
        too."""
        names = self._replicas.memberships.names()
        if names is not self._names:
            self._names = names
            self._common = {one: self._find_common_model(one) for one in (Naming.ABSENT, Naming.UNSEEN)}
        return self._common[naming]

    def _find_common_model(self, naming: Naming) -> str | None:
        named = [replica for replica in self._replicas if replica.names]
        if not named:
            return ANY_MODEL
        if any(replica.names == ANYTHING for replica in self._replicas):
            return OTHER_MODEL
        models = {replica.model for replica in named}
        if len(models) > 1 or (naming is Naming.UNSEEN and len({replica.names for replica in named}) > 1):
            return None
        return models.pop()
