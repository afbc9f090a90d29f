"""The dashboard *Edge and HAProxy*: whether router and HAProxy hold together, and how busy they are."""

from __future__ import annotations

from deploy.grafana.source.model import GOOD_WHEN_ZERO, Board, Kind, Panel, Query, Row, stat
from deploy.grafana.source.promql import EDGE, increase, most, rate, ratio, series, total

CLIENTS = f'{EDGE}, proxy="edge"'
ROUTER_JOB = f'{EDGE}, job="pointsman-router"'
FLEET = f'{EDGE}, proxy="fleet"'


def events(name: str, *, by: str = "edge", labels: str = EDGE) -> str:
    """Events in each interval."""
    return increase(name, labels, by=by, over="$__rate_interval")


NUMBERS = Row(
    "At a glance",
    (
        stat(
            "HAProxy",
            "Do router and HAProxy talk?",
            "Whether every router reaches the admin socket of its HAProxy.",
            "`away`: HAProxy is down, or path, mode or owner of the socket are wrong.",
            Query(f"min({series('pointsman_haproxy_up')})", "HAProxy"),
            steps=((None, "red"), (1, "green")),
            words=((0, "away", "red"), (1, "attached", "green")),
        ),
        stat(
            "Degraded parts",
            "Is anything impaired?",
            "Parts of routers that are degraded while requests are served.",
            "`/readyz` of the admin address has the cause.",
            Query(f"sum({series('pointsman_degraded')})", "degraded"),
            steps=GOOD_WHEN_ZERO,
        ),
        stat(
            "Router's core in use",
            "How busy is the router?",
            "CPU time of the busiest router a second. It uses one core.",
            "Above 80 %, lookups queue: add an edge.",
            Query(
                f"max(rate({series('process_cpu_seconds_total', ROUTER_JOB)}[$__rate_interval]))",
                "cpu",
            ),
            "percentunit",
            steps=((None, "green"), (0.6, "orange"), (0.8, "red")),
        ),
        stat(
            "HAProxy busy",
            "How busy is HAProxy?",
            "Share of time in which HAProxy's threads are not idle.",
            "Above 80 %: more threads (`threads`), or another edge.",
            Query(f"1 - min({series('haproxy_process_idle_time_percent')}) / 100", "busy"),
            "percentunit",
            steps=((None, "green"), (0.6, "orange"), (0.8, "red")),
        ),
        stat(
            "Client connections",
            "How many clients are connected?",
            "Open connections of clients.",
            "At HAProxy's limit further ones wait to be accepted.",
            Query(f"sum({series('haproxy_frontend_current_sessions', CLIENTS)})", "clients"),
        ),
        stat(
            "Admin requests refused",
            "Does somebody try tokens?",
            "Requests to the admin API and engines' feeds refused by a check of the sender, over the time range.",
            "See which check below.",
            Query(increase("pointsman_admin_refused_total"), "refused"),
            decimals=0,
        ),
    ),
)

