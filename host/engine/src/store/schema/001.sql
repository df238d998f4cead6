-- The store's schema. Statements are idempotent; a change adds statements, it never edits old ones.

CREATE TABLE IF NOT EXISTS sessions (
    id              TEXT PRIMARY KEY,
    host            TEXT NOT NULL,
    user_id         TEXT NOT NULL,
    provider        TEXT NOT NULL,
    state           TEXT NOT NULL,
    vm_id           TEXT NOT NULL,
    address         TEXT NOT NULL,
    idempotency_key TEXT,
    created_ms      BIGINT NOT NULL,
    deadline_ms     BIGINT NOT NULL,
    ended_ms        BIGINT,
    failure         TEXT,
    UNIQUE (user_id, provider, idempotency_key)
);

CREATE TABLE IF NOT EXISTS vms (
    id          TEXT PRIMARY KEY,
    host        TEXT NOT NULL,
    session_id  TEXT NOT NULL,
    image       TEXT NOT NULL,
    driver      TEXT NOT NULL,
    state       TEXT NOT NULL,
    address     TEXT NOT NULL,
    pid         BIGINT,
    start_ticks BIGINT,
    created_ms  BIGINT NOT NULL,
    ended_ms    BIGINT,
    failure     TEXT
);

-- A row is a live lease; the primary key is what makes an address unique.
CREATE TABLE IF NOT EXISTS leases (
    host     TEXT NOT NULL,
    address  TEXT NOT NULL,
    vm_id    TEXT NOT NULL UNIQUE,
    since_ms BIGINT NOT NULL,
    PRIMARY KEY (host, address)
);

-- Intent before apply, outcome after it. A step without outcome may have happened.
CREATE TABLE IF NOT EXISTS journal (
    vm_id      TEXT NOT NULL,
    step       TEXT NOT NULL,
    intent_ms  BIGINT NOT NULL,
    outcome    TEXT,
    outcome_ms BIGINT,
    undone_ms  BIGINT,
    undo_error TEXT,
    PRIMARY KEY (vm_id, step)
);

CREATE TABLE IF NOT EXISTS timeline (
    vm_id TEXT NOT NULL,
    stage TEXT NOT NULL,
    entry TEXT NOT NULL,
    PRIMARY KEY (vm_id, stage)
);

CREATE TABLE IF NOT EXISTS tokens (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    hash       BLOB NOT NULL UNIQUE,
    scopes     TEXT NOT NULL,
    created_ms BIGINT NOT NULL,
    revoked_ms BIGINT
);

-- One-time tickets of viewer links, and the cookies they were exchanged for; both hashed.
CREATE TABLE IF NOT EXISTS viewer_secrets (
    hash       BLOB PRIMARY KEY,
    kind       TEXT NOT NULL,
    session_id TEXT NOT NULL,
    expires_ms BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS credentials (
    user_id     TEXT NOT NULL,
    provider    TEXT NOT NULL,
    session_id  TEXT NOT NULL,
    created_ms  BIGINT NOT NULL,
    key_id      TEXT NOT NULL,
    wrapped_key BLOB NOT NULL,
    sealed      BLOB NOT NULL,
    files       TEXT NOT NULL,
    PRIMARY KEY (user_id, provider)
);

CREATE TABLE IF NOT EXISTS audit (
    id      INTEGER PRIMARY KEY,
    host    TEXT NOT NULL,
    at_ms   BIGINT NOT NULL,
    actor   TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL
);
