-- INSERT OR REPLACE deletes the row that it replaces without firing the trigger for DELETE.
CREATE TRIGGER des_audit_log_refuses_replace BEFORE INSERT ON des_audit_log
WHEN EXISTS (SELECT 1 FROM des_audit_log WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'des_audit_log is append-only: REPLACE is refused');
END;
