"""Query parameters that are booleans."""

from __future__ import annotations

from starlette.requests import Request

from pointsman.contract.http_api import unfit

FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
"""Values of a query parameter that is a boolean."""


def flag(request: Request, name: str) -> bool:
    """A boolean query parameter, false where it is absent. Raises HTTPException (422) for any other value: a flag that
    is misspelt must not count as false."""
    value = request.query_params.get(name)
    if value is None:
        return False
    if value.lower() not in FLAGS:
        raise unfit(name, value, f"one of {', '.join(FLAGS)}")
    return FLAGS[value.lower()]
