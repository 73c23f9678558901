-- When the lease changed hands last, when a pass was planned, and since when it has been in its state: for people, and for the rate at
-- which windows are done; NULL for passes that were recorded before. When a pass was committed
-- stands in committed_at. SQLite cannot add a column "if it is not there": run a second time by
-- hand, this ends with `duplicate column name` and changes nothing.

ALTER TABLE des_windows ADD COLUMN planned_at INTEGER;
ALTER TABLE des_windows ADD COLUMN state_since INTEGER;

ALTER TABLE des_lease ADD COLUMN held_since INTEGER;
