#!/bin/sh
# Starts a NATS server with nats.conf beside this script, and with the user and the password of the URL by which
# services find it, so that these are in one place.
set -eu

url=$(cat "${SECRETS:-/run/secrets}/nats_url") # nats://USER:PASSWORD@HOST:PORT
account=${url#*://}
account=${account%@*}
NATS_USER=${account%%:*}
# Quoted, for a password of digits is not a number.
NATS_PASSWORD="\"${account#*:}\""
export NATS_USER NATS_PASSWORD
exec nats-server --config "$(dirname "$0")/nats.conf"
