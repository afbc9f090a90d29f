"""Numbers of priority classes in engines."""

from __future__ import annotations

import pytest

from pointsman.contract.priority import ENGINE_PRIORITIES, engine_priority
from pointsman.policies.request import CLASS_NAMES, NORMAL, Priority


def test_each_class_has_a_number_and_the_higher_class_the_lower_one() -> None:
    """The names are those that the router tells; `normal` is not told and has vLLM's own default."""
    names = [name or "normal" for name in CLASS_NAMES]
    assert names == [priority.label for priority in Priority]
    numbers = [engine_priority(name) for name in names]
    assert numbers == sorted(ENGINE_PRIORITIES.values(), reverse=True)
    assert CLASS_NAMES[NORMAL] == ""
    assert engine_priority("") == engine_priority("no class") == 0


@pytest.mark.parametrize(("name", "asked", "number"), [("", -5, 0), ("", 5, 5), ("batch", 0, 20), ("high", -99, -10)])
def test_a_client_may_go_behind_its_class_and_not_before(name: str, asked: int, number: int) -> None:
    """What it asks for counts where it is the greater number."""
    assert engine_priority(name, asked) == number
