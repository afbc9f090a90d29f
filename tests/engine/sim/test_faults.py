"""Switches for faults on demand."""

import pytest

from pointsman.engine.sim.errors import RequestError
from pointsman.engine.sim.faults import Faults


def test_only_what_is_named_changes() -> None:
    """The others stand as they did."""
    faults = Faults(hang=True).updated(b'{"error_status": 500, "error_count": 2}')
    assert faults == Faults(hang=True, error_status=500, error_count=2)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"hangs": true}', b'{"hang": "yes"}', b'{"slowness": 0.5}'])
def test_what_is_no_switch_is_refused_with_those_there_are(body: bytes) -> None:
    """A test that misspells one must not pass for a healthy replica."""
    with pytest.raises(RequestError, match="health_hang"):
        Faults().updated(body)
