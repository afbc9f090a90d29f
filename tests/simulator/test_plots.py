"""A sweep drawn as SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import msgspec
import pytest

from pointsman.simulator.errors import ExperimentError
from pointsman.simulator.experiment import Outcome, Pace
from pointsman.simulator.measure import Counts, Served, Summary, summarise
from pointsman.simulator.plots import COLOURS, PANELS, as_svg

SVG = "{http://www.w3.org/2000/svg}"


def make_run(ttft_s: float) -> Summary:
    served = [Served(0, 0.0, ttft_s, ttft_s + 1.0, 100, 10, 50, 0)]
    return summarise(served, [100, 50], Counts(reasons={"kv-home": 1}))


def make_outcome(load: float | None, *ttfts_s: float, policies: tuple[str, ...] = ("a", "b<")) -> Outcome:
    by_seed = {policy: {seed: make_run(ttft_s) for seed, ttft_s in enumerate(ttfts_s)} for policy in policies}
    return Outcome(pace=Pace(load=load), sessions_per_s=load or 1.0, by_seed=by_seed)


def lines(svg: str) -> list[str]:
    """The paths of all means."""
    paths = ET.fromstring(svg).iter(f"{SVG}path")
    return [path.attrib["d"] for path in paths if path.get("fill") == "none"]


def test_each_panel_has_a_line_for_each_policy() -> None:
    """Names are escaped, and all points lie inside their panel."""
    svg = as_svg([make_outcome(0.3, 0.1, 0.2), make_outcome(1.0, 3.0, 60.0)])
    found = lines(svg)
    assert len(found) == 2 * len(PANELS)
    assert "b&lt;" in svg
    numbers = [float(number) for line in found for number in line.lstrip("M").split()]
    assert min(numbers) >= 0.0 and max(numbers[::2]) <= 400.0 and max(numbers[1::2]) <= 230.0


def test_more_is_higher() -> None:
    """A mean of 10 s is drawn above one of 0.1 s."""
    first, *_ = lines(as_svg([make_outcome(0.3, 0.1), make_outcome(1.0, 10.0)]))
    (_, low), (_, high) = (map(float, first.lstrip("M").split()[at : at + 2]) for at in (0, 2))
    assert high < low


def test_policies_beyond_the_colours_are_dashed() -> None:
    """Nine policies, eight colours."""
    names = tuple(f"p{number}" for number in range(len(COLOURS) + 1))
    assert "stroke-dasharray" in as_svg([make_outcome(load, 0.1, policies=names) for load in (0.3, 0.5)])


def test_equal_and_zero_values_have_an_axis() -> None:
    """Nothing differs, and nothing was ever waited for."""
    still = msgspec.structs.replace(make_run(0.0), hit_rate=0.0, goodput_per_s=0.0)
    outcomes = [Outcome(pace=Pace(load=load), sessions_per_s=1.0, by_seed={"a": {1: still}}) for load in (0.1, 0.2)]
    assert len(lines(as_svg(outcomes))) == len(PANELS)


def test_one_load_is_no_line() -> None:
    """Refused with what is expected."""
    with pytest.raises(ExperimentError, match="two or more loads"):
        as_svg([make_outcome(1.0, 0.1)])
