"""Client of the admin API for commands that people run: asks one router, and turns refusals into sentences.

`AdminClient` owns one connection. What always holds: an answer keeps the bytes that came, so that `--json` prints them
unchanged; a refusal is an `RefusedError` that carries the problem document; a router that cannot be asked at all is an
`UnaskableError` that says what to do next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from pointsman.admin_place import TOKEN_VARIABLE, URL_VARIABLE, Place
from pointsman.errors import StartError

TIMEOUT_S = 10.0
"""Time limit of connecting and of each pause in an answer."""

TRIAL_TIMEOUT_S = 120.0
"""Time limit of a question for which the router decides thousands of past requests anew."""

SILENCE_S = 45.0
"""Longest pause of a stream: routers show a sign of life every 15 s."""

NO_SUCH_PATH = ("Not Found", "no such path", "Method Not Allowed")
"""Beginnings of `detail` where the router does not have the operation at all."""

REVISION_HEADER = "x-pointsman-revision"

_ERRNO = re.compile(r"^\[Errno -?\d+\] ")

UNASKED = (401, 403)
"""Refusals of who asks, whatever the question is."""


class UnaskableError(StartError):
    """The router cannot be asked: the sentence says why, and what to do about it."""


class RefusedError(Exception):
    """The router answered that it will not, or that there is no such thing."""

    def __init__(self, sentence: str, status: int, body: bytes) -> None:
        """body: the problem document as it came."""
        super().__init__(sentence)
        self.status = status
        self.body = body


class MissingOperationError(UnaskableError):
    """The router is of a version without the operation."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the admin API."""

    status: int
    body: bytes
    etag: str = ""
    revision: str = ""
    """Number of the live policy's revision, where the router says it."""
    date: str = ""
    """The router's clock, in whole seconds as HTTP has it."""

    def json(self) -> Any:
        """The decoded body. Raises UnaskableError for a body that is no JSON."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise UnaskableError(f"the answer is no JSON: {error}") from None


class AdminClient:
    """Asks the router at one place."""

    def __init__(self, place: Place, *, timeout_s: float = TIMEOUT_S) -> None:
        """Make a client. Raises StartError for a wrong URL or file of authorities."""
        self.url = place.base_url
        self._has_token = bool(place.token)
        headers = {"authorization": f"Bearer {place.token}"} if place.token else {}
        try:
            self._http = httpx.Client(
                base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False, verify=place.verify()
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise UnaskableError(f"--admin: {place.url}: {error}") from None

    def __enter__(self) -> AdminClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; a read under way fails."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Answer:
        """Ask for something. Parameters that are None or empty are left out; errors as for `call`."""
        return self.call("GET", path, query=query)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        if_match: str = "",
        timeout_s: float | None = None,
        accepted: Container[int] = (),
    ) -> Answer:
        """Call one operation. Raises RefusedError, MissingOperationError or UnaskableError.

        body: what is sent as JSON; None for no body. if_match: ETag that the present version must have; empty: any.
        timeout_s: None for that of the client.
        accepted: statuses of 400 and above that are answers here, and no refusals.
        """
        extra: dict[str, Any] = {} if body is None else {"json": body}
        if timeout_s is not None:
            extra["timeout"] = timeout_s
        if if_match:
            extra["headers"] = {"if-match": if_match}
        try:
            answer = self._http.request(method, path, params=_given(query), **extra)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None
        if answer.status_code not in accepted:
            self._check(method, path, answer)
        said = answer.headers
        return Answer(
            answer.status_code,
            answer.content,
            etag=said.get("etag", ""),
            revision=said.get(REVISION_HEADER, ""),
            date=said.get("date", ""),
        )

    def follow(self, path: str, **query: Any) -> Iterator[bytes]:
        """Ask for a stream, and yield its JSON documents, one at a time, until the router ends it.

        A sign of life is yielded as empty bytes, the first when the stream is open. Raises as `call`; a stream that
        breaks off raises UnaskableError.
        """
        return self.lines(path, **(query | {"follow": True}))

    def lines(self, path: str, **query: Any) -> Iterator[bytes]:
        """Ask for an answer of many lines, and yield each as it comes. Raises as `follow`."""
        timeout = httpx.Timeout(TIMEOUT_S, read=SILENCE_S)
        try:
            with self._http.stream("GET", path, params=_given(query), timeout=timeout) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    self._check("GET", path, answer)
                for line in answer.iter_lines():
                    yield line.encode()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    def _check(self, method: str, path: str, answer: httpx.Response) -> None:
        """Raises for a refusal."""
        status = answer.status_code
        if status < 400:
            return
        detail = _detail(answer)
        if status in (404, 405) and detail.startswith(NO_SUCH_PATH):
            raise MissingOperationError(
                f"the router at {self.url} has no {method} {path.split('?')[0]}: it is of another version than this "
                "command (pointsman --version)"
            )
        if status == 401:
            raise UnaskableError(f"the router at {self.url} wants a token: {self._about_token()}")
        if status in UNASKED:
            raise UnaskableError(f"the router at {self.url} refuses: {detail}")
        if status >= 500 and answer.headers.get("content-type", "") != "application/problem+json":
            raise UnaskableError(f"--admin: {self.url}: answered {status}: {detail}")
        raise RefusedError(detail, status, answer.content)

    def _about_token(self) -> str:
        if self._has_token:
            return (
                f"that of --token or {TOKEN_VARIABLE} is wrong or no longer valid; `pointsman token create` makes one"
            )
        return f"set {TOKEN_VARIABLE}; `pointsman token create` makes a token"

    def _unreachable(self, error: Exception) -> UnaskableError:
        said = _ERRNO.sub("", str(error)) or type(error).__name__
        if isinstance(error, httpx.ConnectError) and "CERTIFICATE" in said:
            return UnaskableError(f"--admin: {self.url}: {said}: name the file of its authority with --ca")
        if isinstance(error, httpx.ConnectError):
            return UnaskableError(
                f"--admin: {self.url}: {said}; `pointsman up` starts an edge, --admin or {URL_VARIABLE} names another"
            )
        if isinstance(error, httpx.TimeoutException):
            return UnaskableError(f"--admin: {self.url}: no answer in time ({type(error).__name__})")
        return UnaskableError(f"--admin: {self.url}: no answer: {said}")


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="")


def _given(query: dict[str, Any] | None) -> dict[str, str]:
    """Query parameters that were given, as the API spells them."""
    given = {name: value for name, value in (query or {}).items() if value not in (None, "", False)}
    return {name: "true" if value is True else str(value) for name, value in given.items()}


def _detail(answer: httpx.Response) -> str:
    """The sentence of a problem document, or of an error as OpenAI's API has it; else the beginning of the body."""
    try:
        problem = json.loads(answer.content)
        if "detail" in problem:
            return str(problem["detail"])
        return str(problem["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text.strip()[:200] or answer.reason_phrase
