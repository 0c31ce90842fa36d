-- The whole schema as it stands, for reading. The program itself applies migrations/ in order;
-- a test proves that both give the same database.
--
-- Every write inside a project is one batch: enter_project (or enter_task) locks the project and
-- checks who asks, then the change is made, then log_change() numbers it in the project's change log.
-- The project's lock orders all writes of a project; that is why task numbers have no gaps, card
-- positions never collide and a check made after the gate still holds when the change is made.

CREATE EXTENSION IF NOT EXISTS pg_trgm;

CREATE TYPE global_role AS ENUM ('member', 'manager', 'admin');
CREATE TYPE member_role AS ENUM ('viewer', 'member', 'admin', 'owner');
CREATE TYPE project_status AS ENUM ('active', 'archived', 'completed');
CREATE TYPE task_status AS ENUM ('todo', 'in_progress', 'review', 'done');
CREATE TYPE task_priority AS ENUM ('low', 'medium', 'high', 'urgent');

CREATE TABLE users (
    id            uuid PRIMARY KEY,
    email         text NOT NULL CONSTRAINT users_email_key UNIQUE,
    password_hash text NOT NULL,
    first_name    text NOT NULL,
    last_name     text NOT NULL,
    avatar_url    text,
    timezone      text NOT NULL DEFAULT 'UTC',
    locale        text NOT NULL DEFAULT 'en',
    role          global_role NOT NULL DEFAULT 'member',
    is_active     boolean NOT NULL DEFAULT true,
    seq           bigint NOT NULL DEFAULT 0,   -- last number in this user's change log
    version       bigint NOT NULL DEFAULT 1,
    created_at    timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    updated_at    timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    email_verified_at timestamptz(3),          -- the present address proved to be his
    totp_secret   bytea,                       -- RFC 6238; as it is, see "Decisions" in the README
    totp_since    timestamptz(3),              -- NULL with a secret: not confirmed, not asked for
    totp_step     bigint NOT NULL DEFAULT 0,   -- of the last code that was used
    CONSTRAINT users_email_check CHECK (email = lower(email) AND char_length(email) <= 254),
    CONSTRAINT users_names_check CHECK (char_length(first_name) BETWEEN 1 AND 50 AND char_length(last_name) BETWEEN 1 AND 50)
);
CREATE INDEX users_name_trgm ON users USING gin ((first_name || ' ' || last_name || ' ' || email) gin_trgm_ops);

CREATE TABLE sessions (
    id           uuid PRIMARY KEY,
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    user_agent   text NOT NULL DEFAULT '',
    ip           text NOT NULL DEFAULT '',
    created_at   timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    last_used_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz(3) NOT NULL,
    revoked_at   timestamptz(3)
);
CREATE INDEX sessions_user ON sessions (user_id) WHERE revoked_at IS NULL;

-- One row for every refresh token of a session, the used ones too: a used one that comes back is theft.
CREATE TABLE refresh_tokens (
    hash       bytea PRIMARY KEY,              -- SHA-256 of the token
    session_id uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    used_at    timestamptz(3)
);
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);

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

CREATE TABLE projects (
    id          uuid PRIMARY KEY,
    key         text NOT NULL CONSTRAINT projects_key_key UNIQUE,
    name        text NOT NULL,
    description text NOT NULL DEFAULT '',
    color       text,
    status      project_status NOT NULL DEFAULT 'active',
    start_date  date,
    end_date    date,
    settings    jsonb NOT NULL DEFAULT '{"viewersMayComment": false}',
    created_by  uuid NOT NULL REFERENCES users,
    seq         bigint NOT NULL DEFAULT 0,     -- last number in this project's change log
    last_number integer NOT NULL DEFAULT 0,    -- last task number handed out; never goes back
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    updated_at  timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    deleted_at  timestamptz(3),
    CONSTRAINT projects_key_check CHECK (key ~ '^[A-Z][A-Z0-9]{1,9}$'),
    CONSTRAINT projects_name_check CHECK (char_length(name) BETWEEN 3 AND 100),
    CONSTRAINT projects_description_check CHECK (char_length(description) <= 10000),
    CONSTRAINT projects_color_check CHECK (color ~ '^#[0-9A-Fa-f]{6}$'),
    CONSTRAINT projects_dates_check CHECK (end_date >= start_date)
);

