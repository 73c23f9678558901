-- Throttles that operators set, and what a leader waits for. Every statement may be run again on a
-- database that has it already. Nothing is rewritten.

-- One row per job that an operator throttled, and one named * for all jobs of this ledger, until it
-- is taken back; what came before stands in des_audit_log. NULL: as configured; 0 or '': no limit.
CREATE TABLE IF NOT EXISTS des_throttles (
    job TEXT NOT NULL PRIMARY KEY,
    set_at TIMESTAMPTZ NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    files_per_second BIGINT,
    bytes_per_second BIGINT,
    not_between TEXT
);

-- What whoever leads waits for at an operator's wish, since when and why; NULL: for nothing.
ALTER TABLE des_archives ADD COLUMN IF NOT EXISTS wait_kind TEXT;
ALTER TABLE des_archives ADD COLUMN IF NOT EXISTS wait_reason TEXT;
ALTER TABLE des_archives ADD COLUMN IF NOT EXISTS wait_since TIMESTAMPTZ;
