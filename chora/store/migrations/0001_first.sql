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
  metadata          TEXT NOT NULL       -- JSON
) STRICT;
CREATE INDEX versions_of_content ON versions (content_id, version_id);
CREATE INDEX versions_by_fingerprint ON versions (content_id, fingerprint, version_id);

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
  written_at  TEXT NOT NULL
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
