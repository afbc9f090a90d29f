"""Description of one operation of the admin API: the row type of `pointsman.router.fronts.api.table`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.events import JSON_TYPE

Schema = Mapping[str, Any]
"""A JSON schema, for what has no struct."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """A parameter of a request. One in the path stands in `{}` there and is required."""

    name: str
    where: Literal["path", "query", "header"]
    schema: Schema
    description: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer that is no error: what it says, and the type of its body; None where there is no body."""

    description: str
    body: type | Schema | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation: what serves it, and all that its description says.

    handler: method of a front, which the app binds to its instance of that front.
    answers: by status; errors, by status, besides those that any operation has.
    body: what the body is decoded as; None where none is read. media_types: those it may have.
    public: no token is asked for, and the operation is not part of the description.
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
    public: bool = False

    def names(self, where: Literal["path", "query", "header"]) -> tuple[str, ...]:
        """Names of its parameters in one place of a request."""
        return tuple(parameter.name for parameter in self.parameters if parameter.where == where)
