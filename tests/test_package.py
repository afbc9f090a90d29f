"""The import packages load."""

import policies.base
import policies.types


def test_contract_modules_import() -> None:
    """The two contract modules need nothing but their declared libraries."""
    assert policies.base.Needs.NOTHING.value == 0
    assert policies.types.NO_SLOT == -1
