#!/bin/sh
# Renders the edge's configuration, then becomes HAProxy: usage, `run-haproxy EDGE.YAML [FOLDER [STATE.JSON]]`.
# Rendering at each start is what makes a restart of the container apply a changed file. The router's state file names the
# replicas HAProxy starts with; without one it starts with none, and the router adds them.
set -eu
config=$1
folder=${2:-/run/pointsman}
state=${3:-/var/lib/pointsman/state.json}
pointsman haproxy render --config "$config" --state "$state" --out "$folder/haproxy" >&2
exec haproxy -W -S "$folder/master.sock,mode,600" -f "$folder/haproxy/haproxy.cfg"
