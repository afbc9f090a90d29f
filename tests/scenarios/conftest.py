"""`pytest tests/scenarios --rewrite` writes the answers that came into the stories; a person reads the diff."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write the answers that come into the stories")
