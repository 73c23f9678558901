-- What keeps a leader from going on, partitions that are under way where no broker knows of it, and
-- windows that an operator has tried again after their splits were used up. SQLite cannot add a
-- column "if it is not there": run a second time by hand, this ends with `duplicate column name` and
-- changes nothing.

-- The certified window over which the watermark cannot move again, and why; NULL: there is none.
ALTER TABLE des_archives ADD COLUMN stuck_end INTEGER;
ALTER TABLE des_archives ADD COLUMN stuck_reason TEXT;

-- The process that works on the partition, where its end is told by nobody else.
ALTER TABLE des_partitions ADD COLUMN under_way_by TEXT;

-- Splits that were made before an operator had the window tried again.
ALTER TABLE des_windows ADD COLUMN splits_before INTEGER NOT NULL DEFAULT 0;
