-- How far a column of the catalog that says which files are archived was brought. Every statement may
-- be run again on a database that has it already.

-- One row per pass whose files were marked, or are being marked, in a column to a value (the target).
CREATE TABLE IF NOT EXISTS des_synced (
    job TEXT NOT NULL,
    target TEXT NOT NULL,
    window_end INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    -- Partitions of its certificate that are done, in row order.
    partitions INTEGER NOT NULL,
    -- Rows of the catalog that were set.
    marked INTEGER NOT NULL,
    -- NULL until all of its partitions are done.
    finished_at INTEGER,
    PRIMARY KEY (job, target, window_end, revision)
) STRICT;