ROUTER = Row(
    "Router",
    (
        Panel(
            "CPU of the router",
            "Is the router's core full?",
            "CPU time a second. Decisions, events of engines, end lines and `/metrics` share one core.",
            "Above 80 %: add an edge.",
            (
                Query(
                    f"sum by (edge) (rate({series('process_cpu_seconds_total', ROUTER_JOB)}[$__rate_interval]))",
                    "{{edge}}",
                ),
            ),
            "percentunit",
        ),
        Panel(
            "Memory of the router",
            "Does memory grow?",
            "Resident memory.",
            "It levels off with the tables' limits; see `limits` in the settings.",
            (
                Query(
                    f"max by (edge) ({series('process_resident_memory_bytes', ROUTER_JOB)})",
                    "{{edge}}",
                ),
            ),
            "bytes",
        ),
        Panel(
            "Degraded parts",
            "What is impaired?",
            "1 for each part that is degraded while requests are served.",
            "`/readyz` of the admin address has the cause.",
            (
                Query(
                    f"{most('pointsman_degraded', by='edge, part')} > 0",
                    "{{edge}} {{part}}",
                    waits_for="a part that is degraded",
                ),
            ),
            most=1,
        ),
        Panel(
            "Errors of background tasks",
            "Do tasks of the router fail?",
            "Exceptions by task; each is logged, and the task starts again.",
            "The traceback is in the router's log; please report it.",
            (
                Query(
                    f"{events('pointsman_background_errors_total', by='edge, task')} > 0",
                    "{{edge}} {{task}}",
                    waits_for="a task of the router that fails",
                ),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "State and documents",
            "Is what must survive a restart on the disk?",
            "Failed writes of state, and of documents (keys, tenants, aliases); state files that could not be read at "
            "the start and were renamed to *.bad.",
            "Failed writes: disk full or read-only.",
            (
                Query(events("pointsman_state_save_errors_total"), "{{edge}} writes of state failed"),
                Query(events("pointsman_documents_save_errors_total"), "{{edge}} writes of documents failed"),
                Query(events("pointsman_state_files_set_aside_total"), "{{edge}} set aside"),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "Admin requests refused",
            "Whom does the admin API refuse?",
            "Requests refused by a check of the sender: token, host, origin.",
            "`token` from an engine: its token is old. `host` and `origin`: somebody's browser, see SECURITY.",
            (Query(events("pointsman_admin_refused_total", by="edge, check"), "{{edge}} {{check}}"),),
            kind=Kind.BARS,
        ),
        Panel(
            "Admin files that cannot be used",
            "Was a file changed for the worse?",
            "Changes of the file of admin tokens or of the certificate that could not be used. What was read before "
            "stays in effect.",
            "A renewed certificate that is not used expires: the router's log says what is wrong with the file.",
            (Query(events("pointsman_admin_file_errors_total", by="edge, file"), "{{edge}} {{file}}"),),
            kind=Kind.BARS,
        ),
        Panel(
            "Access log",
            "Is there a line for each request?",
            "Lines of the access log a second: written, and dropped because the disk did not take them in time.",
            "Dropped: the disk is full, slow or read-only. The lines are lost; no request waits for them.",
            (
                Query(
                    rate("pointsman_access_log_lines_total", by="edge, outcome"),
                    "{{edge}} {{outcome}}",
                    waits_for="an access log",
                ),
            ),
            "ops",
        ),
        Panel(
            "Spans",
            "Do traces arrive?",
            "Spans of traced requests a second: sent, and lost because the collector did not take them.",
            "Lost: the collector is away or slow, or `tracing.sample` traces more requests than it takes.",
            (Query(rate("pointsman_spans_total", by="edge, outcome"), "{{edge}} {{outcome}}", waits_for="tracing"),),
            "ops",
        ),
    ),
)

BETWEEN = Row(
    "Between router and HAProxy",
    (
        Panel(
            "HAProxy attached",
            "When was HAProxy away from the router?",
            "Whether the admin socket answered.",
            "Servers are not added or removed while it is away; HAProxy serves with those it knows.",
            (Query(most("pointsman_haproxy_up"), "{{edge}}"),),
            kind=Kind.STATES,
            words=((0, "away", "red"), (1, "attached", "green")),
        ),
        Panel(
            "Connections between the two",
            "Are all channels open?",
            "SPOP connections (lookups), and connections of HAProxy's log ring (ends of requests).",
            "No SPOP connection: every request fails open. No ring: load is corrected late.",
            (
                Query(total("pointsman_spop_connections", by="edge"), "{{edge}} SPOP"),
                Query(total("pointsman_ring_connections", by="edge"), "{{edge}} ring"),
            ),
        ),
        Panel(
            "Restarts, failed rounds, broken frames",
            "Does the connection break?",
            "Restarts and reloads of HAProxy, failed comparisons of its servers with the registry, and SPOP "
            "connections closed for malformed frames.",
            "Reloads are yours. Failed rounds without a restart: HAProxy hangs or the socket is overloaded.",
            (
                Query(events("pointsman_haproxy_restarts_total"), "{{edge}} restarts"),
                Query(events("pointsman_edge_sync_errors_total"), "{{edge}} failed rounds"),
                Query(events("pointsman_spop_protocol_errors_total"), "{{edge}} broken frames"),
            ),
            kind=Kind.BARS,
        ),
        Panel(
            "End-of-request lines",
            "Do ends of requests arrive?",
            "Lines of HAProxy's log ring a second, and those that could not be read.",
            "Fewer lines than requests: the ring was not connected. Malformed lines: HAProxy's files are of another "
            "version.",
            (
                Query(rate("pointsman_ring_lines_total", by="edge"), "{{edge}} lines"),
                Query(rate("pointsman_ring_malformed_lines_total", by="edge"), "{{edge}} malformed"),
            ),
            "ops",
        ),
        Panel(
            "Reservations",
            "Is load counted exactly?",
            "Requests in flight that this router placed, and those that HAProxy placed alone.",
            "Both together are HAProxy's own count.",
            (
                Query(total("pointsman_reservations", by="edge"), "{{edge}} placed"),
                Query(total("pointsman_in_flight_foreign", by="edge"), "{{edge}} foreign"),
            ),
        ),
        Panel(
            "Reservations dropped",
            "Do requests end unseen?",
            "Reservations dropped without an end-of-request line: leaked (HAProxy has no such session) or expired.",
            "After a restart of the router some are normal; always: ring lines are lost.",
            (Query(events("pointsman_reservations_dropped_total", by="edge, cause"), "{{edge}} {{cause}}"),),
            kind=Kind.BARS,
        ),
    ),
)

HAPROXY = Row(
    "HAProxy",
    (
        Panel(
            "Client connections, of the limit",
            "Is there room for more clients?",
            "Open connections of clients, as a share of those that HAProxy accepts.",
            "At 100 % further clients wait: raise `maxconn` and the limit of open files.",
            (
                Query(
                    ratio(
                        total("haproxy_frontend_current_sessions", CLIENTS, by="edge"),
                        total("haproxy_frontend_limit_sessions", CLIENTS, by="edge"),
                    ),
                    "{{edge}}",
                ),
            ),
            "percentunit",
            most=1,
        ),
        Panel(
            "Waiting in HAProxy",
            "Do requests wait for a connection?",
            "Requests in HAProxy's own queue in front of the fleet.",
            "It should be 0: replicas refuse connections, or servers have a `maxconn`.",
            (Query(total("haproxy_backend_current_queue", FLEET, by="edge"), "{{edge}}"),),
        ),
        Panel(
            "HAProxy busy",
            "How busy is HAProxy?",
            "Share of time in which its threads are not idle.",
            "Above 80 %: more threads, or another edge.",
            (Query(f"1 - min by (edge) ({series('haproxy_process_idle_time_percent')}) / 100", "{{edge}}"),),
            "percentunit",
            most=1,
        ),
        Panel(
            "Bytes",
            "How much passes the edge?",
            "Bytes from clients and to clients, a second.",
            "Compare with the network's limit.",
            (
                Query(rate("haproxy_frontend_bytes_in_total", CLIENTS, by="edge"), "{{edge}} in"),
                Query(rate("haproxy_frontend_bytes_out_total", CLIENTS, by="edge"), "{{edge}} out"),
            ),
            "Bps",
        ),
        Panel(
            "Connection errors and retries",
            "Do connections to replicas fail?",
            "Failed connections to replicas, and requests that HAProxy sent again or to another replica.",
            "A replica that refuses connections is down within a second; lasting errors: the network.",
            (
                Query(rate("haproxy_backend_connection_errors_total", FLEET, by="edge"), "{{edge}} errors"),
                Query(rate("haproxy_backend_retry_warnings_total", FLEET, by="edge"), "{{edge}} retries"),
                Query(rate("haproxy_backend_redispatch_warnings_total", FLEET, by="edge"), "{{edge}} second choice"),
            ),
            "ops",
        ),
        Panel(
            "Old workers",
            "Does a reload take long?",
            "HAProxy workers that a reload has replaced and that still carry streams.",
            "They end with their last stream, at the latest after `hard_stop_after_s`.",
            (Query(most("pointsman_haproxy_old_workers"), "{{edge}}"),),
        ),
    ),
)

BOARD = Board(
    "pointsman-edge",
    "Pointsman: edge and HAProxy",
    "Router and HAProxy: whether they hold together, and how busy they are.",
    (NUMBERS, ROUTER, BETWEEN, HAPROXY),
)
