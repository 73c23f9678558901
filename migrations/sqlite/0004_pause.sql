-- Pauses. Every statement may be run again on a database that has it already.

-- One row per job that an operator paused, until it is resumed; what came before stands in
-- des_audit_log.
CREATE TABLE IF NOT EXISTS des_pauses (
    job TEXT NOT NULL PRIMARY KEY,
    paused_at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    until_time INTEGER
) STRICT;
