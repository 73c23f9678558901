-- The ledger of DES Fleet in SQLite: the watermark, and what is planned, accepted and committed
-- around it. Every statement may be run again on a database that has it already.
--
-- Times are whole microseconds since 1970-01-01T00:00:00Z, except where people look first:
-- des_archive_config.archived_until and des_migration_errors.created_at are RFC 3339 in UTC.

-- The watermark. The user may have made this table already, perhaps with more columns; it is
-- used as it stands.
CREATE TABLE IF NOT EXISTS des_archive_config (
    id INTEGER PRIMARY KEY,
    archived_until TEXT NOT NULL,
    lag_days INTEGER NOT NULL
);

-- One row per job: the archive it fills, and where we last put the watermark ourselves.
CREATE TABLE IF NOT EXISTS des_archives (
    job TEXT NOT NULL PRIMARY KEY,
    config_id INTEGER NOT NULL UNIQUE,
    archive_id TEXT NOT NULL,
    n_bits INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    settled_until INTEGER NOT NULL
) STRICT;

-- One row per job: who may decide. Every change to a job reads this row first.
CREATE TABLE IF NOT EXISTS des_lease (
    job TEXT NOT NULL PRIMARY KEY,
    holder TEXT,
    epoch INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

-- One row per pass over a window (window_start, window_end]. `replaces` is a JSON array.
CREATE TABLE IF NOT EXISTS des_windows (
    job TEXT NOT NULL,
    window_end INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    window_start INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('requested', 'open', 'held', 'committed')),
    row_count INTEGER NOT NULL,
    digest TEXT NOT NULL,
    replaces TEXT NOT NULL,
    files_archived INTEGER NOT NULL DEFAULT 0,
    files_failed INTEGER NOT NULL DEFAULT 0,
    shards INTEGER NOT NULL DEFAULT 0,
    bytes_raw INTEGER NOT NULL DEFAULT 0,
    bytes_stored INTEGER NOT NULL DEFAULT 0,
    certificate TEXT,
    committed_at INTEGER,
    PRIMARY KEY (job, window_end, revision),
    CHECK (window_start < window_end),
    CHECK ((state = 'committed') = (certificate IS NOT NULL))
) STRICT;

-- One row per partition of a pass: its manifest, its attempts, its accepted receipt.
CREATE TABLE IF NOT EXISTS des_partitions (
    job TEXT NOT NULL,
    window_end INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    partition INTEGER NOT NULL,
    manifest TEXT NOT NULL,
    manifest_size INTEGER NOT NULL,
    row_count INTEGER NOT NULL,
    digest TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    interruptions INTEGER NOT NULL DEFAULT 0,
    not_before INTEGER,
    trouble_class TEXT,
    trouble_detail TEXT,
    receipt TEXT,
    receipt_size INTEGER,
    files_failed INTEGER,
    PRIMARY KEY (job, window_end, revision, partition)
) STRICT;

-- Catalog rows that are not in the archive, and why.
CREATE TABLE IF NOT EXISTS des_migration_errors (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL,
    uid TEXT NOT NULL,
    created_at TEXT NOT NULL,
    file_location TEXT,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    window_end INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL,
    resolved_at INTEGER
) STRICT;

CREATE INDEX IF NOT EXISTS des_migration_errors_unresolved
    ON des_migration_errors (job, window_end) WHERE resolved_at IS NULL;

-- What people and coordinators did. Rows are added and never changed.
CREATE TABLE IF NOT EXISTS des_audit_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    job TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    from_value TEXT,
    to_value TEXT,
    reason TEXT
) STRICT;

CREATE TRIGGER IF NOT EXISTS des_audit_log_refuses_update BEFORE UPDATE ON des_audit_log
BEGIN
    SELECT RAISE(ABORT, 'des_audit_log is append-only: UPDATE is refused');
END;

CREATE TRIGGER IF NOT EXISTS des_audit_log_refuses_delete BEFORE DELETE ON des_audit_log
BEGIN
    SELECT RAISE(ABORT, 'des_audit_log is append-only: DELETE is refused');
END;
