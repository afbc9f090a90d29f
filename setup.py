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
    "haproxy/spop/connection.py",
    "haproxy/spop/frames.py",
    "haproxy/spop/typed_data.py",
    "haproxy/spop/varint.py",
    "router/fronts/spop.py",
    "router/fronts/deciding.py",
    "router/features.py",
    "router/prefix_keys.py",
    "router/pipeline.py",
    "policies/load.py",
    "policies/ring.py",
    # ... what it reads and changes ...
    "router/state/backlog.py",
    "router/state/conversations.py",
    "router/state/key_tokens.py",
    "router/state/kv.py",
    "router/state/kv_columns.py",
    "router/state/kv_parts.py",
    "router/state/load.py",
    "router/state/mirrors.py",
    "router/state/prefill_times.py",
    "router/state/prefix_index.py",
    "router/state/sessions.py",
    "router/state/silence.py",
    "router/state/token_ratio.py",
    # ... and the end of its request.
    "router/fronts/ring.py",
    "router/histogram.py",
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
