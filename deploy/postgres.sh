#!/bin/sh
# PostgreSQL of the compose file: makes its cluster and two databases when the volume is new, then serves on 127.0.0.1.
set -eu
bin=/usr/lib/postgresql/15/bin
data=/var/lib/postgresql/data/cluster
if [ ! -e "$data/ready" ]; then
  rm -rf "$data" # of a first start that was interrupted: nothing was ever served from it
  secret=$(mktemp)
  printf '%s' "${POSTGRES_PASSWORD:?set POSTGRES_PASSWORD}" >"$secret"
  "$bin/initdb" --pgdata="$data" --username=formulamine --pwfile="$secret" --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
  rm "$secret"
  for database in dagster ledger; do
    echo "CREATE DATABASE $database;" | "$bin/postgres" --single -D "$data" postgres
  done
  touch "$data/ready"
fi
exec "$bin/postgres" -D "$data" -c listen_addresses=127.0.0.1 -c port="${POSTGRES_PORT:-5432}" -c unix_socket_directories=/run/postgresql