CREATE TABLE members (
    project_id uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    user_id    uuid NOT NULL REFERENCES users,
    role       member_role NOT NULL,
    version    bigint NOT NULL DEFAULT 1,
    created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT members_pkey PRIMARY KEY (project_id, user_id)
);
CREATE INDEX members_user ON members (user_id, project_id);

CREATE TABLE invitations (
    id          uuid PRIMARY KEY,
    project_id  uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    email       text NOT NULL,
    role        member_role NOT NULL,
    token_hash  bytea NOT NULL CONSTRAINT invitations_token_key UNIQUE, -- SHA-256
    invited_by  uuid NOT NULL REFERENCES users,
    created_at  timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz(3) NOT NULL,
    CONSTRAINT invitations_email_key UNIQUE (project_id, email)
);

-- words are what a search finds a text by. Punctuation becomes space first: PostgreSQL's parser would
-- keep example.org, 3.14 or a/b whole, and then nobody finds them by a part, nor by the parts.
CREATE FUNCTION words(t text) RETURNS tsvector LANGUAGE sql IMMUTABLE AS $$
    SELECT to_tsvector('simple', translate(t, '.:/@-_&?=#%+~<>', '               '))
$$;

CREATE TABLE tasks (
    id              uuid PRIMARY KEY,          -- UUIDv7: its order is the order of creation
    project_id      uuid NOT NULL REFERENCES projects ON DELETE CASCADE,
    number          integer NOT NULL,
    title           text NOT NULL,
    description     text NOT NULL DEFAULT '',
    status          task_status NOT NULL DEFAULT 'todo',
    priority        task_priority NOT NULL DEFAULT 'medium',
    assignee_id     uuid,
    parent_id       uuid REFERENCES tasks ON DELETE SET NULL,
    position        text COLLATE "C" NOT NULL, -- see position_between
    start_date      date,
    due_date        date,
    estimated_hours numeric(5,2),
    actual_hours    numeric(5,2),
    labels          text[] NOT NULL DEFAULT '{}',
    created_by      uuid NOT NULL REFERENCES users,
    started_at      timestamptz(3),            -- first left todo
    completed_at    timestamptz(3),            -- became done; NULL again when reopened
    version         bigint NOT NULL DEFAULT 1,
    created_at      timestamptz(3) NOT NULL,
    updated_at      timestamptz(3) NOT NULL,
    deleted_at      timestamptz(3),
    search          tsvector NOT NULL GENERATED ALWAYS AS (
                        setweight(words(title), 'A') || setweight(words(description), 'B')) STORED,
    recurrence      text,                      -- RFC 5545 RRULE; NULL: once
    recurs_from     uuid REFERENCES tasks ON DELETE SET NULL, -- the task that this one repeats
    series_start    date,                      -- due date of the first task of the series, from which its rule counts
    CONSTRAINT tasks_number_key UNIQUE (project_id, number),
    CONSTRAINT tasks_position_key UNIQUE (project_id, position) DEFERRABLE,
    CONSTRAINT tasks_assignee_fkey FOREIGN KEY (project_id, assignee_id) REFERENCES members,
    CONSTRAINT tasks_title_check CHECK (char_length(title) BETWEEN 1 AND 255),
    CONSTRAINT tasks_description_check CHECK (char_length(description) <= 20000),
    CONSTRAINT tasks_dates_check CHECK (due_date >= start_date),
    CONSTRAINT tasks_hours_check CHECK (estimated_hours >= 0 AND actual_hours >= 0),
    CONSTRAINT tasks_labels_check CHECK (cardinality(labels) <= 20),
    CONSTRAINT tasks_completed_check CHECK ((completed_at IS NOT NULL) = (status = 'done'))
);
-- One index for each order a list can have; the id breaks ties, so every page is one index range.
-- Creation has its time before the id, or the planner may read the primary key through all projects.
CREATE INDEX tasks_created ON tasks (project_id, created_at, id);
CREATE INDEX tasks_updated ON tasks (project_id, updated_at, id);
CREATE INDEX tasks_due ON tasks (project_id, coalesce(due_date, 'infinity'), id);
CREATE INDEX tasks_priority ON tasks (project_id, priority, id);
CREATE INDEX tasks_title ON tasks (project_id, (lower(title) COLLATE "C"), id);
CREATE INDEX tasks_board ON tasks (project_id, status, position); -- one column of a board
CREATE INDEX tasks_assignee ON tasks (assignee_id, id) WHERE assignee_id IS NOT NULL;
CREATE INDEX tasks_parent ON tasks (parent_id) WHERE parent_id IS NOT NULL;
CREATE UNIQUE INDEX tasks_recurs_from ON tasks (recurs_from) WHERE recurs_from IS NOT NULL;
CREATE INDEX tasks_labels ON tasks USING gin (labels);
CREATE INDEX tasks_search ON tasks USING gin (search);
CREATE INDEX tasks_title_trgm ON tasks USING gin (title gin_trgm_ops);

