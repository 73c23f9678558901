-- The ledger of DES Fleet in PostgreSQL: the watermark, and what is planned, accepted and
-- committed around it. Every statement may be run again on a database that has it already.

-- The watermark. The user may have made this table already, perhaps with more columns; it is
-- used as it stands.
CREATE TABLE IF NOT EXISTS des_archive_config (
    id INTEGER PRIMARY KEY,
    archived_until TIMESTAMP WITH TIME ZONE NOT NULL,
    lag_days INTEGER NOT NULL
);

-- One row per job: the archive it fills, and where we last put the watermark ourselves.
CREATE TABLE IF NOT EXISTS des_archives (
    job TEXT PRIMARY KEY,
    config_id INTEGER NOT NULL UNIQUE,
    archive_id TEXT NOT NULL,
    n_bits SMALLINT NOT NULL,
    origin TIMESTAMPTZ NOT NULL,
    settled_until TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

-- One row per job: who may decide. Every change to a job locks this row first.
CREATE TABLE IF NOT EXISTS des_lease (
    job TEXT PRIMARY KEY,
    holder TEXT,
    epoch BIGINT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 10);

-- One row per pass over a window (window_start, window_end].
CREATE TABLE IF NOT EXISTS des_windows (
    job TEXT NOT NULL,
    window_end TIMESTAMPTZ NOT NULL,
    revision SMALLINT NOT NULL,
    window_start TIMESTAMPTZ NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('requested', 'open', 'held', 'committed')),
    row_count BIGINT NOT NULL,
    digest TEXT NOT NULL,
    replaces TEXT[] NOT NULL,
    files_archived BIGINT NOT NULL DEFAULT 0,
    files_failed BIGINT NOT NULL DEFAULT 0,
    shards BIGINT NOT NULL DEFAULT 0,
    bytes_raw BIGINT NOT NULL DEFAULT 0,
    bytes_stored BIGINT NOT NULL DEFAULT 0,
    certificate TEXT,
    committed_at TIMESTAMPTZ,
    PRIMARY KEY (job, window_end, revision),
    CHECK (window_start < window_end),
    CHECK ((state = 'committed') = (certificate IS NOT NULL))
) WITH (fillfactor = 70);

-- One row per partition of a pass: its manifest, its attempts, its accepted receipt. There is
-- room on each page for the update that accepting is, and no index on what it changes. No
-- foreign key either: it would lock and log the window's row for every partition.
CREATE TABLE IF NOT EXISTS des_partitions (
    job TEXT NOT NULL,
    window_end TIMESTAMPTZ NOT NULL,
    revision SMALLINT NOT NULL,
    partition INTEGER NOT NULL,
    manifest TEXT NOT NULL,
    manifest_size BIGINT NOT NULL,
    row_count BIGINT NOT NULL,
    digest TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    not_before TIMESTAMPTZ,
    trouble_class TEXT,
    trouble_detail TEXT,
    receipt TEXT,
    receipt_size BIGINT,
    files_failed BIGINT,
    PRIMARY KEY (job, window_end, revision, partition)
) WITH (fillfactor = 45);

-- Catalog rows that are not in the archive, and why.
CREATE TABLE IF NOT EXISTS des_migration_errors (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job TEXT NOT NULL,
    uid TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    file_location TEXT,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    window_end TIMESTAMPTZ NOT NULL,
    revision SMALLINT NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL,
    resolved_at TIMESTAMPTZ
);

CREATE INDEX IF NOT EXISTS des_migration_errors_unresolved
    ON des_migration_errors (job, window_end) WHERE resolved_at IS NULL;

-- What people and coordinators did. Rows are added and never changed.
CREATE TABLE IF NOT EXISTS des_audit_log (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at TIMESTAMPTZ NOT NULL,
    job TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    from_value TEXT,
    to_value TEXT,
    reason TEXT
);

CREATE OR REPLACE FUNCTION des_audit_log_is_append_only() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'des_audit_log is append-only: % is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;

DROP TRIGGER IF EXISTS des_audit_log_append_only ON des_audit_log;
CREATE TRIGGER des_audit_log_append_only
    BEFORE UPDATE OR DELETE OR TRUNCATE ON des_audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION des_audit_log_is_append_only();
