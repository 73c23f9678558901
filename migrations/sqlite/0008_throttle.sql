-- Throttles that operators set, and what a leader waits for. SQLite cannot add a column "if it is not
-- there": run a second time by hand, this ends with `duplicate column name`.

-- One row per job that an operator throttled, and one named * for all jobs of this ledger, until it
-- is taken back; what came before stands in des_audit_log. NULL: as configured; 0 or '': no limit.
CREATE TABLE IF NOT EXISTS des_throttles (
    job TEXT NOT NULL PRIMARY KEY,
    set_at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    files_per_second INTEGER,
    bytes_per_second INTEGER,
    not_between TEXT
) STRICT;

-- What whoever leads waits for at an operator's wish, since when and why; NULL: for nothing.
ALTER TABLE des_archives ADD COLUMN wait_kind TEXT;
ALTER TABLE des_archives ADD COLUMN wait_reason TEXT;
ALTER TABLE des_archives ADD COLUMN wait_since INTEGER;
