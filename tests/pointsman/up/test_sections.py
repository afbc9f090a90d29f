"""The file of `pointsman up --config`: every section is checked before anything starts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pointsman.contract.errors import ConfigurationError
from pointsman.up.plan import UpOptions, plan_edges
from pointsman.up.sections import UpFile, check_sections, read_file, router_section

ADMIN = {"host": "127.0.0.1", "port": 0}


@pytest.mark.parametrize(
    ("text", "engine", "says"),
    [
        ("router: {polcy: kv_cost}", "sim", "router.polcy: unknown key (did you mean 'policy'?)"),
        ("router: {limits: {max_replicas: -3}}", "sim", "router.limits.max_replicas: got -3, expected an integer"),
        ("router: {policy: {policy: kv_cots}}", "sim", "router.policy.policy: got 'kv_cots', expected one of"),
        ("haproxy: {threds: 1}", "sim", "haproxy.threds: unknown key (did you mean 'threads'?)"),
        ("haproxy: {timeouts: {server_s: -1}}", "sim", "haproxy.timeouts.server_s: got -1"),
        ("engine: {step: 3}", "sim", "engine.step: unknown key, expected one of the keys host"),
        ("engine: {kv_tokens: many}", "sim", "engine.kv_tokens: got 'many'"),
        ("engine: {modle: x}", "vllm", "engine.modle: unknown key (did you mean 'model'?)"),
        ("engine: {pools: [{name: a, modle: x}]}", "vllm", "engine.pools[0].modle: unknown key"),
    ],
)
def test_a_mistake_is_named_by_file_section_and_key(tmp_path: Path, text: str, engine: str, says: str) -> None:
    """In any section, whichever process would have read it."""
    path = tmp_path / "up.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refused:
        check_sections(path, read_file(path), admin=ADMIN, engine=engine)
    assert str(refused.value).startswith(f"{path}: {says}")


def test_a_mistake_is_found_before_a_port_or_a_folder_is_taken(tmp_path: Path) -> None:
    """A port that is taken hides no mistake, and nothing is left behind."""
    path, folder = tmp_path / "up.yaml", tmp_path / "run"
    path.write_text("engine: {stepp_ms: 3}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=r"engine\.stepp_ms: unknown key"):
            plan_edges(UpOptions(listen=listen, config=path, run_dir=folder))
    assert not folder.exists()


def test_a_policy_of_the_command_line_is_named_by_its_flag() -> None:
    """And not by the router's settings, where it ends up."""
    with pytest.raises(ConfigurationError, match=r"^--policy: tie: unknown key \(did you mean 'tie_ms'\?\)"):
        plan_edges(UpOptions(policy={"policy": "kv_cost", "tie": 3}))


def test_an_unknown_section_names_the_sections(tmp_path: Path) -> None:
    """And the nearest one."""
    path = tmp_path / "up.yaml"
    path.write_text("rooter: {}")
    with pytest.raises(ConfigurationError, match=r"rooter: unknown key \(did you mean 'router'\?\)"):
        read_file(path)


def test_all_sections_may_be_empty() -> None:
    """Without a file, and with one that says nothing."""
    check_sections(None, UpFile(), admin=ADMIN, engine="sim")
    check_sections(None, read_file(None), admin=ADMIN, engine="vllm")


def test_what_up_chooses_itself_is_left_out_of_the_routers_section() -> None:
    """Sockets to HAProxy, and options that HAProxy's section has."""
    section = router_section(
        UpFile(router={"spop": {"port": 1}, "edge": {"interval_s": 2, "server_options": {"x": 1}}, "seed": 1})
    )
    assert section == {"edge": {"interval_s": 2, "server_options": None}, "seed": 1}