CREATE TABLE task_blockers (
    task_id    uuid NOT NULL REFERENCES tasks ON DELETE CASCADE,
    blocker_id uuid NOT NULL REFERENCES tasks ON DELETE CASCADE,
    PRIMARY KEY (task_id, blocker_id),
    CONSTRAINT task_blockers_self_check CHECK (task_id <> blocker_id)
);
CREATE INDEX task_blockers_blocker ON task_blockers (blocker_id);

CREATE TABLE task_watchers (
    task_id uuid NOT NULL REFERENCES tasks ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    PRIMARY KEY (task_id, user_id)
);
CREATE INDEX task_watchers_user ON task_watchers (user_id);

-- What is said about a task. A comment that is deleted is gone with all it said before; one of a task in
-- the trash waits there with it.
CREATE TABLE comments (
    id         uuid PRIMARY KEY,               -- UUIDv7: its order is the order of creation
    task_id    uuid NOT NULL REFERENCES tasks ON DELETE CASCADE,
    author_id  uuid NOT NULL REFERENCES users,
    body       text NOT NULL,                  -- a mention in it is @[id of the user]
    mentions   uuid[] NOT NULL,                -- who is mentioned, each once; was a member then
    version    bigint NOT NULL DEFAULT 1,
    created_at timestamptz(3) NOT NULL,
    edited_at  timestamptz(3),                 -- NULL: never
    CONSTRAINT comments_body_check CHECK (char_length(body) BETWEEN 1 AND 13700) -- 10 000, and 37 for each of 100 mentions
);
CREATE INDEX comments_task ON comments (task_id, id);
CREATE INDEX comments_author ON comments (author_id, id);

-- What comments said before their authors edited them.
CREATE TABLE comment_edits (
    comment_id uuid NOT NULL REFERENCES comments ON DELETE CASCADE,
    version    bigint NOT NULL,                -- that said it
    body       text NOT NULL,
    mentions   uuid[] NOT NULL,
    edited_at  timestamptz(3) NOT NULL,        -- into the next version
    PRIMARY KEY (comment_id, version)
);

-- The change log. A scope is a project or a user; its seq has no gaps and follows the order of commits.
-- It outlives what it tells of, so it has no foreign keys.
CREATE TABLE events (
    scope   uuid NOT NULL,
    seq     bigint NOT NULL,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor   uuid,                              -- NULL: the system
    kind    text NOT NULL,
    subject uuid NOT NULL,
    changes jsonb NOT NULL DEFAULT '{}',       -- {field: [old, new]}
    -- Of the request or job whose change it is: trace-id and flags (W3C Trace Context), as the program sets
    -- them for a transaction; NULL: not known.
    trace   bytea DEFAULT decode(nullif(current_setting('taskflow.trace', true), ''), 'hex'),
    PRIMARY KEY (scope, seq)
);
CREATE INDEX events_subject ON events (subject, at, seq);

-- refuse ends the transaction with a problem: code is one of problem.go's, detail its parameter.
-- It never returns; its type lets it stand where a statement selects something.
CREATE FUNCTION refuse(code text, detail text DEFAULT '') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'TF000', MESSAGE = code, DETAIL = detail;
END $$;

-- role_in is what the actor may do in the project now: NULL is nothing at all.
-- Global admins own every project and managers read every project. It is PL/pgSQL, like others below
-- that SQL alone could be, because that keeps its plans from one transaction to the next.
CREATE FUNCTION role_in(project uuid, actor uuid) RETURNS member_role LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT CASE WHEN u.role = 'admin' THEN 'owner'
                    WHEN u.role = 'manager' THEN coalesce(m.role, 'viewer')
                    ELSE m.role END
        FROM users u LEFT JOIN members m ON m.project_id = project AND m.user_id = u.id
        WHERE u.id = actor AND u.is_active);
END $$;

-- enter_project is the gate of every write in a project: it locks the project's row until the end of
-- the transaction, then judges the actor by what is true from there on. It returns the actor's role.
-- versions, when given, are those the client accepts (If-Match). trash asks for a deleted project,
-- which only those who may restore it see.
CREATE FUNCTION enter_project(project uuid, actor uuid, need member_role, versions bigint[] DEFAULT NULL, trash boolean DEFAULT false)
RETURNS member_role LANGUAGE plpgsql AS $$
DECLARE
    p record;
    have member_role;
