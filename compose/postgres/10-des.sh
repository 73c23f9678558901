#!/bin/sh
# Runs once, when PostgreSQL makes its data directory: a database, the application whose table is
# archived, and des's two roles, with the privileges of docs/security.md and no others.
set -eu
: "${APP_PASSWORD:?}" "${DES_READER_PASSWORD:?}" "${DES_LEDGER_PASSWORD:?}"
psql -X -q -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d postgres \
    -v app="$APP_PASSWORD" -v reader="$DES_READER_PASSWORD" -v ledger="$DES_LEDGER_PASSWORD" <<'SQL'
CREATE ROLE app LOGIN PASSWORD :'app';
CREATE ROLE des_reader LOGIN PASSWORD :'reader';
CREATE ROLE des_ledger LOGIN PASSWORD :'ledger';
CREATE DATABASE files OWNER app;
REVOKE ALL ON DATABASE files FROM PUBLIC;
GRANT CONNECT ON DATABASE files TO des_reader, des_ledger;
ALTER ROLE des_reader SET statement_timeout = 0;
ALTER ROLE des_ledger SET search_path = des;
\connect files
GRANT ALL ON SCHEMA public TO app;
-- The table of files is not there yet, and may be made anew.
ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA public GRANT SELECT ON TABLES TO des_reader;
CREATE SCHEMA des AUTHORIZATION des_ledger;
SQL
