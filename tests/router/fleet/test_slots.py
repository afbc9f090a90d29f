"""How tables indexed by slot grow."""

from pointsman.router.fleet.slots import INITIAL_SLOTS, grown


def test_a_table_that_has_the_slot_stays() -> None:
    """No copy is made."""
    assert grown(INITIAL_SLOTS, INITIAL_SLOTS - 1) == INITIAL_SLOTS


def test_a_table_doubles_or_reaches_the_slot() -> None:
    """Whichever is more, so that tables asked for the same slots are equally long."""
    assert grown(64, 64) == 128
    assert grown(64, 900) == 901