BEGIN
    SELECT version, deleted_at INTO p FROM projects WHERE id = project FOR NO KEY UPDATE;
    have := role_in(project, actor);
    IF NOT FOUND OR have IS NULL OR (p.deleted_at IS NOT NULL) <> trash THEN
        PERFORM refuse('not_found');
    ELSIF have < need THEN
        PERFORM refuse(CASE WHEN trash THEN 'not_found' ELSE 'forbidden' END, need::text);
    ELSIF p.version <> ALL (versions) THEN
        PERFORM refuse('version_mismatch', p.version::text);
    END IF;
    RETURN have;
END $$;

-- enter_work is enter_project for changes to the work itself, which only an active project takes.
CREATE FUNCTION enter_work(project uuid, actor uuid, need member_role) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    state project_status;
BEGIN
    PERFORM enter_project(project, actor, need);
    SELECT status INTO state FROM projects WHERE id = project;
    IF state <> 'active' THEN
        PERFORM refuse('project_not_active', state::text);
    END IF;
END $$;

-- enter_task is the gate of every write to one task, through its project's.
CREATE FUNCTION enter_task(task uuid, actor uuid, need member_role, versions bigint[] DEFAULT NULL, trash boolean DEFAULT false)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    home uuid;
    t record;
BEGIN
    SELECT project_id INTO home FROM tasks WHERE id = task;
    IF home IS NULL THEN
        PERFORM refuse('not_found');
    END IF;
    PERFORM enter_work(home, actor, need);
    SELECT project_id, version, deleted_at INTO t FROM tasks WHERE id = task;
    IF t.project_id IS DISTINCT FROM home THEN
        RAISE serialization_failure USING MESSAGE = 'the task moved to another project meanwhile';
    ELSIF (t.deleted_at IS NOT NULL) <> trash THEN
        PERFORM refuse('not_found');
    ELSIF t.version <> ALL (versions) THEN
        PERFORM refuse('version_mismatch', t.version::text);
    END IF;
END $$;

-- enter_comments is the gate of every write to a task's comments, through the task's: members write,
-- and viewers where the project lets them. It returns the actor's role.
CREATE FUNCTION enter_comments(task uuid, actor uuid) RETURNS member_role LANGUAGE plpgsql AS $$
DECLARE
    have member_role;
    need member_role;
BEGIN
    PERFORM enter_task(task, actor, 'viewer');
    SELECT role_in(p.id, actor), CASE WHEN p.settings @> '{"viewersMayComment": true}' THEN 'viewer' ELSE 'member' END
        INTO have, need FROM tasks t JOIN projects p ON p.id = t.project_id WHERE t.id = task;
    IF have < need THEN
        PERFORM refuse('forbidden', need::text);
    END IF;
    RETURN have;
END $$;

-- enter_comment is the gate of every write to one comment: its author's, or an admin's who removes it.
CREATE FUNCTION enter_comment(comment uuid, actor uuid, removing boolean, versions bigint[] DEFAULT NULL)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    home uuid;
    have member_role;
    c record;
BEGIN
    SELECT task_id INTO home FROM comments WHERE id = comment;
    IF home IS NULL THEN
        PERFORM refuse('not_found');
    END IF;
    have := enter_comments(home, actor);
    SELECT author_id, version INTO c FROM comments WHERE id = comment;
    IF NOT FOUND THEN
        PERFORM refuse('not_found');
    ELSIF c.author_id <> actor AND NOT (removing AND have >= 'admin') THEN
        PERFORM refuse('not_author');
    ELSIF c.version <> ALL (versions) THEN
        PERFORM refuse('version_mismatch', c.version::text);
    END IF;
END $$;

-- told is a scope whose log is written, of which the client is told at once: once the transaction is
-- committed it must have nobody read the scope's state from a cache.
CREATE FUNCTION told(scope uuid) RETURNS uuid LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE USING ERRCODE = 'TF001', MESSAGE = scope;
    RETURN scope;
END $$;

