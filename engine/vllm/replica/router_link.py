"""The link of one vLLM replica to its routers: its registration and the reports of its engine.

A replica without admin URLs registers nowhere and reports nothing; every call is then harmless.
"""

from __future__ import annotations

from collections.abc import Callable

from pointsman.contract.events import EngineLoad, Handoffs
from pointsman.contract.registration import Registration
from pointsman.engine.registration import Registrar
from pointsman.engine.transport import RouterTransport
from pointsman.engine.vllm.fleet.spec import ReplicaSpec
from pointsman.engine.vllm.replica.gate import App
from pointsman.engine.vllm.replica.openai_server import OpenAIServer
from pointsman.engine.vllm.replica.reporting import Reporter
from pointsman.engine.vllm.replica.signals import EngineSignals


class RouterLink:
    """One replica's registration and reports. `report` before `register`; `withdraw` ends both."""

    def __init__(self, spec: ReplicaSpec) -> None:
        self._spec = spec
        self._transports: list[RouterTransport] = []
        self._reporter: Reporter | None = None
        self._registrar: Registrar | None = None

    @property
    def superseded(self) -> bool:
        """Whether a router has a later incarnation of the replica."""
        return self._registrar is not None and self._registrar.superseded

    @property
    def registered(self) -> bool:
        """Whether routers may send requests."""
        return self._registrar is not None

    def report(
        self,
        server: OpenAIServer,
        app: App,
        signals: EngineSignals,
        handoffs: Callable[[], Handoffs | None],
        handed_over: Callable[[], bool] = lambda: False,
    ) -> App:
        """Begin to publish what happens in the engine; the app to serve instead of `app`."""
        spec = self._spec
        if not spec.admin:
            return app

        def load() -> EngineLoad:
            return EngineLoad(
                running=signals.running,
                waiting=signals.waiting,
                queued_prefill_tokens=server.queued_tokens,
                kv_usage=signals.kv_usage,
            )

        self._transports = [RouterTransport(admin, spec.admin_token, spec.id) for admin in spec.admin]
        self._reporter = Reporter(
            self._transports,
            model=spec.model,
            load=load,
            handoffs=handoffs,
            adapters=lambda: list(signals.adapters) if signals.adapter_slots else None,
            adapter_slots=signals.adapter_slots,
            reach=lambda admin: RouterTransport(admin, spec.admin_token, spec.id),
            handed_over=handed_over,
        )
        self._reporter.start(server.prefix_cache)
        server.watch(self._reporter.watch)
        server.watch_aborts(self._reporter.aborted)
        return self._reporter.app(app)

    def register(self, url: str) -> None:
        """Register the replica, which is reached at `url`, and renew its lease from here on."""
        spec = self._spec
        if not spec.admin:
            return
        registration = Registration(
            url=url,
            model=spec.model,
            ttl_s=spec.ttl_s,
            pool=spec.pool,
            role=spec.role,
            adapters=list(spec.loras),
            born_ms=spec.born_ms,
            renames_model=True,
        )
        self._registrar = Registrar(
            spec.admin,
            spec.admin_token,
            spec.id,
            registration,
            heartbeat_s=spec.heartbeat_s,
            renewals=self._transports,
        )
        self._registrar.start()

    async def drain(self) -> bool:
        """Ask the routers to send no more requests; answers whether all of them accepted."""
        return self._registrar is None or await self._registrar.drain()

    async def withdraw(self) -> None:
        """Withdraw from the routers and publish what waits."""
        registrar, self._registrar = self._registrar, None
        if registrar is not None:
            await registrar.withdraw()
        reporter, self._reporter = self._reporter, None
        if reporter is not None:
            await reporter.stop()
