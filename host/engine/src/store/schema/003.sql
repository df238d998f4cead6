-- The vault: versions and expiry of credentials, who may refresh them, and a log that can only grow.

ALTER TABLE credentials ADD COLUMN version BIGINT NOT NULL DEFAULT 1;

ALTER TABLE credentials ADD COLUMN written_ms BIGINT NOT NULL DEFAULT 0;

ALTER TABLE credentials ADD COLUMN expires_ms BIGINT;

UPDATE credentials SET written_ms = created_ms;

CREATE INDEX credentials_key ON credentials (key_id);

-- What outlives a credential: the last version and the last fence, so that no number is given twice.
CREATE TABLE credential_leases (
    user_id  TEXT NOT NULL,
    provider TEXT NOT NULL,
    version  BIGINT NOT NULL,
    fence    BIGINT NOT NULL,
    holder   TEXT,
    until_ms BIGINT NOT NULL,
    boot_id  TEXT NOT NULL,
    PRIMARY KEY (user_id, provider)
);

INSERT INTO credential_leases SELECT user_id, provider, 1, 0, NULL, 0, '' FROM credentials;

-- Entries are numbered, chained by their hashes and signed; see engine/src/audit.rs. The older table's entries are moved here, chained,
-- when the store is opened.
CREATE TABLE audit_entries (
    host      TEXT NOT NULL,
    seq       BIGINT NOT NULL,
    at_ms     BIGINT NOT NULL,
    actor     TEXT NOT NULL,
    action    TEXT NOT NULL,
    subject   TEXT NOT NULL,
    detail    TEXT NOT NULL,
    previous  BLOB NOT NULL,
    hash      BLOB NOT NULL,
    key_id    TEXT NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (host, seq)
);

CREATE INDEX audit_entries_subject ON audit_entries (subject, action);

CREATE TRIGGER audit_entries_stay BEFORE DELETE ON audit_entries
BEGIN
    SELECT RAISE(ABORT, 'the audit log only grows');
END;

CREATE TRIGGER audit_entries_are_final BEFORE UPDATE ON audit_entries
BEGIN
    SELECT RAISE(ABORT, 'an audit entry is final');
END;