-- log_change numbers one change in the project's log and returns its seq. What becomes of a member
-- stands in his own log too, as a project that is new to him is not one he looks at; without project
-- and actor, of whom he may know only while he is a member.
CREATE FUNCTION log_change(project uuid, actor uuid, kind text, subject uuid, changes jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    UPDATE projects SET seq = seq + 1 WHERE id = project RETURNING seq INTO n;
    INSERT INTO events (scope, seq, actor, kind, subject, changes) VALUES (told(project), n, actor, kind, subject, changes);
    IF kind LIKE 'member.%' THEN
        PERFORM log_account_change(subject, NULL, kind, subject, changes);
    ELSIF kind = 'project.created' THEN
        PERFORM log_account_change(m.user_id, NULL, 'member.added', m.user_id, jsonb_build_object('role', jsonb_build_array(NULL, m.role)))
        FROM members m WHERE m.project_id = project;
    END IF;
    RETURN n;
END $$;

-- log_account_change does the same in the log of one user's account.
CREATE FUNCTION log_account_change(account uuid, actor uuid, kind text, subject uuid, changes jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    UPDATE users SET seq = seq + 1 WHERE id = account RETURNING seq INTO n;
    INSERT INTO events (scope, seq, actor, kind, subject, changes) VALUES (told(account), n, actor, kind, subject, changes);
    RETURN n;
END $$;

-- changes compares two JSON objects field by field: {field: [old, new]} of those that differ.
-- A missing field counts as null.
CREATE FUNCTION changes(old jsonb, new jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(jsonb_object_agg(key, jsonb_build_array(o.value, n.value)), '{}')
        FROM jsonb_each(old) o FULL JOIN jsonb_each(new) n USING (key)
        WHERE coalesce(o.value, 'null') <> coalesce(n.value, 'null'));
END $$;

-- task_fields are the fields of a task that its history follows, named as the API names them.
CREATE FUNCTION task_fields(t tasks) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'title', t.title, 'description', t.description, 'status', t.status, 'priority', t.priority,
        'assigneeId', t.assignee_id, 'parentId', t.parent_id, 'position', t.position,
        'startDate', t.start_date, 'dueDate', t.due_date,
        'estimatedHours', t.estimated_hours, 'actualHours', t.actual_hours, 'labels', t.labels,
        'recurrence', t.recurrence)
$$;

CREATE FUNCTION project_fields(p projects) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'name', p.name, 'description', p.description, 'color', p.color, 'status', p.status,
        'startDate', p.start_date, 'endDate', p.end_date, 'settings', p.settings)
$$;

CREATE FUNCTION user_fields(u users) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'email', u.email, 'firstName', u.first_name, 'lastName', u.last_name, 'avatarUrl', u.avatar_url,
        'timezone', u.timezone, 'locale', u.locale, 'role', u.role, 'isActive', u.is_active)
$$;

-- check_parent refuses a parent that is not a live task of the same project, or that is the task
-- itself or below it. Called under the project's lock, so that no two moves can close a cycle.
CREATE FUNCTION check_parent(task uuid, parent uuid, project uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tasks WHERE id = parent AND project_id = project AND deleted_at IS NULL) THEN
        PERFORM refuse('invalid_parent', 'not_found');
    END IF;
    IF EXISTS (
        WITH RECURSIVE up AS (
            SELECT id, parent_id FROM tasks WHERE id = parent
            UNION SELECT t.id, t.parent_id FROM tasks t JOIN up ON t.id = up.parent_id)
        SELECT FROM up WHERE id = task) THEN
        PERFORM refuse('invalid_parent', 'cycle');
    END IF;
END $$;

-- check_blocker refuses a blocker that is not a live task of the same project, or that waits,
-- directly or through others, for the task it would block.
CREATE FUNCTION check_blocker(task uuid, blocker uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM tasks b JOIN tasks t USING (project_id)
                   WHERE b.id = blocker AND t.id = task AND b.deleted_at IS NULL) THEN
        PERFORM refuse('not_found');
    END IF;
    IF EXISTS (
        WITH RECURSIVE up AS (
            SELECT blocker AS id
            UNION SELECT b.blocker_id FROM task_blockers b JOIN up ON b.task_id = up.id)
        SELECT FROM up WHERE id = task) THEN
        PERFORM refuse('blocker_cycle');
    END IF;
END $$;

