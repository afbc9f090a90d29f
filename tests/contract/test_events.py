"""Messages of engines: what is refused where it enters."""

import msgspec
import pytest

from pointsman.contract.events import EngineEvents, Handoffs


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"stored": [2**64]}, id="a key of more than 64 bits"),
        pytest.param({"evicted": [2**64]}, id="a key of more than 64 bits that is evicted"),
        pytest.param({"stored": [-1]}, id="a key below zero"),
        pytest.param({"epoch": ""}, id="no epoch"),
        pytest.param({"seq": -1}, id="a number below zero"),
        pytest.param({"load": {"kv_usage": 1.5}}, id="more KV in use than there is"),
        pytest.param({"surprise": 1}, id="an unknown key"),
    ],
)
def test_a_message_out_of_bounds_is_refused(wrong: dict[str, object]) -> None:
    """Before anything of it counts."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"epoch": "e", "seq": 1} | wrong, EngineEvents)


def test_the_largest_key_is_taken() -> None:
    """All 64 bits."""
    assert msgspec.convert({"epoch": "e", "seq": 1, "stored": [2**64 - 1]}, EngineEvents).stored == [2**64 - 1]


def test_outcomes_of_handoffs_are_counts_alone() -> None:
    """The milliseconds they took are no outcome."""
    assert Handoffs(ok=2, lost=1, leg_ms=900).outcomes == {
        "ok": 2, "failed": 0, "refused": 0, "timeout": 0, "unsuitable": 0, "lost": 1
    }  # fmt: skip
