-- What keeps a leader from going on, partitions that are under way where no broker knows of it, and
-- windows that an operator has tried again after their splits were used up. Nothing is rewritten.

-- The certified window over which the watermark cannot move again, and why; NULL: there is none.
ALTER TABLE des_archives ADD COLUMN IF NOT EXISTS stuck_end TIMESTAMPTZ;
ALTER TABLE des_archives ADD COLUMN IF NOT EXISTS stuck_reason TEXT;

-- The process that works on the partition, where its end is told by nobody else.
ALTER TABLE des_partitions ADD COLUMN IF NOT EXISTS under_way_by TEXT;

-- Splits that were made before an operator had the window tried again.
ALTER TABLE des_windows ADD COLUMN IF NOT EXISTS splits_before BIGINT NOT NULL DEFAULT 0;
