-- How large the partitions of a window were to be: chosen from measured times when it is planned, and
-- needed when it is planned anew, so that the same rows have the same manifests. NULL: not known, for
-- windows from before and for passes that were not planned. Nothing is rewritten.

ALTER TABLE des_windows ADD COLUMN IF NOT EXISTS partition_rows BIGINT;
