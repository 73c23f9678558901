-- Passes over windows that were committed before: what they are for, what they found. Every
-- statement may be run again on a database that has it already.

-- One row per pass with a revision above 0, and what its scan saw.
CREATE TABLE IF NOT EXISTS des_passes (
    job TEXT NOT NULL,
    window_end TIMESTAMPTZ NOT NULL,
    revision SMALLINT NOT NULL,
    purpose TEXT NOT NULL CHECK (purpose IN ('scan', 'replay', 'reconcile', 'retry')),
    scanned_rows BIGINT,
    scanned_digest TEXT,
    findings TEXT,
    PRIMARY KEY (job, window_end, revision)
);

-- One row per committed window: the rows that the catalog had for it when it was last looked at,
-- and what the last pass found, as JSON.
CREATE TABLE IF NOT EXISTS des_looks (
    job TEXT NOT NULL,
    window_end TIMESTAMPTZ NOT NULL,
    row_count BIGINT NOT NULL,
    digest TEXT NOT NULL,
    looked_at TIMESTAMPTZ NOT NULL,
    rechecked_at TIMESTAMPTZ,
    findings TEXT,
    PRIMARY KEY (job, window_end)
);

-- Windows that were committed before this table was there. They are not looked at by themselves;
-- those without rows not at all, since they may have been skipped at somebody's word.
INSERT INTO des_looks (job, window_end, row_count, digest, looked_at, rechecked_at)
SELECT job, window_end, row_count, digest, committed_at, committed_at FROM des_windows
WHERE state = 'committed' AND revision = 0 AND committed_at IS NOT NULL AND row_count > 0
ON CONFLICT (job, window_end) DO NOTHING;
