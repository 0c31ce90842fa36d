-- What POSTs with an Idempotency-Key answered, written by the transactions of their effects.
CREATE TABLE idempotency_keys (
    user_id     uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    key         bytea NOT NULL,                -- digest of the key
    fingerprint bytea NOT NULL,                -- digest of path and body
    answer      bytea NOT NULL,                -- sealed, as it may have secrets
    created_at  timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);
