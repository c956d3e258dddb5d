-- Nothing takes longer because more is stored: every list is a page of an index, and every number is kept.

DROP INDEX versions_of_content;
CREATE INDEX versions_of_content ON versions (
  content_id, deleted, version_id, generated_at, generator, config_version, stage, approved, size
);
DROP INDEX versions_by_fingerprint;
CREATE INDEX versions_by_fingerprint ON versions (content_id, fingerprint, deleted, version_id);
CREATE INDEX versions_by_config ON versions (content_id, config_version, deleted, version_id);
CREATE INDEX versions_by_time ON versions (content_id, deleted, generated_at, version_id, size);
CREATE INDEX versions_approved ON versions (content_id, version_id) WHERE approved = 1 AND deleted = 0;

CREATE INDEX drafts_by_time ON drafts (created_at, draft_id);
CREATE INDEX drafts_by_update ON drafts (updated_at, draft_id);
CREATE INDEX traces_by_time ON traces (subject, at);
CREATE INDEX jobs_by_time ON jobs (created_at, job_id);
CREATE INDEX jobs_by_update ON jobs (updated_at, job_id);
DROP INDEX jobs_by_key;
CREATE INDEX jobs_by_key ON jobs (key, created_at, job_id);
DROP INDEX outputs_of_artifact;
CREATE INDEX outputs_of_artifact ON outputs (artifact_id, path);

-- The numbers are kept by triggers, so that they are right whichever process writes. A trigger fires for the row that
-- INSERT OR REPLACE removes because the pragma recursive_triggers is on.

CREATE TABLE contents (
  content_id TEXT PRIMARY KEY,
  versions   INTEGER NOT NULL,          -- all of them
  kept       INTEGER NOT NULL           -- those whose text isn't deleted
) STRICT, WITHOUT ROWID;
INSERT INTO contents SELECT content_id, count(*), sum(deleted = 0) FROM versions GROUP BY content_id;

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
INSERT INTO hourly_totals SELECT kind, substr(at, 1, 13), count(*), total(ok) FROM samples GROUP BY 1, 2;
INSERT INTO hourly_totals SELECT 'cost', substr(at, 1, 13), count(*), total(usd) FROM costs GROUP BY 1, 2;

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
INSERT INTO row_counts VALUES
  ('versions', (SELECT count(*) FROM versions)),
  ('drafts', (SELECT count(*) FROM drafts)),
  ('outputs', (SELECT count(*) FROM outputs)),
  ('traces', (SELECT count(*) FROM traces)),
  ('jobs', (SELECT count(*) FROM jobs)),
  ('costs', (SELECT count(*) FROM costs)),
  ('completions', (SELECT count(*) FROM completions)),
  ('samples', (SELECT count(*) FROM samples)),
  ('events', (SELECT count(*) FROM events));

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