-- position_between makes a key that sorts (bytewise) after lo and before hi; NULL is open.
-- A key is a ten-digit number, which grows at the end and shrinks at the start by one, so that new
-- cards keep short keys, and then digits of base 62 that halve the gap between two neighbours:
-- about one more for every six cards put into the same gap. A key never ends in 0 after its number.
CREATE FUNCTION position_between(lo text, hi text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    digits CONSTANT text := '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz';
    same int := 0; -- first digits that both share
    most int;
    middle int;
    key text;
    rest text;
    a int;
    b int;
BEGIN
    IF lo IS NULL AND hi IS NULL THEN
        RETURN '5000000000';
    ELSIF hi IS NULL THEN
        RETURN lpad((left(lo, 10)::bigint + 1)::text, 10, '0');
    ELSIF lo IS NULL THEN
        RETURN lpad((left(hi, 10)::bigint - 1)::text, 10, '0');
    ELSIF left(hi, 10)::bigint - left(lo, 10)::bigint > 1 THEN
        RETURN lpad(((left(hi, 10)::bigint + left(lo, 10)::bigint) / 2)::text, 10, '0');
    END IF;
    lo := rpad(lo, greatest(length(lo), length(hi)), '0'); -- past its end lo goes on with 0
    most := length(hi) - 1;
    WHILE same < most LOOP
        middle := (same + most + 1) / 2;
        IF left(lo, middle) = left(hi, middle) THEN
            same := middle;
        ELSE
            most := middle - 1;
        END IF;
    END LOOP;
    IF same < 10 THEN -- the numbers are apart by one: keep lo's
        key := left(lo, 10);
    ELSE
        key := left(lo, same);
        a := strpos(digits, substr(lo, same + 1, 1)) - 1;
        b := strpos(digits, substr(hi, same + 1, 1)) - 1;
        IF b - a > 1 THEN
            RETURN key || substr(digits, (a + b) / 2 + 1, 1);
        END IF;
        key := key || substr(lo, same + 1, 1);
    END IF;
    rest := substr(lo, length(key) + 1); -- anything above it is below hi
    key := key || repeat('z', length(rest) - length(ltrim(rest, 'z')));
    a := greatest(strpos(digits, substr(lo, length(key) + 1, 1)) - 1, 0);
    RETURN key || substr(digits, (a + 62) / 2 + 1, 1);
END $$;

-- position_for is where a task goes in its project's order: before or after another (the anchor),
-- first, last, or where it is (keep). A task that is there already stays, so that repeating a move
-- changes nothing. Columns of a board are filtered views of this one order.
CREATE FUNCTION position_for(task uuid, place text, anchor uuid) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    home uuid;
    present text;
    lo text;
    hi text;
BEGIN
    SELECT project_id, position INTO home, present FROM tasks WHERE id = task;
    IF place IN ('before', 'after') THEN
        SELECT position INTO lo FROM tasks WHERE id = anchor AND project_id = home AND id <> task AND deleted_at IS NULL;
        IF NOT FOUND THEN
            PERFORM refuse('invalid_neighbor', place);
        END IF;
        hi := lo;
    END IF;
    IF place = 'after' THEN
        SELECT min(position) INTO hi FROM tasks WHERE project_id = home AND position > lo AND id <> task;
    ELSIF place = 'before' THEN
        SELECT max(position) INTO lo FROM tasks WHERE project_id = home AND position < hi AND id <> task;
    ELSIF place = 'first' THEN
        SELECT min(position) INTO hi FROM tasks WHERE project_id = home AND id <> task;
    ELSIF place = 'last' THEN
        SELECT max(position) INTO lo FROM tasks WHERE project_id = home AND id <> task;
    END IF;
    IF (lo IS NULL OR lo < present COLLATE "C") AND (hi IS NULL OR present < hi COLLATE "C") THEN
        RETURN present;
    END IF;
    RETURN position_between(lo, hi);
END $$;

-- make_room gives a task and those around it new, short positions in the same order when its key has
-- grown longer than an index entry may well be. That takes some 6 000 moves into the same gap, and
-- touches only the tasks whose keys begin with that gap's number, however large the project.
CREATE FUNCTION make_room(task uuid, actor uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    home uuid;
    gap text;
    last bigint;
BEGIN
    SELECT project_id, left(position, 10) INTO home, gap FROM tasks WHERE id = task AND length(position) > 1000;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    WITH n AS (
        SELECT id, gap || lpad(row_number() OVER (ORDER BY position)::text, 9, '0') || 'V' AS position
        FROM tasks WHERE project_id = home AND position >= gap AND position < gap || '{'), -- { follows z
    t AS (
        UPDATE tasks t SET position = n.position, version = t.version + 1, updated_at = clock_timestamp()
        FROM n, tasks o WHERE t.id = n.id AND o.id = t.id
        RETURNING t.id, changes(task_fields(o), task_fields(t)) AS what)
    SELECT max(log_change(home, actor, 'task.moved', id, what)) INTO last FROM t;
END $$;

-- A job exists from the transaction that needs it to the transaction of its effect, which deletes it.
-- Redis hands the jobs out but may lose them all: what is here and not there is pushed again.
CREATE TABLE jobs (
    id         uuid PRIMARY KEY,               -- UUIDv7, also the idempotency key of effects elsewhere
    queue      text NOT NULL DEFAULT 'default',
    kind       text NOT NULL,
    priority   smallint NOT NULL DEFAULT 2 CHECK (priority BETWEEN 0 AND 3),
    payload    jsonb NOT NULL,
    trace      text NOT NULL DEFAULT '',       -- of the cause: request id, a slash, trace-id and flags in hex; the first programs wrote the request id only
    unique_key text,                           -- at most one living job has it
    run_at     timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    attempts   integer NOT NULL DEFAULT 0,     -- failed ones
    created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    dead_at    timestamptz(3),                 -- given up; kept for an operator
    error      text                            -- of the last failed attempt
);
CREATE UNIQUE INDEX jobs_unique ON jobs (unique_key) WHERE dead_at IS NULL AND unique_key IS NOT NULL;
CREATE INDEX jobs_dead ON jobs (queue, id) WHERE dead_at IS NOT NULL;

-- One row for every tick of a schedule that a process has claimed.
CREATE TABLE ticks (
    name    text NOT NULL,
    tick    timestamptz NOT NULL,
    made_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, tick)
);

-- What operators did to queues and jobs.
CREATE TABLE audit (
    id     uuid PRIMARY KEY,
    at     timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    actor  uuid NOT NULL REFERENCES users,
    action text NOT NULL,                      -- such as queue.paused, job.retried
    target text NOT NULL,                      -- queue or job id
    detail jsonb NOT NULL DEFAULT '{}'
);

-- What a user should know: one row for each thing that happened to him.
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
    inbox      boolean NOT NULL DEFAULT true,  -- shown there; or else only mailed
    by_mail    boolean NOT NULL DEFAULT false, -- mailed as it happens
    mail_id    uuid,                           -- of the job that mails it, by itself or in a digest
    CONSTRAINT notifications_unique_key UNIQUE (user_id, unique_key)
);
CREATE INDEX notifications_user ON notifications (user_id, id);
CREATE INDEX notifications_unread ON notifications (user_id, id) WHERE read_at IS NULL AND inbox;
CREATE INDEX notifications_unmailed ON notifications (user_id) WHERE by_mail AND mail_id IS NULL;
CREATE INDEX notifications_mail ON notifications (mail_id) WHERE mail_id IS NOT NULL;

-- What users want to be told, and how; who has no row has the defaults.
CREATE TABLE notification_settings (
    user_id  uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    kinds    jsonb NOT NULL DEFAULT '{}',      -- {kind: {"inbox": …, "email": …}}; what is left out is as by default
    email    boolean NOT NULL DEFAULT true,    -- false: no mail of notifications at all
    digest   text NOT NULL DEFAULT 'off',
    hour     smallint NOT NULL DEFAULT 8,      -- of digests, on the user's clock
    weekday  smallint NOT NULL DEFAULT 1,      -- of weekly ones, as ISO 8601 counts: 1 is Monday
    digested timestamp NOT NULL DEFAULT '-infinity', -- what the user's clock showed when the last digest was due, or was set
    version  bigint NOT NULL DEFAULT 1,
    CONSTRAINT notification_settings_digest_check CHECK (digest IN ('off', 'daily', 'weekly') AND hour BETWEEN 0 AND 23 AND weekday BETWEEN 1 AND 7)
);
CREATE INDEX notification_settings_digest ON notification_settings (user_id) WHERE digest <> 'off';

-- tell tells a user once for each key what somebody else did, as he wants it, if he may read the
-- project now. mails is whether the kind is mailed by default; NULL: nothing is.
CREATE FUNCTION tell(recipient uuid, actor uuid, kind text, task uuid, project uuid, detail jsonb, key text, mails boolean)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    shown boolean;
    mailed boolean;
BEGIN
    SELECT coalesce((s.kinds -> tell.kind ->> 'inbox')::boolean, true),
        mails IS NOT NULL AND u.email_verified_at IS NOT NULL AND coalesce(s.email, true)
            AND coalesce((s.kinds -> tell.kind ->> 'email')::boolean, mails)
    INTO shown, mailed
    FROM users u LEFT JOIN notification_settings s ON s.user_id = u.id
    WHERE u.id = recipient AND u.is_active AND u.id IS DISTINCT FROM actor
        AND (project IS NULL OR role_in(project, u.id) IS NOT NULL);
    IF shown OR mailed THEN
        INSERT INTO notifications (id, user_id, kind, task_id, project_id, detail, unique_key, inbox, by_mail)
        VALUES (uuid_v7(), recipient, kind, task, project, detail, key, shown, mailed)
        ON CONFLICT ON CONSTRAINT notifications_unique_key DO NOTHING;
    END IF;
END $$;

-- uuid_v7 is an id as the program makes them (RFC 9562): the time in ms, then chance.
CREATE FUNCTION uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE AS $$
    SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
        PLACING substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6), 52, 1), 53, 1), 'hex')::uuid
