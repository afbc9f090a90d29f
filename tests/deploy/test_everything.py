"""No file under deploy/ that no test loads."""

from __future__ import annotations

from deploy_files import DEPLOY, ROOT

LOADED_BY = {
    "compose.yaml": "test_compose",
    "compose.env.example": "test_compose",
    ".gitignore": "test_compose",
    ".env": "nobody: secrets of whoever runs compose here",
    "containers": "test_containers, test_compose",
    "fleet": "test_fleet",
    "grafana": "test_grafana, test_live_queries, test_preview",
    "policies": "tests/policies/test_documents",
    "prometheus": "test_prometheus, test_live_queries",
    "systemd": "test_systemd",
}
"""What lies in deploy/ and the tests that load it."""


def test_everything_is_loaded() -> None:
    """A file added to deploy/ comes with its test; the files of each folder are named there or found by pattern."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.parent.name != "__pycache__":
            where = path.relative_to(DEPLOY)
            assert where.parts[0] in LOADED_BY, f"deploy/{where}: which test loads it?"
            found_by_pattern = where.parts[0] == "policies" or where.parts[:2] == ("grafana", "dashboards")
            assert found_by_pattern or path.stem in tests or path.name in tests, f"no test names {where}"
