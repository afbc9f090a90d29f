"""Long lists, encoded in parts."""

import json

from msgspec import UNSET

from pointsman.router.fronts.api.lists import JSONList


def test_parts_make_one_list() -> None:
    """Whatever their lengths, and with members beside the list."""
    listed = JSONList()
    listed.add([{"id": "a"}])
    listed.add([])
    listed.add([{"id": 'b"]'}, {"id": "c"}])
    answer = listed.answer("replicas", next=None, count=3, cursor=UNSET)
    assert json.loads(bytes(answer.body)) == {
        "replicas": [{"id": "a"}, {"id": 'b"]'}, {"id": "c"}], "next": None, "count": 3
    }  # fmt: skip
    assert answer.headers["content-type"] == "application/json"


def test_a_list_without_items_is_empty() -> None:
    """And still a list."""
    assert JSONList().answer("replicas").body == b'{"replicas":[]}'
