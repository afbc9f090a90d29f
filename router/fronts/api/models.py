"""`GET /v1/models` for the whole fleet, in OpenAI's form. HAProxy sends it here, everything else to replicas.

A list of models is control plane: it is asked for seldom, and what it says is what routes requests. It stands beside
the lookup, with `/livez` for HAProxy's check: while nobody answers here, HAProxy asks a replica instead.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from pointsman.contract.http_api import json_answer
from pointsman.router.fleet.models import ModelCatalog


class ModelsFront:
    """Three routes over the catalog."""

    def __init__(self, catalog: ModelCatalog) -> None:
        self._catalog = catalog

    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", self.list_models, methods=["GET"]),
            Route("/v1/models/{id:path}", self.get_model, methods=["GET"]),
            Route("/livez", self.livez, methods=["GET"]),
        ]

    async def list_models(self, request: Request) -> Response:
        return json_answer({"object": "list", "data": self._catalog.cards()})

    async def get_model(self, request: Request) -> Response:
        name = request.path_params["id"]
        card = self._catalog.card(name)
        if card is None:
            message = f"The model `{name}` does not exist."
            error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
            return json_answer({"error": error}, 404)
        return json_answer(card)

    async def livez(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")
