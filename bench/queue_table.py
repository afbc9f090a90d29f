"""The table of `bench.queueing`: what each scene measured, in words."""

from __future__ import annotations

from typing import Any

from bench.report import Table

Rows = list[list[str]]


def queue_table(figures: dict[str, Any]) -> Table:
    """The scenes that were played."""
    rows: Rows = []
    for scene, rows_of in (
        ("fairness", _fair),
        ("shares", _shares),
        ("classes", _classes),
        ("batch", _batch),
        ("batch of a fleet", _batch),
        ("waiting", _waiting),
    ):
        if scene in figures:
            rows += rows_of(figures[scene])
    for event in ("router killed", "reload"):
        if event in figures:
            rows.append(_broken(event, figures[event]))
    return Table("Requests that wait at the edge", ["what", "measured"], rows)


def _fair(fair: dict[str, Any]) -> Rows:
    modest, greedy = fair["ttft_ms"]["modest"], fair["ttft_ms"]["greedy"]
    return [
        ["offered, of what can be served", f"{fair['offered']:.2f}"],
        [
            "nine tenants within their shares: answered while load lasted",
            f"{fair['modest_served']} of {fair['modest_asked']}",
        ],
        ["their TTFT p50 / p99, ms", f"{modest[0]:.0f} / {modest[1]:.0f}"],
        [
            "one at ten times its share: answered while load lasted",
            f"{fair['greedy_served']} of {fair['greedy_asked']}",
        ],
        ["its TTFT p50 / p99, ms", f"{greedy[0]:.0f} / {greedy[1]:.0f}"],
    ]


def _shares(shares: dict[str, Any]) -> Rows:
    said = ", ".join(f"{of:.3f}" for of in shares["of_share"].values())
    return [["tokens served, of the shares by weights 1, 2 and 4", said]]


def _classes(classes: dict[str, Any]) -> Rows:
    said = f"{classes['out_of_order']} of {classes['requests']}"
    return [["requests of three classes that went out of order", said]]


def _batch(batch: dict[str, Any]) -> Rows:
    alone, beside = batch["online_ttft_ms"]["alone"], batch["online_ttft_ms"]["beside"]
    return [
        [f"{batch['replicas']} replicas: online TTFT p50 / p99 alone, ms", f"{alone[0]:.0f} / {alone[1]:.0f}"],
        ["online TTFT p50 / p99 beside a batch, ms", f"{beside[0]:.0f} / {beside[1]:.0f}"],
        [
            "the latter over the former, median of rounds: p50 / p90 / p99",
            " / ".join(f"{ratio:.2f}" for ratio in batch["ratios"]),
        ],
        [f"batch requests served in {batch['batch_s']:.0f} s", str(batch["batch_served"])],
        ["KV in use alone / beside a batch", f"{batch['kv_use']['alone']:.1%} / {batch['kv_use']['beside']:.1%}"],
    ]


def _waiting(many: dict[str, Any]) -> Rows:
    memory, cpu = many["bytes_a_request"], many["cpu_s_a_second"]
    return [
        ["requests that wait", str(many["held"])],
        ["memory of each: router / HAProxy, KB", f"{memory['router'] / 1000:.0f} / {memory['haproxy'] / 1000:.0f}"],
        ["CPU while they wait: router / HAProxy", f"{cpu['router']:.1%} / {cpu['haproxy']:.1%}"],
        [
            "clients that left / the last of them noticed after, s",
            f"{many['left']} / {many['all_noticed_after_s']:.1f}",
        ],
        ["served out of order of the others", f"{many['out_of_order']} of {many['served']}"],
    ]


def _broken(event: str, of: dict[str, Any]) -> list[str]:
    said = ", ".join(f"{count} x {answer}" for answer, count in of["answers"].items())
    return [f"{event} while they wait: answers; the last after, s", f"{said}; {of['last_answer_after_s']:.1f}"]
