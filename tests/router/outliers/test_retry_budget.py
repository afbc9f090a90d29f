"""How many requests may be sent again."""

from pointsman.router.outliers.retry_budget import RetryBudget


def count(budget: RetryBudget, requests: int, retried: int) -> None:
    for number in range(requests):
        budget.count(retried=number < retried)


def test_a_fifth_of_the_requests_may_be_sent_again() -> None:
    """1,000 requests: 210 with the floor, and not one more."""
    budget = RetryBudget(share=0.2, floor=10)
    count(budget, 1000, 210)
    budget.step(0.0)
    assert not budget.exhausted
    budget.count(retried=True)
    budget.count(retried=True)
    assert budget.exhausted


def test_a_quiet_edge_may_send_a_few_again() -> None:
    """The floor: all of ten requests."""
    budget = RetryBudget()
    count(budget, 10, 10)
    assert not budget.exhausted


def test_the_budget_comes_back_with_time() -> None:
    """Retries of a while ago no longer count."""
    budget = RetryBudget(window_s=10.0)
    count(budget, 50, 50)
    assert budget.exhausted
    budget.step(1.0)
    budget.step(60.0)
    assert not budget.exhausted
