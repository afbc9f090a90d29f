"""Mirrors of endpoints that tell nothing: what they take in and push out is in the index."""

from __future__ import annotations

from residency import holds

from pointsman.contract.prefix_keys import BOUNDARIES
from pointsman.policies.candidates import NOTHING_RESIDENT
from pointsman.router.kv.mirrors import ANSWER_TOKENS, Mirrors
from pointsman.router.kv.parts import Prompt
from pointsman.router.kv.prefix_index import PrefixIndex

KEYS = (11, 12, 13, 14)
TOKENS = BOUNDARIES[len(KEYS) - 1] // 4


def make_prompt() -> Prompt:
    return Prompt(TOKENS, (), NOTHING_RESIDENT, None, TOKENS)


def make_mirrors(*sizes: int) -> tuple[Mirrors, PrefixIndex]:
    """One slot a size, each mirrored."""
    index = PrefixIndex()
    mirrors = Mirrors(index)
    for slot, size in enumerate(sizes):
        index.add_slot(slot)
        mirrors.sized(slot, size)
    return mirrors, index


def held(index: PrefixIndex, slot: int) -> list[int]:
    return [key for key in KEYS if holds(index, slot, key)]


def test_what_is_sent_there_is_held_there() -> None:
    """All of a prompt's keys, and on no other slot."""
    mirrors, index = make_mirrors(100_000, 100_000)
    assert mirrors.enter(0, KEYS, 0, make_prompt())
    assert (held(index, 0), held(index, 1)) == (list(KEYS), [])


def test_a_prompt_larger_than_the_cache_loses_its_end() -> None:
    """Its answer goes with the last key: there is room for two keys of four."""
    mirrors, index = make_mirrors(TOKENS // 2)
    mirrors.enter(0, KEYS, 0, make_prompt())
    assert held(index, 0) == [11, 12]


def test_a_cache_that_shrinks_pushes_out_what_no_longer_fits() -> None:
    """What the endpoint says of its size counts at once."""
    mirrors, index = make_mirrors(TOKENS + ANSWER_TOKENS)
    mirrors.enter(0, KEYS, 0, make_prompt())
    mirrors.sized(0, TOKENS // 4)
    assert held(index, 0) == [11]


def test_a_slot_without_a_mirror_is_left_to_others() -> None:
    """Its engine tells for itself, or its size is not known."""
    mirrors, index = make_mirrors(100_000)
    assert mirrors.drop(0)
    assert not mirrors.enter(0, KEYS, 0, make_prompt()) and not mirrors.drop(0)
    mirrors.hit(0, 1000)
    mirrors.restarted(0)
    assert not mirrors._mirrors and held(index, 0) == []


def test_an_endpoint_that_began_again_has_room_for_all_of_the_next_prompt() -> None:
    """The mirror is as empty as its cache; the index forgets by itself."""
    mirrors, index = make_mirrors(TOKENS + ANSWER_TOKENS)
    mirrors.enter(0, (1, 2, 3, 4), 0, make_prompt())
    mirrors.restarted(0)
    index.forget(0)
    mirrors.enter(0, KEYS, 0, make_prompt())
    assert held(index, 0) == list(KEYS) and 0 in mirrors._mirrors
