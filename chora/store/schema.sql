-- The whole schema as the migrations leave it, to be read; nothing runs it but the test that compares the two.
PRAGMA application_id = 0x63686f72;     -- "chor"
PRAGMA user_version = 2;

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
  content_id, version_id, deleted, generated_at, generator, config_version, stage, approved, size
);
CREATE INDEX versions_by_fingerprint ON versions (content_id, fingerprint, version_id);

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
CREATE INDEX outputs_of_artifact ON outputs (artifact_id);

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
CREATE INDEX jobs_by_key ON jobs (key, created_at);

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
