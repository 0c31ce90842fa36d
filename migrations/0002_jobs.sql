-- The job queue's tables, notifications, and recurring tasks. See schema.sql for why.

CREATE TABLE jobs (
    id         uuid PRIMARY KEY,               -- UUIDv7, also the idempotency key of effects elsewhere
    queue      text NOT NULL DEFAULT 'default',
    kind       text NOT NULL,
    priority   smallint NOT NULL DEFAULT 2 CHECK (priority BETWEEN 0 AND 3),
    payload    jsonb NOT NULL,
    trace      text NOT NULL DEFAULT '',       -- request id of the cause
    unique_key text,                           -- at most one living job has it
    run_at     timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    attempts   integer NOT NULL DEFAULT 0,     -- failed ones
    created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    dead_at    timestamptz(3),                 -- given up; kept for an operator
    error      text                            -- of the last failed attempt
);
CREATE UNIQUE INDEX jobs_unique ON jobs (unique_key) WHERE dead_at IS NULL AND unique_key IS NOT NULL;
CREATE INDEX jobs_dead ON jobs (queue, id) WHERE dead_at IS NOT NULL;

CREATE TABLE ticks (
    name    text NOT NULL,
    tick    timestamptz NOT NULL,
    made_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, tick)
);

CREATE TABLE audit (
    id     uuid PRIMARY KEY,
    at     timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    actor  uuid NOT NULL REFERENCES users,
    action text NOT NULL,                      -- such as queue.paused, job.retried
    target text NOT NULL,                      -- queue or job id
    detail jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE notifications (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    kind       text NOT NULL,                  -- such as task.due
    task_id    uuid REFERENCES tasks ON DELETE CASCADE,
    project_id uuid REFERENCES projects ON DELETE CASCADE,
    detail     jsonb NOT NULL DEFAULT '{}',
    unique_key text,                           -- what must not be told twice
    created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    read_at    timestamptz(3),
    CONSTRAINT notifications_unique_key UNIQUE (user_id, unique_key)
);
CREATE INDEX notifications_user ON notifications (user_id, id);

ALTER TABLE tasks ADD COLUMN recurrence text;
ALTER TABLE tasks ADD COLUMN recurs_from uuid REFERENCES tasks ON DELETE SET NULL;
ALTER TABLE tasks ADD COLUMN series_start date;
CREATE UNIQUE INDEX tasks_recurs_from ON tasks (recurs_from) WHERE recurs_from IS NOT NULL;

CREATE FUNCTION uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid
$$;

CREATE TABLE project_stats (
    project_id uuid PRIMARY KEY REFERENCES projects ON DELETE CASCADE,
    seq        bigint NOT NULL,
    made_at    timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    stats      jsonb NOT NULL
);

CREATE TABLE queues (
    name   text PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false
);

CREATE OR REPLACE FUNCTION task_fields(t tasks) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'title', t.title, 'description', t.description, 'status', t.status, 'priority', t.priority,
        'assigneeId', t.assignee_id, 'parentId', t.parent_id, 'position', t.position,
        'startDate', t.start_date, 'dueDate', t.due_date,
        'estimatedHours', t.estimated_hours, 'actualHours', t.actual_hours, 'labels', t.labels,
        'recurrence', t.recurrence)
$$;
