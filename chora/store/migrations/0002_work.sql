ALTER TABLE versions ADD COLUMN approved INTEGER NOT NULL DEFAULT 0;
ALTER TABLE versions ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE versions ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
UPDATE versions SET approved = stage = 'approved', size = length(CAST(body AS BLOB));

-- Holds all that lists need, so that they don't walk through the bodies.
DROP INDEX versions_of_content;
CREATE INDEX versions_of_content ON versions (
  content_id, version_id, deleted, generated_at, generator, config_version, stage, approved, size
);

CREATE TABLE last_deleted_version (
  version_id TEXT NOT NULL              -- the highest id that was ever deleted: it isn't given again
) STRICT;

ALTER TABLE outputs ADD COLUMN base TEXT;

CREATE TABLE traces (
  subject TEXT NOT NULL,                -- such as content:configs/content/intro.json
  key     TEXT NOT NULL,
  seen    TEXT NOT NULL,                -- JSON
  result  TEXT NOT NULL,                -- JSON
  at      TEXT NOT NULL,
  PRIMARY KEY (subject, key)
) STRICT;

CREATE TABLE jobs (
  job_id     TEXT PRIMARY KEY,
  key        TEXT NOT NULL,             -- the same call has the same
  tool       TEXT NOT NULL,
  arguments  TEXT NOT NULL,             -- JSON
  principal  TEXT NOT NULL,
  status     TEXT NOT NULL,             -- running, done, failed, cancelled, interrupted
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,
  progress   TEXT NOT NULL,             -- JSON
  result     TEXT                       -- JSON
) STRICT;
CREATE INDEX jobs_by_key ON jobs (key, created_at);

CREATE TABLE costs (
  at            TEXT NOT NULL,
  content_id    TEXT NOT NULL,
  model         TEXT NOT NULL,
  input_tokens  INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  usd           REAL                    -- NULL where the price isn't known
) STRICT;
CREATE INDEX costs_by_time ON costs (at, usd);

CREATE TABLE completions (
  key           TEXT PRIMARY KEY,       -- hash of prompt and parameters
  model         TEXT NOT NULL,
  text          TEXT NOT NULL,
  input_tokens  INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  at            TEXT NOT NULL
) STRICT;

CREATE TABLE events (
  at       TEXT NOT NULL,
  kind     TEXT NOT NULL,
  status   TEXT NOT NULL,
  trace_id TEXT,
  facts    TEXT NOT NULL                -- JSON
) STRICT;
CREATE INDEX events_by_time ON events (at);
