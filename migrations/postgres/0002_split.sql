-- Partitions that are parts of a manifest, what a partition has been through, and held windows
-- that an operator let go. Nothing is rewritten: what is new is NULL, or a constant.

-- The first of the manifest's rows that the partition holds; NULL: it holds all of them.
ALTER TABLE des_partitions ADD COLUMN IF NOT EXISTS first_row BIGINT;
-- Answers without an accepted receipt, whatever the reason: the number of the attempt.
ALTER TABLE des_partitions ADD COLUMN IF NOT EXISTS setbacks INTEGER NOT NULL DEFAULT 0;
-- The worker whose receipt had files that deserve a second look.
ALTER TABLE des_partitions ADD COLUMN IF NOT EXISTS first_look TEXT;

-- How many failed rows an operator accepted when the window was held.
ALTER TABLE des_windows ADD COLUMN IF NOT EXISTS released BIGINT;
