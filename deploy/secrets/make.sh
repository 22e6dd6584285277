#!/bin/sh
# Makes the secrets that docker-compose.yml needs, beside this script, each at random. What is there already stays:
# databases keep the password that they were made with. Nothing of it is printed; the admin's is in admin.json.
#
#   deploy/secrets/make.sh                       # the admin is admin@weft.example
#   deploy/secrets/make.sh me@shop.example
set -eu
email="${1:-admin@weft.example}"
cd "$(dirname "$0")"

# Containers run as other users than the one who makes these, and must be able to read them. On this machine the
# folder keeps others out.
chmod 700 .
umask 022

random() {
  head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

keep() { # NAME CONTENT
  if [ ! -s "$1" ]; then
    printf '%s\n' "$2" > "$1"
    echo "made deploy/secrets/$1"
  fi
}

keep nats_url "nats://weft:$(random)@nats:4222"
keep postgres_password "$(random)"
for service in user product order payment inventory shipping; do
  keep "${service}_database_url" "postgresql://$service:$(random)@postgres:5432/$service"
done
keep admin.json "{\"email\": \"$email\", \"password\": \"$(random)\"}"
