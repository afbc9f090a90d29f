"""Description of one operation of the admin API: the row type of `pointsman.router.fronts.api.table`.

A row names method, path, handler and what is special; the rest follows from those. The operation's id is the handler's
name in camel case, its tag the noun in its path, and the role that it asks for `read` where the method is GET, else
`operate`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.events import JSON_TYPE
from pointsman.contract.tokens import TokenRole

Schema = Mapping[str, Any]
"""A JSON schema, for what has no struct."""

TEXT: Schema = {"type": "string"}
"""Schema of a body that is no JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A parameter of a request. One in the path stands in `{}` there and is required.

    slashes: whether one in the path may hold slashes; percent-encoded ones arrive as such.
    """

    name: str
    where: Literal["path", "query", "header"]
    schema: Schema
    description: str = ""
    slashes: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that is no error: what it says, and the type of its body as JSON; None where there is no such body.

    headers: what each header of the answer says, by name.
    other: schemas of bodies that are no JSON, by media type.
    """

    description: str
    body: type | Schema | None = None
    _: KW_ONLY
    headers: Mapping[str, str] = field(default_factory=dict)
    other: Mapping[str, Schema] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation: what serves it, and all that its description says.

    handler: method of a front, which the app binds to its instance of that front.
    answers: by status; errors, by status, besides those that any operation has.
    body: what the body is decoded as; None where none is read. media_types: those it may have.
    allowed: roles of tokens any one of which is enough, the usual one first; empty for the usual one of the method.
    public: no token is asked for.
    """

    method: Literal["GET", "PUT", "POST", "DELETE"]
    path: str
    handler: Callable[[Any, Request], Awaitable[Response]]
    summary: str = ""
    _: KW_ONLY
    answers: Mapping[int, Answer] = field(default_factory=dict)
    body: type | Schema | None = None
    media_types: tuple[str, ...] = (JSON_TYPE,)
    parameters: tuple[Parameter, ...] = ()
    errors: Mapping[int, str] = field(default_factory=dict)
    allowed: tuple[TokenRole, ...] = ()
    public: bool = False

    @property
    def operation_id(self) -> str:
        """Name of the operation in generated clients: `listReplicas` for a handler `list_replicas`."""
        first, *others = self.handler.__name__.split("_")
        return first + "".join(word.capitalize() for word in others)

    @property
    def roles(self) -> tuple[TokenRole, ...]:
        """Roles of tokens any one of which is enough; empty where no token is asked for. Who may operate may see."""
        if self.public:
            return ()
        roles = self.allowed or (TokenRole.READ if self.method == "GET" else TokenRole.OPERATE,)
        return (*roles, TokenRole.OPERATE) if roles == (TokenRole.READ,) else roles

    @property
    def changes(self) -> bool:
        """Whether the operation changes what people decide about: such calls are recorded with their author."""
        return TokenRole.OPERATE in self.roles and TokenRole.READ not in self.roles

    @property
    def tag(self) -> str:
        """Group of the operation: `engines`, `health`, or the noun in its path."""
        if self.public:
            return "health"
        if self.roles[0] is TokenRole.ENGINE:
            return "engines"
        noun = self.path.split("/")[2]
        return NOUNS.get(noun, noun)

    @property
    def route(self) -> str:
        """The path as Starlette matches it."""
        path = self.path
        for parameter in self.parameters:
            if parameter.slashes:
                path = path.replace(f"{{{parameter.name}}}", f"{{{parameter.name}:path}}")
        return path

    def names(self, where: Literal["path", "query", "header"]) -> tuple[str, ...]:
        """Names of its parameters in one place of a request."""
        return tuple(parameter.name for parameter in self.parameters if parameter.where == where)


NOUNS = {
    "policy": "policies",
    "explain": "decisions",
    "state": "edges",
    "whoami": "tokens",
    "index": "signals",
    "load": "signals",
}
"""Tag by the noun in a path, where they differ."""

TAGS = {
    "replicas": "Engines that requests are routed to: list them, drain them, see why one is out.",
    "policies": "The rules by which a replica is chosen, and the policy that is live.",
    "aliases": "Names that stand for models, by weight and by session: how a new version comes in.",
    "decisions": "Where requests went or would go, and why.",
    "sessions": "Sessions and conversations: where they live, how to move or forget one.",
    "keys": "API keys of clients: make, rotate and revoke them.",
    "tenants": "Tenants: their share of the fleet, their limits and pools.",
    "models": "Models and adapters that the fleet serves.",
    "signals": "Signals that policies decide by: prefix index and load.",
    "usage": "What tenants, keys and models used: requests, tokens, time.",
    "live": "The edge at this moment, as the page and terminals show it.",
    "pools": "Pools of replicas that a fleet's driver runs: size and configuration.",
    "edges": "Other edges that share state with this one.",
    "status": "Whether this edge is well, in one document.",
    "config": "The settings in effect, and where they come from.",
    "events": "What changed, when, and by whom.",
    "tokens": "The token of a request and what it allows.",
    "engines": "Calls that replicas and drivers of fleets make by themselves: registrations, leases and reports.",
    "health": "Probes, metrics and this description. No token is asked for.",
}
"""Description by tag, in the order of the documentation."""
