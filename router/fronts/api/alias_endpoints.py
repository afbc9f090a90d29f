"""The rows of the admin API that are about aliases; part of `pointsman.router.fronts.api.table`."""

from __future__ import annotations

from pointsman.router.fronts.api.alias_types import (
    AliasList,
    AliasOrder,
    AliasView,
    PromoteOrder,
    RollBackOrder,
    StepOrder,
)
from pointsman.router.fronts.api.aliases import AliasFront
from pointsman.router.fronts.api.endpoint import Answer, Endpoint, Parameter
from pointsman.router.fronts.api.etag import IF_MATCH, STALE
from pointsman.router.fronts.api.paging import PAGE
from pointsman.router.tenancy.aliases import ALIAS_PATTERN

NAME = Parameter(name="name", where="path", schema={"type": "string", "pattern": ALIAS_PATTERN})
WHY = Parameter(
    name="why", where="query", schema={"type": "string", "maxLength": 500}, description="Reason of the change."
)
NO_ALIAS = {404: "There is no such alias."}
FULL = {507: "There are too many aliases."}
AFTERWARDS = Answer("The alias from here on.", AliasView, headers={"ETag": "Version of the alias, for `If-Match`."})

ALIAS_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET", "/v1/aliases", AliasFront.list_aliases, "List aliases with their versions",
        parameters=PAGE, answers={200: Answer("The aliases, by name.", AliasList)},
    ),
    Endpoint(
        "GET", "/v1/aliases/{name}", AliasFront.get_alias, "Get one alias: its versions, and how each of them fares",
        parameters=(NAME,), answers={200: AFTERWARDS}, errors=NO_ALIAS,
    ),
    Endpoint(
        "PUT", "/v1/aliases/{name}", AliasFront.put_alias, "Make or change an alias: models by weight",
        parameters=(NAME, IF_MATCH, WHY), body=AliasOrder, answers={200: AFTERWARDS, 201: AFTERWARDS},
        errors={**STALE, **FULL},
    ),
    Endpoint(
        "DELETE", "/v1/aliases/{name}", AliasFront.delete_alias, "Remove an alias",
        parameters=(NAME, IF_MATCH, WHY), answers={204: Answer("Removed.")}, errors={**NO_ALIAS, **STALE},
    ),
    Endpoint(
        "POST", "/v1/aliases/{name}/promote", AliasFront.promote_alias,
        "Make a version the stable one, with which all new sessions begin",
        parameters=(NAME, IF_MATCH), body=PromoteOrder, answers={200: AFTERWARDS}, errors={**NO_ALIAS, **STALE},
    ),
    Endpoint(
        "POST", "/v1/aliases/{name}/pause", AliasFront.pause_alias,
        "Have all new sessions begin with the stable version; those under way keep theirs",
        parameters=(NAME, IF_MATCH), body=StepOrder, answers={200: AFTERWARDS}, errors={**NO_ALIAS, **STALE},
    ),
    Endpoint(
        "POST", "/v1/aliases/{name}/resume", AliasFront.resume_alias, "Have new sessions go by the weights again",
        parameters=(NAME, IF_MATCH), body=StepOrder, answers={200: AFTERWARDS}, errors={**NO_ALIAS, **STALE},
    ),
    Endpoint(
        "POST", "/v1/aliases/{name}/rollback", AliasFront.roll_back_alias,
        "Withdraw versions: their sessions, too, are served by the stable one",
        parameters=(NAME, IF_MATCH), body=RollBackOrder, answers={200: AFTERWARDS}, errors={**NO_ALIAS, **STALE},
    ),
)  # fmt: skip
