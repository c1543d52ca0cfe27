#!/bin/sh
# The folder is found from here, so that an unpacked package runs as well.
exec /usr/bin/python3 -I "$(dirname "$(readlink -f "$0")")/../lib/peerllm" "$@"
