"""vLLM's engine and its own OpenAI app, in this process. The one module that imports vLLM.

Follows `vllm.entrypoints.launchers` (0.32) step by step, without what needs the main thread: vLLM installs signal
handlers on the event loop, a Ray actor's loop runs in another thread.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import uvicorn

from pointsman.engine.vllm.errors import EngineStartError, MissingExtraError
from pointsman.engine.vllm.replica.gate import App
from pointsman.engine.vllm.replica.kv_events import PrefixCache, Source
from pointsman.engine.vllm.replica.signals import EngineSignals, Generate


class OpenAIServer:
    """One vLLM engine and the ASGI app in front of it. Made by `build`, ended by `shutdown`."""

    def __init__(self, engine: Any, app: Any, api_keys: Sequence[str], sockets: Path | None) -> None:
        self._engine = engine
        self._sockets = sockets
        self._app_state = app.state
        self.app: App = app
        self.api_keys = tuple(api_keys)
        """Keys the app asks for; empty when it asks for none."""

    @property
    def alive(self) -> bool:
        """Whether the engine runs; False from the moment vLLM notices its death."""
        return not self._engine.errored

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens of requests without a first token yet."""
        return int(self._engine.get_num_queued_tokens())

    @property
    def prefix_cache(self) -> PrefixCache:
        """Size of the engine's KV cache, and the sockets of its events."""
        config = self._engine.vllm_config.cache_config
        block_size = int(config.block_size)
        # Hybrid models give a token more or less than one slot of a block: vLLM's own count, where there is one.
        capacity = config.kv_cache_size_tokens or (config.num_gpu_blocks or 0) * block_size
        sources = tuple(
            Source(_reachable(source.endpoint), _reachable(source.replay_endpoint or ""))
            for _, source in sorted(self._engine.get_kv_event_sources().items())
        )
        return PrefixCache(block_size, int(capacity), sources if config.enable_prefix_caching else ())

    @property
    def by_priority(self) -> bool:
        """Whether the engine serves requests in the order of their priorities."""
        return str(self._engine.vllm_config.scheduler_config.policy) == "priority"

    def watch(self, wrap: Callable[[Generate], Generate]) -> None:
        """Put a wrapper round the engine's `generate`; every endpoint of the app goes through it."""
        self._engine.generate = wrap(self._engine.generate)

    def watch_aborts(self, call: Callable[[str, int, int, int, int], None]) -> None:
        """Call back when an answer is aborted in the engine: its id, its number among those of its prompt, the tokens
        of the prompt, those of them that were cached, and the tokens of the answer so far."""
        processor = self._engine.output_processor
        abort = processor.abort_requests

        def abort_requests(request_ids: Any, internal: bool) -> Any:
            request_ids = list(request_ids)
            for request_id in request_ids:
                # vLLM's own ids name one answer each, or the parent of several; those of the app, all of a prompt.
                parent = processor.parent_requests.get(request_id) if internal else None
                own = [request_id] if internal else list(processor.external_req_ids.get(request_id, ()))
                for one in own if parent is None else list(parent.child_requests):
                    state = processor.request_states.get(one)
                    if state is not None and state.stats is not None:
                        tokens = state.stats.num_generation_tokens
                        call(
                            state.external_req_id,
                            state.request_index,
                            state.prompt_len,
                            state.num_cached_tokens,
                            tokens,
                        )
            return abort(request_ids, internal)

        processor.abort_requests = abort_requests

    def end_with(self, http: uvicorn.Server) -> None:
        """Let vLLM end the HTTP server: its error handlers do so when a request finds the engine dead."""
        self._app_state.server = http

    def shutdown(self) -> None:
        """End the engine and its processes; requests still running are aborted. Blocks, a second at most."""
        self._engine.shutdown(timeout=0)
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)


async def build(argv: Sequence[str], signals: EngineSignals, *, kv_events: bool = False) -> OpenAIServer:
    """Load the model and build the app. Imports and loading happen in a thread: the caller's loop goes on.

    With `kv_events` the engine tells what its prefix cache keeps, through sockets only this user can reach; arguments
    that say otherwise (`--kv-events-config`) go first. Raises MissingExtraError without vLLM; whatever vLLM raises
    about its arguments or its model comes out as it is.
    """
    loop = asyncio.get_running_loop()
    # The name holds "inproc" for the sake of data-parallel ranks: vLLM numbers their endpoints by what it finds there.
    sockets = Path(tempfile.mkdtemp(prefix="pm-inproc-")) if kv_events else None
    args, engine = await loop.run_in_executor(None, _load, argv, signals, sockets)
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.entrypoints.launchers.app import build_app

    tasks = await engine.get_supported_tasks()
    if "generate" not in tasks:
        engine.shutdown(timeout=0)
        raise EngineStartError(f"{args.model} does not generate text (it can: {', '.join(tasks)})")
    app = build_app(args, tasks, engine.model_config)
    await init_app_state(engine, app.state, args, tasks)
    return OpenAIServer(engine, app, args.api_key or (), sockets)


def _reachable(endpoint: str) -> str:
    """Where this process finds what the engine's binds."""
    return endpoint.replace("*", "127.0.0.1")


def _load(argv: Sequence[str], signals: EngineSignals, sockets: Path | None) -> tuple[Any, Any]:
    try:
        import vllm
    except ImportError as error:
        raise MissingExtraError("vllm") from error
    from vllm.config.kv_events import KVEventsConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.logger import configure_logging_from_args
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.engine.async_llm import AsyncLLM

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        """Raises where argparse would print its usage and exit the process."""

        def error(self, message: str) -> NoReturn:
            raise EngineStartError(f"vllm serve ({vllm.__version__}): {message}")

    args = make_arg_parser(Parser(prog="vllm serve")).parse_args(list(argv))
    configure_logging_from_args(args)
    validate_parsed_serve_args(args)
    if args.tool_parser_plugin:
        ToolParserManager.import_tool_parser(args.tool_parser_plugin)
    if args.reasoning_parser_plugin:
        ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)
    if sockets is not None and args.kv_events_config is None:
        args.kv_events_config = KVEventsConfig(
            enable_kv_cache_events=True,
            endpoint=f"ipc://{sockets}/events",
            replay_endpoint=f"ipc://{sockets}/replay",
        )
    engine_args = AsyncEngineArgs.from_cli_args(args)
    usage = UsageContext.OPENAI_API_SERVER

    def stat_logger(vllm_config: Any, engine_index: int = 0) -> EngineSignals:
        lora = vllm_config.lora_config
        signals.adapter_slots = 0 if lora is None else int(lora.max_loras)
        return signals

    engine = AsyncLLM.from_vllm_config(
        vllm_config=engine_args.create_engine_config(usage_context=usage),
        usage_context=usage,
        # One engine a replica, so one owner of its counts. vLLM's Prometheus logger stays beside it.
        stat_loggers=[stat_logger],
        enable_log_requests=engine_args.enable_log_requests,
        disable_log_stats=engine_args.disable_log_stats,
    )
    return args, engine
