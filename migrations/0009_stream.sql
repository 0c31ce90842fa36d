-- What becomes of a member stands in his own log too, without what names the project.

CREATE OR REPLACE FUNCTION log_change(project uuid, actor uuid, kind text, subject uuid, changes jsonb) RETURNS bigint LANGUAGE plpgsql AS $$
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