$$;

-- A project's figures as they were at a seq of its log, made in the background.
CREATE TABLE project_stats (
    project_id uuid PRIMARY KEY REFERENCES projects ON DELETE CASCADE,
    seq        bigint NOT NULL,
    made_at    timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    stats      jsonb NOT NULL
);

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
    error      text,
    trace      bytea DEFAULT decode(nullif(current_setting('taskflow.trace', true), ''), 'hex') -- of the event; see there
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

-- What operators decided about a queue.
CREATE TABLE queues (
    name   text PRIMARY KEY,
    paused boolean NOT NULL DEFAULT false
);

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

-- Files of tasks.
CREATE TABLE attachments (
    id           uuid PRIMARY KEY,             -- UUIDv7: its order is the order of creation
    task_id      uuid NOT NULL REFERENCES tasks ON DELETE CASCADE,
    project_id   uuid NOT NULL,                -- the task's; see attachments_follow
    name         text NOT NULL,
    size         bigint NOT NULL,              -- bytes
    content_type text NOT NULL,                -- by what it is, not by what it is called
    checksum     bytea NOT NULL,               -- SHA-256
    width        integer,                      -- pixels, of an image that could be read
    height       integer,
    created_by   uuid NOT NULL REFERENCES users,
    created_at   timestamptz(3) NOT NULL,
    version      bigint NOT NULL DEFAULT 1,
    CONSTRAINT attachments_name_check CHECK (char_length(name) BETWEEN 1 AND 255),
    CONSTRAINT attachments_size_check CHECK (size >= 0)
);
CREATE INDEX attachments_task ON attachments (task_id, id);
CREATE INDEX attachments_project ON attachments (project_id) INCLUDE (size); -- what a project has in all

