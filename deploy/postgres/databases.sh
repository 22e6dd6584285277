#!/bin/sh
# Makes a database for each service, and a role that owns it, reaches no other, and may make none. The image runs this
# once, when it makes its data folder. Names and passwords are those of the services' own URLs, so each is in one place.
set -e

run_sql() {
  psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres
}

for file in "${SECRETS:-/run/secrets}"/*_database_url; do
  url=$(cat "$file") # postgresql://ROLE:PASSWORD@HOST/DATABASE
  account=${url#*://}
  account=${account%@*}
  # In the environment, for anybody can read arguments.
  ROLE=${account%%:*} PASSWORD=${account#*:} DATABASE=${url##*/} run_sql <<'SQL'
\getenv role ROLE
\getenv password PASSWORD
\getenv database DATABASE
CREATE ROLE :"role" LOGIN PASSWORD :'password';
CREATE DATABASE :"database" OWNER :"role";
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
SQL
done

echo 'REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC' | run_sql
