#!/usr/bin/env python3
"""Whether a port of this container answers 200: `answers PORT PATH` exits 0 or 1. Health checks of slim images."""

import sys
from http.client import HTTPConnection, HTTPException

TIMEOUT_S = 2.0


def answers(port: int, path: str) -> bool:
    """True when `GET path` on loopback gives 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(not answers(int(sys.argv[1]), sys.argv[2]))
