"""Whether what tracing needs is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pointsman.router.process import tracing_settings


def test_the_extra_is_looked_for_without_importing_it() -> None:
    """The check runs at every start with an endpoint; the SDK is imported once that is known to be meant."""
    code = (
        "import sys; from pointsman.router.process.tracing_settings import has_exporter; assert has_exporter(); "
        "sys.exit('opentelemetry.sdk.trace' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"])
def test_a_package_that_is_not_there_is_noticed(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Whether it or a package above it is missing."""

    def find(name: str) -> object | None:
        if name == missing:
            return None
        if name.startswith(f"{missing}."):
            raise ModuleNotFoundError(missing)
        return object()

    monkeypatch.setattr(tracing_settings, "find_spec", find)
    assert not tracing_settings.has_exporter()
