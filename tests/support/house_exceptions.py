"""What test_tidy.py lets stand, each with its reason. What no longer needs its line fails until it is taken off."""

from __future__ import annotations

UPWARD: dict[tuple[str, str], str] = {}
"""Arrows of `router/` that point back up, from one box to another."""

PLAIN_DATA: tuple[str, ...] = (
    "contract/bounds.py",
    "contract/feed.py",
    "contract/http_api.py",
    "contract/pools.py",
    "contract/registration.py",
    "engine/vllm/errors.py",
    "haproxy/errors.py",
    "haproxy/spop/errors.py",
    "haproxy/spop/events.py",
    "pointsman/commands/finding.py",
    "pointsman/errors.py",
    "policies/request.py",
    "router/decide/considered.py",
    "router/errors.py",
    "router/fronts/api/config_types.py",
    "router/fronts/api/key_types.py",
    "router/fronts/api/replica_types.py",
    "router/fronts/api/served_model_types.py",
    "router/fronts/api/session_types.py",
    "router/fronts/api/signal_types.py",
    "router/fronts/api/status_types.py",
    "router/fronts/api/policy_types.py",
    "router/fronts/api/types.py",
    "router/fronts/api/usage_table.py",
    "router/fronts/api/usage_types.py",
    "router/process/clock.py",
    "router/process/listen.py",
    "router/process/version.py",
    "router/watch/live_document.py",
    "simulator/errors.py",
)
"""Modules of values and errors alone: nothing in them can be wrong by itself."""

TESTED_BY: dict[str, str] = {
    "contract/http_server.py": "router/process/test_http_servers.py",
    "contract/private_files.py": "e2e/test_up.py",
    "engine/sim/answers.py": "engine/sim/test_serving.py",
    "engine/vllm/fleet/actor.py": "engine/vllm/fleet/test_fleet.py",
    "engine/vllm/fleet/cluster.py": "engine/vllm/fleet/test_config.py",
    "engine/vllm/fleet/control.py": "engine/vllm/fleet/test_orders.py",
    "engine/vllm/fleet/cpu.py": "engine/vllm/fleet/test_spec.py",
    "engine/vllm/fleet/environment.py": "engine/vllm/fleet/test_pool.py",
    "engine/vllm/fleet/launch.py": "engine/vllm/fleet/test_config.py",
    "engine/vllm/fleet/store.py": "engine/vllm/fleet/test_pool.py",
    "engine/vllm/replica/call.py": "engine/vllm/replica/test_reporting.py",
    "engine/vllm/replica/openai_server.py": "engine/vllm/replica/test_replica.py",
    "engine/vllm/replica/router_link.py": "engine/vllm/replica/test_reporting.py",
    "haproxy/charset.py": "haproxy/test_config.py",
    "haproxy/render.py": "haproxy/test_config.py",
    "pointsman/__main__.py": "pointsman/test_cli.py",
    "pointsman/commands/decision_commands.py": "pointsman/test_cli.py",
    "pointsman/commands/engine.py": "engine/sim/test_main.py",
    "pointsman/commands/fleet_commands.py": "pointsman/test_cli.py",
    "pointsman/commands/haproxy.py": "deploy/test_compose.py",
    "pointsman/commands/policy_commands.py": "pointsman/test_cli.py",
    "pointsman/commands/sentence.py": "pointsman/commands/test_options.py",
    "pointsman/commands/simulate.py": "simulator/test_simulate_command.py",
    "pointsman/commands/tenancy_commands.py": "pointsman/commands/test_api_keys.py",
    "pointsman/up/fleet_lines.py": "pointsman/up/test_terminal.py",
    "pointsman/up/supervise.py": "e2e/test_up.py",
    "pointsman/up/valkey.py": "e2e/test_shared_state.py",
    "router/app.py": "router/fronts/test_spop.py",
    "router/counts/requests.py": "router/fronts/test_ring.py",
    "router/decide/explain.py": "router/decide/test_pipeline.py",
    "router/decide/fleet_state.py": "router/decide/test_pipeline.py",
    "router/edges/build.py": "router/edges/test_partition.py",
    "router/edges/documents.py": "sim/test_shared_world.py",
    "router/edges/keys.py": "router/edges/test_store_ways.py",
    "router/edges/loads.py": "sim/test_shared_world.py",
    "router/edges/peers.py": "sim/test_shared_world.py",
    "router/edges/registrations.py": "sim/test_shared_world.py",
    "router/edges/rounds.py": "sim/test_shared_world.py",
    "router/edges/sharing.py": "router/edges/test_cancel.py",
    "router/edges/store.py": "router/edges/test_store_ways.py",
    "router/fronts/admin_access.py": "router/fronts/api/test_roles.py",
    "router/fronts/api/audit.py": "router/fronts/api/test_events.py",
    "router/fronts/api/build.py": "router/fronts/api/test_admin.py",
    "router/fronts/api/description.py": "router/fronts/api/test_openapi.py",
    "router/fronts/api/edges.py": "e2e/test_shared_state.py",
    "router/fronts/api/endpoint.py": "router/fronts/api/test_openapi.py",
    "router/fronts/api/flags.py": "router/fronts/api/test_guard.py",
    "router/fronts/api/health.py": "router/fronts/api/test_admin.py",
    "router/fronts/api/policy.py": "router/fronts/api/test_admin.py",
    "router/fronts/api/replica_views.py": "router/fronts/api/test_replicas.py",
    "router/fronts/api/policy_table.py": "router/fronts/api/test_openapi.py",
    "router/fronts/api/session_views.py": "router/fronts/api/test_sessions.py",
    "router/fronts/api/trial_types.py": "router/fronts/api/test_policy_trials.py",
    "router/fronts/api/table.py": "router/fronts/api/test_openapi.py",
    "router/fronts/deciding.py": "router/fronts/test_spop.py",
    "router/fronts/token_file.py": "router/fronts/api/test_roles.py",
    "router/fronts/hosts.py": "router/fronts/api/test_guard.py",
    "router/kv/conversation.py": "router/kv/test_conversations.py",
    "router/kv/lessons.py": "router/kv/test_state.py",
    "router/kv/outbox.py": "router/kv/test_state.py",
    "router/kv/parts.py": "router/kv/test_state.py",
    "router/metrics/": "router/metrics/test_exposition.py",
    "router/outliers/failure_accrual.py": "router/outliers/test_table.py",
    "router/process/logs.py": "router/process/test_background.py",
    "router/requests/end_line.py": "router/fronts/test_ring.py",
    "router/watch/state_file.py": "router/fleet/test_saved.py",
    "router/fronts/api/tenancy_table.py": "router/fronts/api/test_keys.py",
    "router/watch/tenancy.py": "router/fronts/api/test_keys.py",
    "simulator/peers/": "simulator/test_peers.py",
    "simulator/report.py": "simulator/test_experiment.py",
}
"""Modules without a test of their name, and the file in `tests/` that tests them through what they are part
of. A name that ends in a slash is all of a folder."""

CONSTRUCTORS: dict[str, str] = {}
"""Classes that are built from more than eight arguments."""

LARGE_CLASSES: dict[str, str] = {}
"""Classes of more than twenty methods."""

FUNCTIONS: dict[str, str] = {}
"""Functions of more than sixty lines."""
