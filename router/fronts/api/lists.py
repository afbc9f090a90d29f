"""Long lists as JSON, encoded slice by slice: a thousand items at once would hold up lookups for milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET
from starlette.responses import Response

from pointsman.contract.events import JSON_TYPE

_encode = msgspec.json.Encoder().encode


class JSONList:
    """The items of one list, encoded as they are added."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, items: Sequence[object]) -> None:
        """Adds items at the end."""
        if items:
            self._parts.append(_encode(items)[1:-1])

    def answer(self, name: str, **more: object) -> Response:
        """The answer `{**more, name: [...]}`, without members that are UNSET."""
        members = [_encode(key) + b":" + _encode(value) for key, value in more.items() if value is not UNSET]
        members.append(_encode(name) + b":[" + b",".join(self._parts) + b"]")
        return Response(b"{" + b",".join(members) + b"}", media_type=JSON_TYPE)
