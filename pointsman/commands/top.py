"""`pointsman top`: one edge as it works, a picture a second. `top_shown` draws; `run_top` shows until `q`."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Mapping
from datetime import datetime, tzinfo
from threading import Event, Thread
from types import TracebackType
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pointsman.admin_client import AdminClient, RefusedError
from pointsman.commands.inquiry import STATE_STYLES, Inquiry, flowed_text, print_raw, state_text, table_of
from pointsman.commands.keys import Keys
from pointsman.commands.shown import clock_time, fitted, ms, now_utc, rate, share, since, whole
from pointsman.commands.status import hit_shown
from pointsman.contract.backoff import Backoff
from pointsman.errors import StartError

NAME_WIDTH = 18
BAR_WIDTH = 24
REASONS_MAX = 8
MODELS_MAX = 6

WHY_MAX = 4
"""Replicas whose reason is told below the table."""

OTHER_LINES = 24
"""Lines of a picture besides its replicas: head, models or reasons, headings, reasons of those that are out."""

STOP_S = 2.0
"""Time that a read under way has to notice the end."""

LOOK_S = 0.1
"""Between two looks at what came; a key is heard at once."""

MIN_PAUSE_S = 0.5
MAX_PAUSE_S = 5.0


def run_top(inquiry: Inquiry, *, once: bool) -> int:
    """Show the edge until `q` or Ctrl-C; a single picture with `once`, or where standard output is no terminal."""
    if once or not sys.stdout.isatty():
        answer = inquiry.client.get("/v1/live")
        inquiry.show(answer, lambda live: top_shown(live, now_utc(), None, width=inquiry.console.width, rows=None))
        return 0
    if inquiry.as_json:
        for document in inquiry.client.follow("/v1/live"):
            print_raw(document)
        return 0
    try:
        screen = Live(console=inquiry.console, screen=True, auto_refresh=False)
        with Keys() as keys, LiveFeed(inquiry.client) as feed, screen:
            _show(feed, inquiry.console, keys, screen)
    except KeyboardInterrupt:
        pass
    return 0


class LiveFeed:
    """The latest document of an edge, followed on a thread of its own so that keys are heard at any time."""

    def __init__(self, client: AdminClient) -> None:
        self._client = client
        self._thread = Thread(target=self._follow, name="live feed", daemon=True)
        self._over = Event()
        self._documents: deque[dict[str, Any]] = deque(maxlen=1)
        self.trouble = ""
        """Why nothing comes; empty while it does."""
        self.refused: Exception | None = None
        """Error that ended the feed for good, before its first document."""

    def __enter__(self) -> LiveFeed:
        """Begin to follow."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Follow no longer; the client is closed, which is what ends a read under way."""
        self._over.set()
        self._client.close()
        self._thread.join(STOP_S)

    def take(self) -> dict[str, Any] | None:
        """Return the latest document that was not taken yet; None for none."""
        return self._documents.popleft() if self._documents else None

    def _follow(self) -> None:
        try:
            self._follow_on()
        except Exception:
            if not self._over.is_set():  # else: the client was closed
                raise

    def _follow_on(self) -> None:
        """Follow until the feed is over, again whenever the stream ends."""
        backoff = Backoff(MIN_PAUSE_S, MAX_PAUSE_S)
        reached = False
        while not self._over.is_set():
            try:
                for document in self._client.follow("/v1/live"):
                    reached = True
                    if document:
                        backoff.reset()
                        self.trouble = ""
                        self._documents.append(json.loads(document))
                self.trouble = "the router ended the stream"
            except (StartError, RefusedError) as error:
                if not reached:
                    self.refused = error
                    return
                self.trouble = str(error)
            self._over.wait(backoff.take())


def _show(feed: LiveFeed, console: Console, keys: Keys, screen: Live) -> None:
    """Draw what comes until `q`; the last picture stays, with a note, while the router does not answer.

    Raises what the router refused before the first picture.
    """
    live: dict[str, Any] | None = None
    while not keys.pressed("q", within_s=LOOK_S):
        if feed.refused is not None:
            raise feed.refused
        latest, trouble = feed.take(), feed.trouble
        live = latest or live
        if live is None or not (latest or trouble):
            continue
        rows = max(console.height - OTHER_LINES, 4)
        picture = top_shown(live, now_utc(), None, width=console.width, rows=rows)
        note = [Text(f"! {trouble}; this is old", style="bold red")] if trouble else []
        screen.update(Group(*note, picture, Text("q quits", style="dim")), refresh=True)


def top_shown(
    live: Mapping[str, Any], now: datetime, zone: tzinfo | None, *, width: int, rows: int | None
) -> RenderableType:
    """One picture of an edge. rows: of the table of replicas; None for all."""
    return Group(
        _head(live, now, zone, width),
        *_troubles(live),
        "",
        Columns([_models(live), _reasons(live)], padding=(0, 4)),
        "",
        _replicas(live["replicas"], rows),
    )


