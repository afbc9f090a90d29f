"""The last health check of a server: what a row of `show stat` says of it."""

from golden import HAPROXY

from pointsman.haproxy.last_check import COLUMNS, NO_CHECK, CheckColumns, CheckRow, LastCheck
from pointsman.haproxy.runtime_api import parse_stat

CAPTURED = (HAPROXY / "haproxy-2.8.25-runtime-api.txt").read_text()

WHERE = CheckColumns.among(COLUMNS)


def test_the_check_of_a_server_is_read_from_its_row() -> None:
    """As HAProxy 2.8.25 wrote it: one server answered its check with 200, one refused the connection."""
    well, refused = (stat.check.read() for stat in parse_stat(CAPTURED.split("\n> ")[4].strip("\n"))[:2])
    assert well == LastCheck("L7OK", 200, 3, "Layer7 check passed", "")
    assert refused == LastCheck("L4CON", 0, 0, "Layer4 connection problem", "Connection refused")
    assert well is not None and well.detail == "Layer7 check passed, code 200"
    assert refused is not None and refused.detail == "Layer4 connection problem: Connection refused"


def test_a_server_that_was_never_checked_has_no_last_check() -> None:
    """Before its first check ended, and where nobody checks it."""
    assert NO_CHECK.read() is None
    assert all(CheckRow(WHERE, f"{word},,,,").read() is None for word in ("", "INI", "UNK", "* INI"))


def test_a_check_that_runs_leaves_the_result_of_the_one_before() -> None:
    """HAProxy puts a star before it."""
    read = CheckRow(WHERE, "* L7STS,404,12,,Layer7 wrong status").read()
    assert read == LastCheck("L7STS", 404, 12, "Layer7 wrong status", "")


def test_texts_of_servers_may_hold_commas_and_quotes() -> None:
    """They are quoted as in CSV."""
    read = CheckRow(WHERE, '* L7STS,503,12,"Busy, ""really""",Layer7 wrong status').read()
    assert read is not None and read.detail == 'Layer7 wrong status, code 503: Busy, "really"'


def test_a_row_of_another_form_is_no_error() -> None:
    """A column that is missing, and numbers that are none, are as good as unknown."""
    assert CheckRow(CheckColumns.among(("check_status", "check_code")), "L4OK").read() == LastCheck(
        "L4OK", 0, -1, "", ""
    )
    assert CheckRow(WHERE, "L7STS,x,-3,,").read() == LastCheck("L7STS", 0, -1, "", "")
