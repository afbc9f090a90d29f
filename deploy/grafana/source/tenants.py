"""The dashboard *Tenants*: who uses how much of the fleet, and how well that is known."""

from __future__ import annotations

from deploy.grafana.source.model import GOOD_WHEN_ZERO, Board, Kind, Panel, Query, Row
from deploy.grafana.source.promql import EDGE, increase, rate, ratio, total

TENANT = f'{EDGE}, tenant=~"$tenant"'


def _kind(kind: str) -> str:
    return f'{TENANT}, kind="{kind}"'


def _spent(by: str = "", over: str = "") -> str:
    """Prompt and output tokens: a second, or over a range."""
    labels = f'{TENANT}, kind=~"prompt|output"'
    if over:
        return increase("pointsman_usage_tokens_total", labels, by=by, over=over)
    return rate("pointsman_usage_tokens_total", labels, by=by)


def _cached_share(by: str = "") -> str:
    cached, prompt = (rate("pointsman_usage_tokens_total", _kind(kind), by=by) for kind in ("cached", "prompt"))
    return ratio(cached, prompt)


USED = Row(
    "Usage",
    (
        Panel(
            "Tokens used",
            "How much was used?",
            "Prompt and output tokens of all tenants, over the time range of the dashboard.",
            "`pointsman usage` has the same by tenant, key, model and day, for a bill.",
            (Query(_spent(over="$__range"), "tokens"),),
            kind=Kind.STAT,
            width=6,
            height=4,
        ),
        Panel(
            "Requests used",
            "How many requests were served?",
            "Requests that a replica served, each once, over the time range of the dashboard.",
            "Nothing: a scale for the other panels.",
            (Query(increase("pointsman_usage_requests_total", TENANT), "requests"),),
            kind=Kind.STAT,
            width=6,
            height=4,
        ),
        Panel(
            "Cached share of all prompts",
            "How much of it cost no engine time?",
            "Share of prompt tokens that engines found in their prefix caches.",
            "Where a bill counts cached tokens less, this is the part that costs less.",
            (Query(_cached_share(), "cached"),),
            "percentunit",
            kind=Kind.STAT,
            width=6,
            height=4,
        ),
        Panel(
            "Share that is an estimate",
            "How exact is it?",
            "Share of tokens that no engine reported, estimated from first tokens and from bytes of answers.",
            "Plain endpoints report nothing, so theirs are all estimates. Else above 0: an engine was killed.",
            (
                Query(
                    ratio(rate("pointsman_usage_estimated_tokens_total", TENANT), _spent()),
                    "estimated",
                ),
            ),
            "percentunit",
            kind=Kind.STAT,
            width=6,
            height=4,
        ),
        Panel(
            "Tokens by tenant",
            "Who uses the fleet?",
            "Prompt and output tokens a second of each tenant. Without API keys there is one without a name.",
            "A tenant that grows past its share delays all others.",
            (Query(_spent(by="tenant"), "{{tenant}}"),),
            kind=Kind.STACK,
            width=12,
        ),
        Panel(
            "Largest tenants",
            "Who used most?",
            "Prompt and output tokens of the ten largest tenants, over the time range of the dashboard.",
            "Compare with what was agreed with them.",
            (Query(f"topk(10, {_spent(by='tenant', over='$__range')})", "{{tenant}}"),),
            kind=Kind.TOP,
            width=12,
        ),
        Panel(
            "Requests by tenant",
            "Who asks most often?",
            "Requests a second of each tenant that a replica served.",
            "Many requests with few tokens are short; see tokens by tenant.",
            (Query(rate("pointsman_usage_requests_total", TENANT, by="tenant"), "{{tenant}}"),),
        ),
        Panel(
            "Output tokens by tenant",
            "Who needs decode capacity?",
            "Output tokens a second of each tenant, those of answers that were cut included.",
            "Output is what keeps replicas busy longest.",
            (Query(rate("pointsman_usage_tokens_total", _kind("output"), by="tenant"), "{{tenant}}"),),
        ),
        Panel(
            "Cached share by tenant",
            "Whose prompts are alike?",
            "Share of each tenant's prompt tokens that engines found in their prefix caches.",
            "A low share of a tenant with long prompts costs most engine time.",
            (Query(_cached_share(by="tenant"), "{{tenant}}"),),
            "percentunit",
        ),
        Panel(
            "Time in engines by tenant",
            "Who keeps replicas busy?",
            "Requests of each tenant in engines, mean: seconds in engines a second.",
            "Divide by the requests that one replica serves at once to have replicas.",
            (Query(rate("pointsman_usage_seconds_total", TENANT, by="tenant"), "{{tenant}}"),),
        ),
    ),
)

LIMITED = Row(
    "Limits",
    (
        Panel(
            "Refused requests by limit",
            "Who meets a limit, and which?",
            "Requests a second that were refused because their tenant or API key is over a limit, by tenant and limit.",
            "`model`: the key may not ask for the model. Else the tenant waits, or its limit is to be raised.",
            (
                Query(
                    rate("pointsman_limited_total", TENANT, by="tenant, limit"),
                    "{{tenant}} {{limit}}",
                    waits_for="a tenant over its limit",
                ),
            ),
            width=12,
        ),
    ),
)

KEPT = Row(
    "How well it is known",
    (
        Panel(
            "Estimated tokens by tenant",
            "Whose usage is not exact?",
            "Tokens a second that no engine reported.",
            "All of them where endpoints are plain; else see which engines ended.",
            (Query(rate("pointsman_usage_estimated_tokens_total", TENANT, by="tenant"), "{{tenant}}"),),
        ),
        Panel(
            "Estimated requests by tenant",
            "Which requests did no engine report?",
            "Requests a second whose tokens are an estimate.",
            "All of them where endpoints are plain; else each stands for an engine that ended in the middle.",
            (Query(rate("pointsman_usage_estimated_requests_total", TENANT, by="tenant"), "{{tenant}}"),),
        ),
        Panel(
            "Requests waiting for a report",
            "Do engines report in time?",
            "Requests without a record that wait for HAProxy's line or for their engine's report.",
            "They are counted after ten seconds. Hundreds for long: engines do not reach this edge.",
            (Query(total("pointsman_usage_open_requests", by="edge"), "{{edge}}"),),
        ),
        Panel(
            "Usage that may be missing",
            "Was anything lost?",
            "Reports that engines dropped, rows beyond the limit of an hour, and writes that failed.",
            "Write errors: see the disk of `usage.file`, and Redis. What was not written is tried again.",
            tuple(
                Query(increase(f"pointsman_usage_{name}_total", by="edge", over="$__rate_interval"), legend)
                for name, legend in (
                    ("lost_reports", "{{edge}} reports lost"),
                    ("other_rows", "{{edge}} rows beyond the limit"),
                    ("write_errors", "{{edge}} writes failed"),
                )
            ),
            kind=Kind.BARS,
            steps=GOOD_WHEN_ZERO,
        ),
    ),
)

BOARD = Board(
    "pointsman-tenants",
    "Pointsman: tenants",
    "Who uses how much of the fleet, in tokens, requests and time, and how much of that is an estimate.",
    (USED, LIMITED, KEPT),
    ("edge", "tenant"),
)
