"""Which release this is. Leaf module."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def product_version() -> str:
    """As installed; `0+unknown` from a tree that is not."""
    try:
        return version("pointsman")
    except PackageNotFoundError:
        return "0+unknown"
