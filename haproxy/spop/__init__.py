"""SPOP 2.0, the protocol of HAProxy's Stream Processing Offload Engine: an agent's codec without I/O.

The specification is `doc/SPOE.txt` of HAProxy, cited as "SPOE.txt" and a section. `SPOPConnection` is the way in.
"""

from pointsman.haproxy.spop.actions import (
    Action,
    Scope,
    SetVar,
    UnsetVar,
    encode_actions,
    encode_set_var,
    encode_set_vars,
    text_setter,
)
from pointsman.haproxy.spop.connection import SPOPConnection
from pointsman.haproxy.spop.errors import ProtocolError, SPOPError, Status, UsageError
from pointsman.haproxy.spop.events import Disconnected, Event, HealthCheck, HelloReceived, Message, Notify
from pointsman.haproxy.spop.frames import Limits
from pointsman.haproxy.spop.state import State
from pointsman.haproxy.spop.typed_data import Value, VariableValue

__all__ = [
    "Action",
    "Disconnected",
    "Event",
    "HealthCheck",
    "HelloReceived",
    "Limits",
    "Message",
    "Notify",
    "ProtocolError",
    "SPOPConnection",
    "SPOPError",
    "Scope",
    "SetVar",
    "State",
    "Status",
    "UnsetVar",
    "UsageError",
    "Value",
    "VariableValue",
    "encode_actions",
    "encode_set_var",
    "encode_set_vars",
    "text_setter",
]
