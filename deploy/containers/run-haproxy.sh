#!/bin/sh
# Renders the edge's configuration, then becomes HAProxy: usage, `run-haproxy EDGE.YAML [FOLDER]`.
# Rendering at each start is what makes a restart of the container apply a changed file.
set -eu
config=$1
folder=${2:-/run/pointsman}
pointsman haproxy render --config "$config" --out "$folder/haproxy" >&2
exec haproxy -W -S "$folder/master.sock,mode,600" -f "$folder/haproxy/haproxy.cfg"