def _head(live: Mapping[str, Any], now: datetime, zone: tzinfo | None, width: int) -> Text:
    policy = live["policy"]
    by = f", by {policy['author']}" if policy.get("author") else ""
    state = "not ready" if live["not_ready"] else "degraded" if live["degraded"] else "ready"
    conversations = live["conversations"]
    other = [edge["state"] for edge in live["edges"]]
    parts = [
        live.get("edge") or "edge",
        state,
        f"policy {policy['name']} r{policy['revision']} ({since(policy['since'], now)} ago{by})",
        f"req/s {rate(live.get('requests_per_s'))}",
        f"in flight {whole(live['in_flight'])}",
        f"held {whole(live['held'])}",
        hit_shown(live),
        f"conversations {whole(conversations['live'])} live of {whole(conversations['known'])}",
        f"fail-open {rate(live.get('fail_open_per_s'))}/s",
        f"edges {1 + other.count('in-step')} of {1 + len(other)} agree" if other else "",
        f"as of {clock_time(live['at'], zone, to_ms=False)}",
    ]
    text = flowed_text(parts, width)
    text.stylize("bold", 0, len(parts[0]))
    text.highlight_words([state], STATE_STYLES.get(state, "bold red"))
    return text


def _troubles(live: Mapping[str, Any]) -> list[Text]:
    lines = [f"! not ready: {why}" for why in live["not_ready"]] + [f"! degraded: {why}" for why in live["degraded"]]
    return [Text(line, style="bold red") for line in lines]


def _models(live: Mapping[str, Any]) -> Table:
    """TTFT by model, the busiest first."""
    by_model = live["ttft_ms"]
    busiest = sorted(by_model, key=lambda model: (-by_model[model]["count"], model))[:MODELS_MAX]
    right = ("TTFT p50", "p99", "requests")
    rows = [
        (
            fitted(model, NAME_WIDTH).ljust(NAME_WIDTH),
            ms(by_model[model]["p50"]).rjust(len(right[0])),
            ms(by_model[model]["p99"]).rjust(9),
            whole(by_model[model]["count"]),
        )
        for model in busiest
    ]
    if not rows:
        return table_of(("model",), [("no first token in the last minute",)])
    return table_of(("model", *right), rows, right=right)


def _reasons(live: Mapping[str, Any]) -> Table:
    """Requests per second by reason, each with a bar."""
    by_reason = live["by_reason"]
    busiest = sorted(by_reason, key=lambda reason: (-by_reason[reason], reason))
    most = max(by_reason.values(), default=0.0) or 1.0
    rows: list[tuple[str | Text, ...]] = [
        (reason.ljust(NAME_WIDTH - 4), rate(by_reason[reason]).rjust(5), Text(bar(by_reason[reason] / most), "cyan"))
        for reason in busiest[:REASONS_MAX]
    ]
    rest = sum(by_reason[reason] for reason in busiest[REASONS_MAX:])
    if rest:
        rows.append((f"{len(busiest) - REASONS_MAX} more", rate(rest), Text(bar(rest / most), "cyan")))
    if not rows:
        return table_of(("reason",), [("no request in the last seconds",)])
    return table_of(("reason", "req/s", ""), rows, right=("req/s",))


def bar(part: float, width: int = BAR_WIDTH) -> str:
    """A bar for a part of one; the least that is not nothing has a character."""
    return "▇" * max(round(part * width), 1 if part > 0 else 0)


def _replicas(replicas: list[dict[str, Any]], rows: int | None) -> RenderableType:
    """All replicas by id; where they do not fit, those that are out and the busiest."""
    if not replicas:
        return "no replica is registered"
    shown = replicas
    if rows is not None and len(replicas) > rows:
        worst = sorted(replicas, key=lambda replica: (replica["state"] == "up", -replica["in_flight"], replica["id"]))
        kept = {replica["id"] for replica in worst[: rows - 1]}
        shown = [replica for replica in replicas if replica["id"] in kept]
    right = ("in flight", "running", "waiting", "KV used", "KV live", "backlog", "hit")
    table = table_of(("replica", "state", *right), map(_row, shown), right=right)
    left_out = len(replicas) - len(shown)
    out = sum(replica["state"] != "up" for replica in replicas) - sum(replica["state"] != "up" for replica in shown)
    rest = f"{whole(out)} of them out" if out else "up and less busy"
    more = [Text(f"and {whole(left_out)} more, {rest}", style="dim")] if left_out else []
    return Group(table, *more, *_why_out(replicas))


def _why_out(replicas: list[dict[str, Any]]) -> list[Text]:
    out = [replica for replica in replicas if replica.get("why")]
    lines = [
        Text.assemble(("! ", "bold"), f"{replica['id']} ", state_text(replica["state"]), f": {replica['why']}")
        for replica in out[:WHY_MAX]
    ]
    return lines + ([Text(f"! and {whole(len(out) - WHY_MAX)} more")] if len(out) > WHY_MAX else [])


def _row(replica: Mapping[str, Any]) -> tuple[str | Text, ...]:
    return (
        fitted(replica["id"], NAME_WIDTH),
        state_text(replica["state"]),
        whole(replica["in_flight"]),
        whole(replica.get("running")),
        whole(replica.get("waiting")),
        share(replica.get("kv_used")),
        share(replica.get("kv_live")),
        ms(replica["backlog_ms"]),
        share(replica.get("hit_share")),
    )
