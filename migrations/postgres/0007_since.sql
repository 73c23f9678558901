-- When the lease changed hands last, when a pass was planned, and since when it has been in its state: for people, and for the rate at
-- which windows are done. Nothing is rewritten; NULL for passes that were recorded before. When a
-- pass was committed stands in committed_at.

ALTER TABLE des_windows ADD COLUMN IF NOT EXISTS planned_at TIMESTAMPTZ;
ALTER TABLE des_windows ADD COLUMN IF NOT EXISTS state_since TIMESTAMPTZ;

ALTER TABLE des_lease ADD COLUMN IF NOT EXISTS held_since TIMESTAMPTZ;
