"""`python -m pointsman.engine.sim`: one simulated replica."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from pointsman.engine.sim.config import SimConfig
from pointsman.engine.sim.errors import SimConfigError
from pointsman.engine.sim.server import run


def main(
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: the OS picks one")] = 0,
    url: Annotated[str, typer.Option(help="how others reach it; default http://HOST:PORT")] = "",
    replica_id: str = "sim-0",
    model: str = "sim",
    kv_tokens: int = 524_288,
    block_size: int = 16,
    max_model_len: int = 131_072,
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = 8_192,
    timing: Annotated[str, typer.Option(help="dense-h100 or fast")] = "dense-h100",
    token_interval_ms: Annotated[float, typer.Option(help="fixed pace instead of the preset")] = 0.0,
    first_token_ms: float = 0.0,
    mean_output_tokens: int = 128,
    seed: int = 0,
    register: Annotated[list[str] | None, typer.Option(help="admin URL of a router; may be repeated")] = None,
    admin_token: str = "",
    heartbeat_s: float = 2.0,
    ttl_s: float = 10.0,
    echo: bool = False,
    faults: bool = False,
    drain_s: float = 30.0,
    keep_alive_s: float = 5.0,
) -> None:
    """Serve a simulated vLLM replica until SIGTERM or SIGINT."""
    settings = locals()  # The options have the names of the settings.
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        config = SimConfig(**(settings | {"register": tuple(register or ())}))
    except SimConfigError as error:
        raise typer.BadParameter(str(error)) from None
    run(config)


typer.run(main)
