-- The whole schema as the migrations leave it, to be read; nothing runs it but the test that compares the two.
PRAGMA application_id = 0x63686f72;     -- "chor"
PRAGMA user_version = 3;

-- Texts, each with everything needed to tell whether it is still the right one.
CREATE TABLE versions (
  version_id        TEXT PRIMARY KEY,   -- 20261122T101530123Z-7f3a: sortable, never reused
  content_id        TEXT NOT NULL,
  body              TEXT NOT NULL,
  sha256            TEXT NOT NULL,      -- of the body
  fingerprint       TEXT NOT NULL,      -- of all it was made from
  generator         TEXT NOT NULL,
  generator_version TEXT NOT NULL,
  generated_at      TEXT NOT NULL,
  config_version    TEXT,
  stage             TEXT NOT NULL,
  metadata          TEXT NOT NULL,      -- JSON
  approved          INTEGER NOT NULL DEFAULT 0,
  deleted           INTEGER NOT NULL DEFAULT 0, -- the body was, and is empty
  size              INTEGER NOT NULL DEFAULT 0  -- bytes of the body
) STRICT;
-- Holds all that lists need, so that they don't walk through the bodies.
CREATE INDEX versions_of_content ON versions (
  content_id, deleted, version_id, generated_at, generator, config_version, stage, approved, size
);
CREATE INDEX versions_by_fingerprint ON versions (content_id, fingerprint, deleted, version_id);
CREATE INDEX versions_by_config ON versions (content_id, config_version, deleted, version_id);
CREATE INDEX versions_by_time ON versions (content_id, deleted, generated_at, version_id, size);
CREATE INDEX versions_approved ON versions (content_id, version_id) WHERE approved = 1 AND deleted = 0;

CREATE TABLE last_deleted_version (
  version_id TEXT NOT NULL              -- the highest id that was ever deleted: it isn't given again
) STRICT;

CREATE TABLE drafts (
  draft_id    TEXT PRIMARY KEY,
  config_type TEXT NOT NULL,
  config_data TEXT NOT NULL,            -- JSON, as it was given
  description TEXT,
  created_at  TEXT NOT NULL,
  updated_at  TEXT NOT NULL
) STRICT;
CREATE INDEX drafts_by_time ON drafts (created_at, draft_id);
CREATE INDEX drafts_by_update ON drafts (updated_at, draft_id);

-- Files on disk. A hash that is neither `sha256` nor `pending` is a person's edit.
CREATE TABLE outputs (
  path        TEXT PRIMARY KEY,         -- relative to the project
  artifact_id TEXT NOT NULL,
  sha256      TEXT,                     -- NULL until the first write is known to be complete
  pending     TEXT,                     -- of a write that may or may not have happened
  fingerprint TEXT NOT NULL,
  size        INTEGER NOT NULL,
  written_at  TEXT NOT NULL,
  base        TEXT                      -- the text itself, where edits are to be merged
) STRICT;
CREATE INDEX outputs_of_artifact ON outputs (artifact_id, path);

CREATE TABLE samples (
  kind         TEXT NOT NULL,           -- probe, latency
  at           TEXT NOT NULL,
  ok           INTEGER NOT NULL,
  milliseconds REAL NOT NULL,
  facts        TEXT NOT NULL            -- JSON
) STRICT;
CREATE INDEX samples_by_time ON samples (kind, at);

-- What a piece of work read, and what came of it.
CREATE TABLE traces (
  subject TEXT NOT NULL,                -- such as content:configs/content/intro.json
  key     TEXT NOT NULL,
  seen    TEXT NOT NULL,                -- JSON
  result  TEXT NOT NULL,                -- JSON
  at      TEXT NOT NULL,
  PRIMARY KEY (subject, key)
) STRICT;
CREATE INDEX traces_by_time ON traces (subject, at);

-- Work that may outlive its call.
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
CREATE INDEX jobs_by_key ON jobs (key, created_at, job_id);
CREATE INDEX jobs_by_time ON jobs (created_at, job_id);
CREATE INDEX jobs_by_update ON jobs (updated_at, job_id);

-- What calls of paid models took.
CREATE TABLE costs (
  at            TEXT NOT NULL,
  content_id    TEXT NOT NULL,
  model         TEXT NOT NULL,
  input_tokens  INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  usd           REAL                    -- NULL where the price isn't known
) STRICT;
CREATE INDEX costs_by_time ON costs (at, usd);

-- What models answered.
CREATE TABLE completions (
  key           TEXT PRIMARY KEY,       -- hash of prompt and parameters
  model         TEXT NOT NULL,
  text          TEXT NOT NULL,
  input_tokens  INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  at            TEXT NOT NULL
) STRICT;

-- What happened, as the event file has it too.
CREATE TABLE events (
  at       TEXT NOT NULL,
  kind     TEXT NOT NULL,
  status   TEXT NOT NULL,
  trace_id TEXT,
  facts    TEXT NOT NULL                -- JSON
) STRICT;
CREATE INDEX events_by_time ON events (at);

-- The numbers are kept by triggers, so that they are right whichever process writes. A trigger fires for the row that
-- INSERT OR REPLACE removes because the pragma recursive_triggers is on.

CREATE TABLE contents (
  content_id TEXT PRIMARY KEY,
  versions   INTEGER NOT NULL,          -- all of them
  kept       INTEGER NOT NULL           -- those whose text isn't deleted
) STRICT, WITHOUT ROWID;

CREATE TRIGGER version_added AFTER INSERT ON versions BEGIN
  -- No ON CONFLICT here: that of the statement which fired the trigger would take its place.
  INSERT INTO contents SELECT NEW.content_id, 0, 0
    WHERE NOT EXISTS (SELECT 1 FROM contents WHERE content_id = NEW.content_id);
  UPDATE contents SET versions = versions + 1, kept = kept + (NEW.deleted = 0) WHERE content_id = NEW.content_id;
