"""The routes of a simulated replica: vLLM's, `/echo` and the switches of faults.

`Routes.handle` finds the handler of an exchange. It answers what vLLM's API server answers around generation; the four
generating APIs go to `Generation`. It is never passed off as vLLM: `/version` and the system fingerprint say so.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

import msgspec

from pointsman.contract.registration import Role
from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.errors import RequestError
from pointsman.engine.sim.faults import HEALTH_PATHS, FaultInjection
from pointsman.engine.sim.handoff import FETCH_PATH
from pointsman.engine.sim.http import Exchange
from pointsman.engine.sim.metrics import CONTENT_TYPE
from pointsman.engine.sim.serving import APIS, Generation

VERSION = "0.32.0+sim"
"""The vLLM release whose surface this is."""

Handler = Callable[[Exchange], None]


class Routes:
    """The table of paths and methods of one replica, and their answers."""

    def __init__(self, config: SimConfig, generation: Generation, on_adapters: Callable[[Sequence[str]], None]) -> None:
        """`on_adapters` receives the names of the adapters whenever one is loaded or unloaded."""
        self.draining = False
        """Whether generation is refused and health checks fail."""
        self._config = config
        self._generation = generation
        self._on_adapters = on_adapters
        self._faults: FaultInjection | None = None
        self._started_s = int(time.time())
        self._table: dict[str, dict[str, Handler]] = {
            **{path: {"GET": self._health} for path in HEALTH_PATHS},
            "/version": {"GET": self._version},
            "/load": {"GET": self._load},
            "/metrics": {"GET": self._metrics_page},
            "/v1/models": {"GET": self._models},
            **{path: {"POST": self._generate} for path in APIS},
        }
        self._table["/ping"]["POST"] = self._health
        if config.max_loras:
            self._table["/v1/load_lora_adapter"] = {"POST": self._load_adapter}
            self._table["/v1/unload_lora_adapter"] = {"POST": self._unload_adapter}
        if config.role is Role.PREFILL:
            self._table[FETCH_PATH] = {"POST": generation.kept.serve}

    def inject(self, faults: FaultInjection) -> None:
        """Serve `/sim/fault` and `/sim/stats`, and let the faults act."""
        self._faults = faults
        self._table["/sim/fault"] = {"GET": faults.show, "POST": faults.change}
        self._table["/sim/stats"] = {"GET": self._show_stats}

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, or keep it to be answered later."""
        methods = self._table.get(exchange.path)
        try:
            if methods is not None:
                handler = methods.get(exchange.method)
                if handler is not None:
                    handler(exchange)
                else:
                    allow = ", ".join(methods)
                    exchange.respond(405, b'{"detail":"Method Not Allowed"}', headers=[("allow", allow)])
            elif self._config.echo and exchange.path.startswith("/echo"):
                self._echo(exchange)
            else:
                exchange.respond(404, b'{"detail":"Not Found"}')
        except RequestError as error:
            exchange.respond(error.status, error.body())

    def _health(self, exchange: Exchange) -> None:
        faults = self._faults
        if faults is not None and faults.hangs(exchange):
            return
        healthy = not self.draining and (faults is None or faults.switches.health)
        exchange.respond(200 if healthy else 503, content_type="")

    def _version(self, exchange: Exchange) -> None:
        exchange.respond(200, msgspec.json.encode({"version": VERSION}))

    def _load(self, exchange: Exchange) -> None:
        exchange.respond(200, msgspec.json.encode({"server_load": self._generation.in_flight}))

    def _metrics_page(self, exchange: Exchange) -> None:
        if self._faults is None or self._faults.switches.metrics:
            exchange.respond(200, self._generation.metrics.page(), CONTENT_TYPE)
        else:
            exchange.respond(404, b'{"detail":"Not Found"}')

    def _models(self, exchange: Exchange) -> None:
        base = {"object": "model", "created": self._started_s, "owned_by": "vllm"}
        model = self._config.model
        cards = [{"id": model, **base, "root": model, "parent": None, "max_model_len": self._config.context_tokens}]
        cards += [
            {"id": name, **base, "root": f"/adapters/{name}", "parent": model, "max_model_len": None}
            for name in sorted(self._generation.adapters)
        ]
        exchange.respond(200, msgspec.json.encode({"object": "list", "data": cards}))

    def _load_adapter(self, exchange: Exchange) -> None:
        name, adapters = _adapter_name(exchange.body, "lora_name", "lora_path"), self._generation.adapters
        if name in adapters:
            text = f"The lora adapter '{name}' has already been loaded."
            raise RequestError(400, "InvalidUserInput", text)
        adapters.add(name)
        self._on_adapters(sorted(adapters))
        exchange.respond(200, f"Success: LoRA adapter '{name}' added successfully.".encode(), "text/plain")

    def _unload_adapter(self, exchange: Exchange) -> None:
        name, adapters = _adapter_name(exchange.body, "lora_name"), self._generation.adapters
        if name not in adapters:
            raise RequestError(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        adapters.discard(name)
        self._generation.model.adapters.drop(name)
        self._on_adapters(sorted(adapters))
        exchange.respond(200, f"Success: LoRA adapter '{name}' removed successfully.".encode(), "text/plain")

    def _echo(self, exchange: Exchange) -> None:
        echoed = {
            "method": exchange.method,
            "path": exchange.path,
            "query": exchange.query.decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in exchange.headers],
            "body_sha256": hashlib.sha256(exchange.body).hexdigest(),
            "body_bytes": len(exchange.body),
            "replica": self._config.replica_id,
        }
        exchange.respond(200, msgspec.json.encode(echoed))

    def _generate(self, exchange: Exchange) -> None:
        if self.draining:
            body = RequestError(503, "ServiceUnavailableError", "The replica is draining").body()
            exchange.respond(503, body, headers=[("retry-after", "1")])
        elif self._faults is None or not self._faults.takes(exchange):
            self._generation.serve(exchange)

    def _show_stats(self, exchange: Exchange) -> None:
        assert self._faults is not None, "the route exists with faults alone"
        generation = self._generation
        shown = {
            "in_flight": generation.in_flight,
            "hung": self._faults.hung,
            "finished_by_reason": generation.metrics.finished,
            "engine": generation.model.stats(),
            "kv_kept": len(generation.kept),
            "kv_fetched": generation.kept.fetched,
            "handoffs": generation.handoffs(),
        }
        exchange.respond(200, msgspec.json.encode(shown))


def _adapter_name(body: bytes, *wanted: str) -> str:
    """The first of the fields `wanted`, all of which are there. Raises RequestError."""
    try:
        given = msgspec.json.decode(body, type=dict[str, object])
    except msgspec.MsgspecError as error:
        raise RequestError(400, "Bad Request", str(error)) from None
    values = [given.get(key) for key in wanted]
    if not all(isinstance(value, str) and value for value in values):
        raise RequestError(400, "InvalidUserInput", f"{' and '.join(wanted)} must be provided.")
    return str(values[0])
