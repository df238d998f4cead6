-- Sessions that wait have no address yet; deadlines that survive a jump of the wall clock; leases with an owner.

CREATE TABLE sessions_2 (
    id               TEXT PRIMARY KEY,
    host             TEXT NOT NULL,
    user_id          TEXT NOT NULL,
    provider         TEXT NOT NULL,
    state            TEXT NOT NULL,
    vm_id            TEXT NOT NULL,
    image            TEXT NOT NULL,
    driver           TEXT NOT NULL,
    memory_mib       BIGINT NOT NULL,
    address          TEXT,
    idempotency_key  TEXT,
    created_ms       BIGINT NOT NULL,
    deadline_ms      BIGINT NOT NULL,
    -- The same two on the monotonic clock of one boot of the host.
    boot_id          TEXT NOT NULL,
    created_mono_ms  BIGINT NOT NULL,
    deadline_mono_ms BIGINT NOT NULL,
    -- Order of arrival among those that wait; not a place, which shrinks as others begin.
    arrival          BIGINT NOT NULL,
    ended_ms         BIGINT,
    failure          TEXT,
    UNIQUE (user_id, provider, idempotency_key)
);

INSERT INTO sessions_2
    SELECT s.id, s.host, s.user_id, s.provider, s.state, s.vm_id, COALESCE(v.image, ''), COALESCE(v.driver, 'qemu-tcg'), 0,
           s.address, s.idempotency_key, s.created_ms, s.deadline_ms, '', 0, 0, 0, s.ended_ms, s.failure
    FROM sessions s LEFT JOIN vms v ON v.id = s.vm_id;

DROP TABLE sessions;

ALTER TABLE sessions_2 RENAME TO sessions;

CREATE INDEX sessions_open ON sessions (host, state) WHERE ended_ms IS NULL;

ALTER TABLE vms ADD COLUMN memory_mib BIGINT NOT NULL DEFAULT 0;

CREATE INDEX vms_open ON vms (host) WHERE ended_ms IS NULL;

-- Who owns the VM: the generation counts its owners, the expiry (monotonic clock) lapses when nobody renews it.
ALTER TABLE leases ADD COLUMN generation BIGINT NOT NULL DEFAULT 1;

ALTER TABLE leases ADD COLUMN expires_ms BIGINT NOT NULL DEFAULT 0;
