"""tests/support/promql: the reader the tests of alerts and dashboards stand on."""

from __future__ import annotations

import pytest
from promql import fill_in, read


@pytest.mark.parametrize(
    ("text", "metrics", "grouping"),
    [
        pytest.param("up", {"up": set()}, set(), id="a metric"),
        pytest.param('up{job="a", x!~"}"} == 0', {"up": {"job", "x"}}, set(), id="matchers, a brace in a string"),
        pytest.param("sum by (edge, le) (rate(a_bucket[5m]))", {"a_bucket": set()}, {"edge", "le"}, id="by first"),
        pytest.param("sum(rate(a[$__rate_interval])) by (edge)", {"a": set()}, {"edge"}, id="by last"),
        pytest.param("a / on (x) group_left (y) b unless c", {"a": set(), "b": set(), "c": set()}, {"x", "y"}, id="on"),
        pytest.param('vllm:b_c{d=~"$e"} or 0 * vector(0)', {"vllm:b_c": {"d"}}, set(), id="colons, vector"),
        pytest.param("topk(3, x:y:z) / scalar(count(a))", {"x:y:z": set(), "a": set()}, set(), id="a recorded series"),
        pytest.param('a{x="1"} + a{y="2"}', {"a": {"x", "y"}}, set(), id="one metric twice"),
    ],
)
def test_names_metrics_and_labels(text: str, metrics: dict[str, set[str]], grouping: set[str]) -> None:
    """Functions, operators, numbers and strings are no metrics; labels are told from them."""
    expression = read(text)
    assert (expression.metrics, expression.grouping) == (metrics, grouping)


@pytest.mark.parametrize("text", ["up{job=", "sum by (edge", "up ~ 1"])
def test_refuses_what_it_cannot_read(text: str) -> None:
    """An expression cut off, or a character that is no PromQL, is an error and not a guess."""
    with pytest.raises(ValueError, match=r"no [})] after|not PromQL"):
        read(text)


def test_fills_in_grafanas_variables() -> None:
    """What is left can be asked of Prometheus."""
    assert fill_in('rate(a{edge=~"$edge", replica=~"$replica"}[$__rate_interval])') == (
        'rate(a{edge=~".*", replica=~".*"}[1m])'
    )
    assert fill_in('increase(a{model=~"$model", tenant=~"$tenant"}[$__range])', span="3h") == (
        'increase(a{model=~".*", tenant=~".*"}[3h])'
    )
