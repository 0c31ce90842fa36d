-- Comments on tasks.

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
