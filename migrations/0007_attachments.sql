-- Files of tasks, and where their bytes are.

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
