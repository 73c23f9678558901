-- How large the partitions of a window were to be: chosen from measured times when it is planned, and
-- needed when it is planned anew, so that the same rows have the same manifests. NULL: not known, for
-- windows from before and for passes that were not planned. Run a second time by hand, this ends with
-- `duplicate column name` and changes nothing.

ALTER TABLE des_windows ADD COLUMN partition_rows INTEGER;
