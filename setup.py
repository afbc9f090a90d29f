"""The build. With `POINTSMAN_COMPILE=1` the request path is compiled (mypyc), from the same sources:

    POINTSMAN_COMPILE=1 pip install .

needs a C compiler and Python's headers, and takes a minute. A lookup then takes the router about half the CPU. What is
compiled behaves as what is not: the same tests run against both (`make test-compiled`). Never compile in place: where a
module has been compiled, Python no longer looks at its source.
"""

import os
import sys
import tomllib
from pathlib import Path

from setuptools import setup

COMPILED = [
    # From the bytes of a lookup to those of its answer ...
    "pointsman/haproxy/spop/actions.py",
    "pointsman/haproxy/spop/connection.py",
    "pointsman/haproxy/spop/frames.py",
    "pointsman/haproxy/spop/typed_data.py",
    "pointsman/haproxy/spop/varint.py",
    "pointsman/router/fronts/spop.py",
    "pointsman/router/fronts/deciding.py",
    "pointsman/router/decide/features.py",
    "pointsman/contract/prefix_keys.py",
    "pointsman/router/decide/considered.py",
    "pointsman/router/decide/limited.py",
    "pointsman/router/decide/pipeline.py",
    "pointsman/policies/lib/load.py",
    "pointsman/policies/lib/ring.py",
    # ... what it reads and changes ...
    "pointsman/router/kv/prefill_backlog.py",
    "pointsman/router/kv/conversations.py",
    "pointsman/router/kv/key_tokens.py",
    "pointsman/router/kv/state.py",
    "pointsman/router/kv/columns.py",
    "pointsman/router/kv/parts.py",
    "pointsman/router/fleet/load.py",
    "pointsman/router/kv/mirrors.py",
    "pointsman/router/kv/prefill_times.py",
    "pointsman/router/kv/prefix_index.py",
    "pointsman/router/fleet/sessions.py",
    "pointsman/router/kv/idle_timeout.py",
    "pointsman/router/kv/token_ratio.py",
    "pointsman/router/tenancy/account.py",
    "pointsman/router/tenancy/allowance.py",
    "pointsman/router/tenancy/limits.py",
    # ... and the end of its request.
    "pointsman/router/fronts/ring.py",
    "pointsman/router/requests/end_of_request.py",
    "pointsman/router/requests/ended.py",
    "pointsman/router/requests/outcomes.py",
    "pointsman/router/requests/request.py",
    "pointsman/router/requests/table.py",
    "pointsman/router/requests/usage_meter.py",
    "pointsman/router/requests/usage_rows.py",
    "pointsman/router/tenancy/usage.py",
    "pointsman/router/counts/histogram.py",
]
"""Not among them: modules of plain data, whose structs are compiled code already, and what policies from outside derive
from, since a class that was compiled cannot be derived from by one that was not."""

STUBS = ["types-PyYAML"]
"""Types that the checker asks for on its way through what is compiled."""


def build_requirements() -> list[str]:
    """What has to be there to compile: the compiler, and all the sources import, whose types it looks at."""
    project = tomllib.loads((Path(__file__).parent / "pyproject.toml").read_text())["project"]
    return ["mypy>=1.14", *STUBS, *project["dependencies"]]


if os.environ.get("POINTSMAN_COMPILE") != "1":
    setup()
else:
    try:
        from mypyc.build import mypycify
    except ImportError:
        # A build frontend asks first what to install.
        if "egg_info" not in sys.argv:
            sys.exit("POINTSMAN_COMPILE=1 needs mypy; a build without isolation has to install it before")
        setup(setup_requires=build_requirements())
    else:
        setup(setup_requires=build_requirements(), ext_modules=mypycify(COMPILED, opt_level="2"))
