"""The answers HAProxy gives by itself, as JSON in the shape OpenAI clients and vLLM use: `{"error": {...}}`.

A request that is not HTTP at all is the exception: HAProxy's parser answers it, with a page nobody can configure.
"""

from __future__ import annotations

import json


def _error_body(status: int, kind: str, message: str, param: str | None = None) -> str:
    error = {"message": message, "type": kind, "param": param, "code": status}
    return json.dumps({"error": error}, separators=(",", ":"))


def _error_bodies(*errors: tuple[int, str, str]) -> dict[int, str]:
    return {status: _error_body(status, kind, message) for status, kind, message in errors}


UNKNOWN_MODEL = (
    '{"error":{"message":"The model `%[var(txn.pm.model),json(utf8s)]` does not exist.",'
    '"type":"NotFoundError","param":"model","code":404}}'
)
"""Body of the answer to a model nobody serves, in vLLM's words, as a format of HAProxy's."""


FORBIDDEN_MODEL = (
    '{"error":{"message":"The API key may not use the model `%[var(txn.pm.model),json(utf8s)]`.",'
    '"type":"PermissionDeniedError","param":"model","code":403}}'
)
"""Body of the answer to a model that the API key may not ask for, as a format of HAProxy's."""

OVER_LIMIT = (
    '{"error":{"message":"Rate limit reached: %[var(txn.pm.limit),json(utf8s)]. '
    'Try again in %[var(txn.pm.retry_after)] s.","type":"RateLimitError","param":null,"code":"rate_limit_exceeded"}}'
)
"""Body of the answer to a request over a limit, with OpenAI's code, as a format of HAProxy's. The text of a limit may
have the name of a model, which may be any."""

RATE_HEADERS = tuple(
    (f"x-ratelimit-{part}-{unit}", first, first + at, "s" if part == "reset" else "")
    for first, unit in ((1, "requests"), (4, "tokens"))
    for at, part in enumerate(("limit", "remaining", "reset"))
)
"""OpenAI's headers about limits: the field of the variable `rates` that is empty without such a limit, the one that has
the value, and its unit."""


def no_model(header: str) -> str:
    """Body of the answer to a request whose model nothing tells, where several are served. `header` may name it; empty:
    none may."""
    advice = f", or name it in the header {header}" if header else ""
    return _error_body(
        400,
        "BadRequestError",
        "Several models are served here, and which one this request wants could not be read: "
        f"send `model` in front of the prompt{advice}.",
        "model",
    )


ERROR_BODIES = _error_bodies(
    (400, "Bad Request", "The request is not valid HTTP."),
    (401, "Unauthorized", "The API key is missing or not known."),
    (404, "Not Found", "This path is not served here."),
    (408, "Request Timeout", "The request did not arrive in time."),
    (413, "Request Entity Too Large", "The request body is larger than this service accepts."),
    (500, "Internal Server Error", "The edge failed to handle the request."),
    (502, "Bad Gateway", "The replica closed the connection without a valid answer."),
    (503, "Service Unavailable", "No replica is able to serve this request."),
    (504, "Gateway Timeout", "The replica did not answer in time."),
)
"""Bodies of the answers HAProxy gives itself."""

KEY_REFUSALS = _error_bodies(
    (401, "Unauthorized", "The API key is missing or not known."),
    (429, "Too Many Requests", "Too many requests without a known API key came from this address."),
    (503, "Service Unavailable", "API keys cannot be checked at the moment; try again."),
)
"""Bodies of the answers to requests without a known API key."""

REFUSALS = _error_bodies(
    (429, "Too Many Requests", "No capacity for this request; try again later."),
    (503, "Service Unavailable", "No capacity for this request; try again later."),
)
"""Bodies of the answers the router asks for by `status`."""