END;
CREATE TRIGGER version_removed AFTER DELETE ON versions BEGIN
  UPDATE contents SET versions = versions - 1, kept = kept - (OLD.deleted = 0) WHERE content_id = OLD.content_id;
  DELETE FROM contents WHERE content_id = OLD.content_id AND versions = 0;
END;
CREATE TRIGGER version_text_deleted AFTER UPDATE OF deleted ON versions BEGIN
  UPDATE contents SET kept = kept + (NEW.deleted = 0) - (OLD.deleted = 0) WHERE content_id = NEW.content_id;
END;

CREATE TABLE hourly_totals (
  name   TEXT NOT NULL,                 -- the kind of a sample, or cost
  hour   TEXT NOT NULL,                 -- 2026-11-22T10
  number INTEGER NOT NULL,
  total  REAL NOT NULL,                 -- how many were ok; US dollars
  PRIMARY KEY (name, hour)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER sample_added AFTER INSERT ON samples BEGIN
  INSERT INTO hourly_totals SELECT NEW.kind, substr(NEW.at, 1, 13), 0, 0
    WHERE NOT EXISTS (SELECT 1 FROM hourly_totals WHERE name = NEW.kind AND hour = substr(NEW.at, 1, 13));
  UPDATE hourly_totals SET number = number + 1, total = total + NEW.ok
    WHERE name = NEW.kind AND hour = substr(NEW.at, 1, 13);
END;
CREATE TRIGGER sample_removed AFTER DELETE ON samples BEGIN
  UPDATE hourly_totals SET number = number - 1, total = total - OLD.ok
    WHERE name = OLD.kind AND hour = substr(OLD.at, 1, 13);
  DELETE FROM hourly_totals WHERE name = OLD.kind AND hour = substr(OLD.at, 1, 13) AND number = 0;
END;
CREATE TRIGGER cost_added AFTER INSERT ON costs BEGIN
  INSERT INTO hourly_totals SELECT 'cost', substr(NEW.at, 1, 13), 0, 0
    WHERE NOT EXISTS (SELECT 1 FROM hourly_totals WHERE name = 'cost' AND hour = substr(NEW.at, 1, 13));
  UPDATE hourly_totals SET number = number + 1, total = total + coalesce(NEW.usd, 0)
    WHERE name = 'cost' AND hour = substr(NEW.at, 1, 13);
END;

CREATE TABLE row_counts (
  name   TEXT PRIMARY KEY,              -- of the table
  number INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER versions_counted_in AFTER INSERT ON versions BEGIN
  UPDATE row_counts SET number = number + 1 WHERE name = 'versions';
END;
CREATE TRIGGER versions_counted_out AFTER DELETE ON versions BEGIN
  UPDATE row_counts SET number = number - 1 WHERE name = 'versions';
END;
CREATE TRIGGER drafts_counted_in AFTER INSERT ON drafts BEGIN
  UPDATE row_counts SET number = number + 1 WHERE name = 'drafts';
END;
CREATE TRIGGER drafts_counted_out AFTER DELETE ON drafts BEGIN
  UPDATE row_counts SET number = number - 1 WHERE name = 'drafts';
END;
CREATE TRIGGER outputs_counted_in AFTER INSERT ON outputs BEGIN
  UPDATE row_counts SET number = number + 1 WHERE name = 'outputs';
END;
CREATE TRIGGER outputs_counted_out AFTER DELETE ON outputs BEGIN
  UPDATE row_counts SET number = number - 1 WHERE name = 'outputs';
END;
CREATE TRIGGER traces_counted_in AFTER INSERT ON traces BEGIN
  UPDATE row_counts SET number = number + 1 WHERE name = 'traces';
END;
CREATE TRIGGER traces_counted_out AFTER DELETE ON traces BEGIN
  UPDATE row_counts SET number = number - 1 WHERE name = 'traces';
END;
CREATE TRIGGER jobs_counted_in AFTER INSERT ON jobs BEGIN
  UPDATE row_counts SET number = number + 1 WHERE name = 'jobs';
END;
CREATE TRIGGER jobs_counted_out AFTER DELETE ON jobs BEGIN
  UPDATE row_counts SET number = number - 1 WHERE name = 'jobs';
END;
CREATE TRIGGER costs_counted_in AFTER INSERT ON costs BEGIN
  UPDATE row_counts SET number = number + 1 WHERE name = 'costs';
END;
CREATE TRIGGER costs_counted_out AFTER DELETE ON costs BEGIN
  UPDATE row_counts SET number = number - 1 WHERE name = 'costs';
END;
CREATE TRIGGER completions_counted_in AFTER INSERT ON completions BEGIN
  UPDATE row_counts SET number = number + 1 WHERE name = 'completions';
END;
CREATE TRIGGER completions_counted_out AFTER DELETE ON completions BEGIN
  UPDATE row_counts SET number = number - 1 WHERE name = 'completions';
END;
CREATE TRIGGER samples_counted_in AFTER INSERT ON samples BEGIN
  UPDATE row_counts SET number = number + 1 WHERE name = 'samples';
END;
CREATE TRIGGER samples_counted_out AFTER DELETE ON samples BEGIN
  UPDATE row_counts SET number = number - 1 WHERE name = 'samples';
END;
CREATE TRIGGER events_counted_in AFTER INSERT ON events BEGIN
  UPDATE row_counts SET number = number + 1 WHERE name = 'events';
END;
CREATE TRIGGER events_counted_out AFTER DELETE ON events BEGIN
  UPDATE row_counts SET number = number - 1 WHERE name = 'events';
END;
