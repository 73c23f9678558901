-- What operators say of the source database, while the fleet runs. SQLite cannot add a column "if it is
-- not there": run a second time by hand, this ends with `duplicate column name`.

-- NULL: as configured. No limit: '' for the query, -1 for the others. The lag is in microseconds.
ALTER TABLE des_throttles ADD COLUMN query TEXT;
ALTER TABLE des_throttles ADD COLUMN max_replication_lag INTEGER;
ALTER TABLE des_throttles ADD COLUMN max_active_connections INTEGER;
