-- What a project does with its members stands in their own logs too.

CREATE OR REPLACE FUNCTION log_change(project uuid, actor uuid, kind text, subject uuid, changes jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n bigint;
BEGIN
    UPDATE projects SET seq = seq + 1 WHERE id = project RETURNING seq INTO n;
    INSERT INTO events (scope, seq, actor, kind, subject, changes) VALUES (told(project), n, actor, kind, subject, changes);
    IF kind LIKE 'member.%' THEN
        PERFORM log_account_change(subject, actor, kind, project, changes);
    ELSIF kind = 'project.created' THEN
        PERFORM log_account_change(m.user_id, actor, 'member.added', project, jsonb_build_object('role', jsonb_build_array(NULL, m.role)))
        FROM members m WHERE m.project_id = project;
    END IF;
    RETURN n;
END $$;
