#!/bin/sh
# Runs what it is given. Containers of one service are its instances: each is named after its host, unless told.
set -eu
export WEFT_INSTANCE="${WEFT_INSTANCE:-${HOSTNAME:-1}}"
exec "$@"