-- What is in the storage of files, from before the first byte is there until after the last is gone. One that
-- is not pending and no attachment's is to be removed, so whatever deletes an attachment need not know of it.
CREATE TABLE blobs (
    key           text COLLATE "C" PRIMARY KEY, -- random; its place in the storage
    attachment_id uuid REFERENCES attachments ON DELETE SET NULL,
    thumbnail     boolean NOT NULL,            -- a small image of the attachment, not the file itself
    pending       boolean NOT NULL DEFAULT true, -- still on its way in
    size          bigint NOT NULL DEFAULT 0,   -- bytes, once it is there
    created_at    timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT blobs_attachment_key UNIQUE (attachment_id, thumbnail)
);
CREATE INDEX blobs_loose ON blobs (key) WHERE attachment_id IS NULL;

-- attachments_follow keeps the attachments of a task in its project.
CREATE FUNCTION attachments_follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE attachments SET project_id = NEW.project_id WHERE task_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER attachments_follow AFTER UPDATE OF project_id ON tasks FOR EACH ROW EXECUTE FUNCTION attachments_follow();

-- enter_attachment is the gate of every change to an attachment, through its task's: for whoever put it there, if he
-- is still a member, and for admins.
CREATE FUNCTION enter_attachment(attachment uuid, actor uuid, versions bigint[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    a record;
BEGIN
    SELECT task_id, created_by INTO a FROM attachments WHERE id = attachment;
    IF NOT FOUND THEN
        PERFORM refuse('not_found');
    END IF;
    PERFORM enter_task(a.task_id, actor, CASE WHEN a.created_by = actor THEN 'member' ELSE 'admin' END::member_role);
    SELECT version INTO a FROM attachments WHERE id = attachment FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM refuse('not_found');
    ELSIF a.version <> ALL (versions) THEN
        PERFORM refuse('version_mismatch', a.version::text);
    END IF;
END $$;
