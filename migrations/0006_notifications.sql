-- Notifications of every kind, as each user wants them: in the inbox, by mail as they happen, in a digest.

CREATE TABLE notification_settings (
    user_id  uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    kinds    jsonb NOT NULL DEFAULT '{}',
    email    boolean NOT NULL DEFAULT true,
    digest   text NOT NULL DEFAULT 'off',
    hour     smallint NOT NULL DEFAULT 8,
    weekday  smallint NOT NULL DEFAULT 1,
    digested timestamp NOT NULL DEFAULT '-infinity',
    version  bigint NOT NULL DEFAULT 1,
    CONSTRAINT notification_settings_digest_check CHECK (digest IN ('off', 'daily', 'weekly') AND hour BETWEEN 0 AND 23 AND weekday BETWEEN 1 AND 7)
);
CREATE INDEX notification_settings_digest ON notification_settings (user_id) WHERE digest <> 'off';

ALTER TABLE notifications ADD COLUMN inbox boolean NOT NULL DEFAULT true;
ALTER TABLE notifications ADD COLUMN by_mail boolean NOT NULL DEFAULT false;
ALTER TABLE notifications ADD COLUMN mail_id uuid;
CREATE INDEX notifications_unread ON notifications (user_id, id) WHERE read_at IS NULL AND inbox;
CREATE INDEX notifications_unmailed ON notifications (user_id) WHERE by_mail AND mail_id IS NULL;
CREATE INDEX notifications_mail ON notifications (mail_id) WHERE mail_id IS NOT NULL;

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
        ON CONFLICT ON CONSTRAINT notifications_unique_key DO UPDATE SET id = excluded.id, kind = excluded.kind,
            detail = excluded.detail, inbox = excluded.inbox, by_mail = excluded.by_mail, mail_id = NULL,
            created_at = excluded.created_at, read_at = NULL
        WHERE notifications.kind = 'comment.created' AND excluded.kind = 'comment.mentioned';
    END IF;
END $$;
