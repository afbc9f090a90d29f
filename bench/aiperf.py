"""NVIDIA's `aiperf` as the client: it makes agentic sessions up and plays them against one address.

No dependency of ours: `find_aiperf` installs the pinned version into a virtual environment of its own, and says so.
Nothing is fetched while it runs: prompts are written with a tokenizer that is trained here on the text aiperf itself
takes words from, of about four bytes a token, which is what a simulated engine counts.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers import LAST_WORDS, PIP_INSTALL, PeerError, run, say

AIPERF_VERSION = "0.13.0"
WORKLOAD = Path(__file__).parent / "agentic_loop.json"
"""Sessions of an agent in a loop, as `aiperf synthesize agentic-code` takes them."""

BLOCK_TOKENS = json.loads(WORKLOAD.read_text())["block_size"]
"""Tokens one of a trace's `hash_ids` stands for."""

TOKENIZER = "bench/bpe"
SNAPSHOT = "0" * 40
VOCABULARY = 8192
SYNTHESIZE_S = 300.0

_TRAIN = """
import json, pathlib, sys
import aiperf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
folder, vocabulary = pathlib.Path(sys.argv[1]), int(sys.argv[2])
(words,) = pathlib.Path(aiperf.__file__).parent.rglob("shakespeare.txt")
tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
ends, alphabet = ["<s>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
tokenizer.train([str(words)], trainers.BpeTrainer(
    vocab_size=vocabulary, special_tokens=ends, initial_alphabet=alphabet, show_progress=False))
tokenizer.save(str(folder / "tokenizer.json"))
settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": ends[0], "eos_token": ends[1]}
(folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 1 << 20}))
"""


@dataclass(frozen=True)
class Answer:
    """One request, as the client saw it."""

    turn: int
    """From 0."""
    ttft_ms: float
    tpot_ms: float
    """NaN where there was one token or none."""
    prompt_tokens: int
    cached_tokens: int
    """As the engine said."""
    output_tokens: int


@dataclass(frozen=True)
class Played:
    """All answers to a trace, and when the first request began."""

    answers: list[Answer]
    errors: int
    first_ns: int
    """When the first request began, as `time.time_ns` has it."""
    last_ns: int
    """When the last answer ended."""


class Aiperf:
    """An installed aiperf, with a tokenizer it can load without a network."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self._program = folder / "bin" / "aiperf"
        self._python = folder / "bin" / "python"
        self._cache = cache

    def prepare(self) -> None:
        """Train the tokenizer, into the layout of a Hugging Face cache. Raises PeerError."""
        model = self._cache / "hub" / f"models--{TOKENIZER.replace('/', '--')}"
        snapshot = model / "snapshots" / SNAPSHOT
        snapshot.mkdir(parents=True, exist_ok=True)
        (model / "refs").mkdir(exist_ok=True)
        (model / "refs" / "main").write_text(SNAPSHOT)
        argv = [str(self._python), "-c", _TRAIN, str(snapshot), str(VOCABULARY)]
        run(argv, within_s=SYNTHESIZE_S)

    def synthesize(self, sessions: int, seed: int, folder: Path) -> Path:
        """A trace (Mooncake's JSON lines) of so many sessions of `WORKLOAD`. Raises PeerError."""
        argv = [str(self._program), "synthesize", "agentic-code", "--config", str(WORKLOAD)]
        argv += ["--num-sessions", str(sessions), "--seed", str(seed), "--output", str(folder)]
        said = run(argv, within_s=SYNTHESIZE_S, environment=self._environment())
        found = sorted(folder.rglob("dataset.jsonl"))
        if len(found) != 1:
            raise PeerError(f"`{' '.join(argv)}` wrote no trace: {said.strip()[-LAST_WORDS:]}")
        return found[0]

    async def play(self, trace: Path, port: int, *, model: str, concurrency: int, out: Path, within_s: float) -> Played:
        """All of a trace's sessions, `concurrency` at a time, each turn after the answer before and its pause.

        Raises PeerError when aiperf fails or takes too long.
        """
        turns, sessions = _count(trace)
        argv = [str(self._program), "profile", "--model", model, "--url", f"http://127.0.0.1:{port}"]
        argv += ["--endpoint-type", "chat", "--streaming", "--session-header", "x-session-id"]
        argv += ["--custom-dataset-type", "mooncake_trace", "--input-file", str(trace), "--no-fixed-schedule"]
        argv += ["--isl-block-size", str(BLOCK_TOKENS)]
        argv += ["--concurrency", str(concurrency), "--request-count", str(turns)]
        argv += ["--num-sessions", str(sessions)]
        argv += ["--tokenizer", TOKENIZER, "--use-server-token-count", "--extra-inputs", "ignore_eos:true"]
        argv += ["--random-seed", "1", "--no-gpu-telemetry", "--no-server-metrics", "--ui", "none"]
        argv += ["--output-artifact-dir", str(out)]
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **self._environment()}
        )
        try:
            async with asyncio.timeout(within_s):
                said, _ = await process.communicate()
        except TimeoutError:
            process.terminate()
            await process.wait()
            raise PeerError(f"aiperf did not play {trace} within {within_s:g} s") from None
        if process.returncode:
            words = said.decode(errors="replace")[-LAST_WORDS:]
            raise PeerError(f"aiperf ended with code {process.returncode}: {words}")
        return read_records(out / "profile_export.jsonl")

    def _environment(self) -> dict[str, str]:
        return {"HF_HOME": str(self._cache), "HF_HUB_OFFLINE": "1"}


def _count(trace: Path) -> tuple[int, int]:
    """Turns and sessions."""
    lines = trace.read_text().splitlines()
    return len(lines), len({json.loads(line)["session_id"] for line in lines})


def read_records(file: Path) -> Played:
    """Requests out of aiperf's `profile_export.jsonl`. Raises PeerError when there are none."""
    records: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    if not records:
        raise PeerError(f"aiperf wrote no request to {file}")
    answers, errors = [], 0
    for record in records:
        metrics = record.get("metrics") or {}
        if record.get("error") or "time_to_first_token" not in metrics:
            errors += 1
            continue

        def said(name: str, otherwise: float = 0.0, metrics: dict[str, Any] = metrics) -> float:
            return float(metrics[name]["value"]) if name in metrics else otherwise

        answers.append(
            Answer(
                turn=record["metadata"]["turn_index"],
                ttft_ms=said("time_to_first_token"),
                tpot_ms=said("inter_token_latency", float("nan")),
                prompt_tokens=int(said("usage_prompt_tokens")),
                cached_tokens=int(said("usage_prompt_cache_read_tokens")),
                output_tokens=int(said("usage_completion_tokens")),
            )
        )
    began_ns = min(record["metadata"]["request_start_ns"] for record in records)
    ended_ns = max(record["metadata"]["request_end_ns"] for record in records)
    return Played(answers, errors, began_ns, ended_ns)


def find_aiperf(cache: Path) -> Aiperf:
    """The pinned aiperf, installed if it is not. Raises PeerError."""
    folder = Path(sys.prefix) / "peers" / f"aiperf-{AIPERF_VERSION}"
    if not (folder / "bin" / "aiperf").exists():
        requirement = f"aiperf=={AIPERF_VERSION}"
        say(f"installing {requirement} into {folder} (1.2 GB, used by this bench only)")
        run([sys.executable, "-m", "venv", str(folder)])
        run([str(folder / "bin" / "python"), *PIP_INSTALL[1:], requirement])
    aiperf = Aiperf(folder, cache)
    aiperf.prepare()
    return aiperf
