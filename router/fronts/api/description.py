"""The description of the admin API, for programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.events import JSON_TYPE


class DescriptionFront:
    """Handler of `/openapi.json`."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        """description: an OpenAPI document."""
        self._document = msgspec.json.encode(description)

    async def get_description(self, request: Request) -> Response:
        return Response(self._document, media_type=JSON_TYPE)
