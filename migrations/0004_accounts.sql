-- Confirmed addresses, forgotten passwords, second factors and API tokens.

ALTER TABLE users
    ADD COLUMN email_verified_at timestamptz(3),       -- the present address proved to be his
    ADD COLUMN totp_secret       bytea,                -- RFC 6238; as it is, see "Decisions" in the README
    ADD COLUMN totp_since        timestamptz(3),       -- NULL with a secret: not confirmed, not asked for
    ADD COLUMN totp_step         bigint NOT NULL DEFAULT 0; -- of the last code that was used

-- Tokens that are sent by mail, each to prove one thing once. Of a kind only a user's newest counts.
CREATE TABLE account_tokens (
    id         uuid PRIMARY KEY,               -- of the job that mails it; the token is made from it
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    kind       text NOT NULL,                  -- password: may set a new one; email: the address is his
    email      text NOT NULL,                  -- to which it is sent
    hash       bytea NOT NULL CONSTRAINT account_tokens_hash_key UNIQUE, -- SHA-256
    created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz(3) NOT NULL,
    used_at    timestamptz(3),
    CONSTRAINT account_tokens_kind_check CHECK (kind IN ('password', 'email'))
);
CREATE INDEX account_tokens_user ON account_tokens (user_id, kind, id);

-- Tokens with which programs act for a user.
CREATE TABLE api_tokens (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    name         text NOT NULL,
    hash         bytea NOT NULL CONSTRAINT api_tokens_hash_key UNIQUE, -- SHA-256
    scopes       text[] NOT NULL,
    created_at   timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz(3),               -- NULL: never
    last_used_at timestamptz(3),               -- to the minute
    CONSTRAINT api_tokens_name_check CHECK (char_length(name) BETWEEN 1 AND 100)
);
CREATE INDEX api_tokens_user ON api_tokens (user_id, id);

-- What stands in for a lost authenticator, each once.
CREATE TABLE recovery_codes (
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    hash    bytea NOT NULL,                    -- SHA-256 of 80 random bits
    PRIMARY KEY (user_id, hash)
);
