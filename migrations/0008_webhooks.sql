-- Webhooks and what they are sent. See schema.sql for why.

CREATE TYPE delivery_state AS ENUM ('waiting', 'sending', 'delivered', 'failed');

-- Addresses that a project's changes are sent to. A webhook reads the project's change log by itself, up
-- to its seq; so a write pays nothing for it, and nothing is lost or told twice.
CREATE TABLE webhooks (
    id              uuid PRIMARY KEY,
    project_id      uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    url             text NOT NULL,
    events          text[] NOT NULL,           -- kinds such as task.created; task.* or * for all
    active          boolean NOT NULL DEFAULT true,
    disabled_reason text,                      -- why the program turned it off: gone or failing
    failing_since   timestamptz(3),            -- first failure since the last success
    slow            boolean NOT NULL DEFAULT false, -- its last success took long
    secret          bytea NOT NULL,            -- as it is, see "Decisions" in the README
    previous_secret bytea,                     -- signs too, until previous_until
    previous_until  timestamptz(3),
    seq             bigint NOT NULL,           -- of the project's log: what comes after it is not yet a delivery
    version         bigint NOT NULL DEFAULT 1,
    created_at      timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    updated_at      timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT webhooks_url_check CHECK (char_length(url) <= 2048),
    CONSTRAINT webhooks_reason_check CHECK (disabled_reason IN ('gone', 'failing'))
);
CREATE INDEX webhooks_project ON webhooks (project_id, id);

-- What a webhook is sent, and how that went. It has no foreign key: those of a deleted webhook, perhaps
-- very many, are purged in the background.
CREATE TABLE deliveries (
    id         uuid PRIMARY KEY,               -- webhook-id: the same in every attempt
    webhook_id uuid NOT NULL,
    kind       text NOT NULL,                  -- of the event, or webhook.test
    body       text NOT NULL,                  -- to the byte, as it is signed
    state      delivery_state NOT NULL DEFAULT 'waiting',
    next_at    timestamptz DEFAULT clock_timestamp(), -- of the next attempt; NULL: none
    job_id     uuid,                           -- of the attempt under way
    tries      integer NOT NULL DEFAULT 0,     -- failed attempts since it was last asked for: the place in the schedule
    attempts   integer NOT NULL DEFAULT 0,
    created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    last_at    timestamptz(3),                 -- the last attempt: when it began, how long it took, what came back
    took_ms    integer,
    status     integer,                        -- NULL: no answer
    answer     text,                           -- the beginning of its body
    error      text
);
CREATE INDEX deliveries_webhook ON deliveries (webhook_id, id);
CREATE INDEX deliveries_waiting ON deliveries (webhook_id, next_at) WHERE state = 'waiting';
CREATE INDEX deliveries_sending ON deliveries (webhook_id) WHERE state = 'sending';

-- enter_webhook is the gate of every write to one webhook, through its project's.
CREATE FUNCTION enter_webhook(webhook uuid, actor uuid, versions bigint[] DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    present bigint;
BEGIN
    PERFORM enter_project((SELECT project_id FROM webhooks WHERE id = webhook), actor, 'admin');
    SELECT version INTO present FROM webhooks WHERE id = webhook;
    IF NOT FOUND THEN
        PERFORM refuse('not_found');
    ELSIF present <> ALL (versions) THEN
        PERFORM refuse('version_mismatch', present::text);
    END IF;
END $$;

-- webhook_fields are the fields of a webhook that the history follows. Its address is not among them: it
-- may have a token in it, and everybody in the project reads the history.
CREATE FUNCTION webhook_fields(w webhooks) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('events', w.events, 'active', w.active)
$$;
