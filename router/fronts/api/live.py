"""Live figures in the admin API: an edge at this moment, or once a second from now on."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from pointsman.contract.events import JSON_TYPE
from pointsman.router.fronts.api.flags import flag
from pointsman.router.fronts.api.stream import Frame, Streams
from pointsman.router.watch.live_figures import LiveFigures

NEWEST = 1
"""Documents that wait for a slow reader: an older one is of no use."""


class LiveFront:
    """Handler of `/v1/live`."""

    def __init__(self, figures: LiveFigures, streams: Streams) -> None:
        self._figures = figures
        self._streams = streams

    async def get_live(self, request: Request) -> Response:
        follows = flag(request, "follow")
        document = await self._figures.document()
        if not follows:
            return Response(document, media_type=JSON_TYPE)
        answer = self._streams.follow(request, self._figures.followers, _frame, backlog=[document], queue_max=NEWEST)
        self._figures.wake()
        return answer


def _frame(document: bytes) -> Frame:
    return Frame(document, event="live")
