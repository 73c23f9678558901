-- What operators say of the source database, while the fleet runs. Every statement may be run again on a
-- database that has it already. Nothing is rewritten.

-- NULL: as configured. No limit: '' for the query, -1 for the others. The lag is in microseconds.
ALTER TABLE des_throttles ADD COLUMN IF NOT EXISTS query TEXT;
ALTER TABLE des_throttles ADD COLUMN IF NOT EXISTS max_replication_lag BIGINT;
ALTER TABLE des_throttles ADD COLUMN IF NOT EXISTS max_active_connections BIGINT;
