-- What a change is a part of goes with it to whoever hears of it. Programs before this one set nothing and leave NULL.

ALTER TABLE events ADD COLUMN trace bytea DEFAULT decode(nullif(current_setting('taskflow.trace', true), ''), 'hex');
ALTER TABLE deliveries ADD COLUMN trace bytea DEFAULT decode(nullif(current_setting('taskflow.trace', true), ''), 'hex');
