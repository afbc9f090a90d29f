"""Addresses of stores."""

import pytest

from pointsman.router.process.store_url import check_url, sentinels, without_password


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "rediss://u:p@h:6380/1",
        "unix:///run/valkey.sock",
        "redis+sentinel://a:26379,b/main",
        "redis+cluster://h:1",
    ],
)
def test_what_a_store_may_be_named(url: str) -> None:
    """One server, a socket, sentinels, a cluster."""
    check_url(url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("h:6379", "redis://"),
        ("http://h", "redis://"),
        ("redis://", "redis://"),
        ("redis://h:0", "port"),
        ("redis://h:99999", "[Pp]ort"),
        ("redis+sentinel://a:b/main", "HOST:PORT"),
    ],
)
def test_what_is_none_is_refused_with_what_is_expected(url: str, says: str) -> None:
    """Before anything is connected to."""
    with pytest.raises(ValueError, match=says):
        check_url(url)


def test_sentinels_have_a_usual_port() -> None:
    """26379 where none is named."""
    assert sentinels("redis+sentinel://u:p@a,b:1/main") == [("a", 26379), ("b", 1)]


def test_a_password_is_not_shown() -> None:
    """The rest of the address is."""
    assert without_password("redis://u:secret@h:1/0") == "redis://u:***@h:1/0"
    assert without_password("redis://h:1") == "redis://h:1"
