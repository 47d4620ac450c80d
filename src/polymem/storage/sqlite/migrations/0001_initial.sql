-- Times are integer microseconds since 1970-01-01 UTC. JSON is canonical text. Booleans are 0 or 1.
-- Every key of a tenant's table starts with tenant_id; counters, plans, tenants, keys, models and job_dispatch
-- stand outside. Three tables are kept by doc_no, which is one tenant's by itself and never given twice: memories,
-- index_entries and token_vectors. Columns that filters read stand before the long ones: a row is read from its start.

-- The last number given out, each moved in the transaction that uses it, so that none is ever given twice:
-- doc_no to memories, tenant_no to tenants, job_sequence to jobs (over all tenants, in commit order).
-- pings counts the writes that only prove that writing works. tombstones_purged is the last tombstone (its rowid)
-- of which no trace is left in the log.
CREATE TABLE counters (
  name   TEXT PRIMARY KEY,
  value  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO counters VALUES ('doc_no', 0), ('tenant_no', 0), ('job_sequence', 0), ('pings', 0), ('tombstones_purged', 0);

CREATE TABLE plans (
  name                 TEXT PRIMARY KEY,
  requests_per_minute  INTEGER NOT NULL CHECK (requests_per_minute > 0),
  burst                INTEGER NOT NULL CHECK (burst > 0),
  max_memories         INTEGER CHECK (max_memories > 0),
  queries_per_day      INTEGER CHECK (queries_per_day > 0)
) STRICT;

INSERT INTO plans VALUES
  ('self-hosted', 60000, 60000, NULL, NULL),
  ('free', 60, 60, 10000, 1000),
  ('pro', 600, 600, 500000, 50000),
  ('team', 3000, 3000, 5000000, 500000);

-- tenant_no is a short internal number: it names the tenant in index_entries and token_vectors.
-- change_no counts committed changes.
CREATE TABLE tenants (
  tenant_id     TEXT PRIMARY KEY,
  tenant_no     INTEGER NOT NULL UNIQUE,
  name          TEXT NOT NULL,
  plan          TEXT NOT NULL REFERENCES plans (name),
  is_active     INTEGER NOT NULL,
  created_at    INTEGER NOT NULL,
  change_no     INTEGER NOT NULL DEFAULT 0,
  memory_count  INTEGER NOT NULL DEFAULT 0,
  terms_total   INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE users (
  tenant_id          TEXT NOT NULL REFERENCES tenants (tenant_id),
  user_id            TEXT NOT NULL,
  name               TEXT NOT NULL,
  personal_space_id  TEXT NOT NULL,
  created_at         INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, user_id),
  UNIQUE (tenant_id, name)
) STRICT;

CREATE TABLE keys (
  key_hash        BLOB PRIMARY KEY,
  key_id          TEXT NOT NULL UNIQUE,
  tenant_id       TEXT NOT NULL,
  user_id         TEXT NOT NULL,
  name            TEXT NOT NULL,
  prefix          TEXT NOT NULL,
  scopes          TEXT NOT NULL,
  allowed_spaces  TEXT,
  created_at      INTEGER NOT NULL,
  expires_at      INTEGER,
  revoked_at      INTEGER,
  FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, user_id)
) STRICT;

CREATE INDEX keys_by_tenant ON keys (tenant_id, created_at);

CREATE TABLE spaces (
  tenant_id      TEXT NOT NULL REFERENCES tenants (tenant_id),
  space_id       TEXT NOT NULL,
  kind           TEXT NOT NULL,
  name           TEXT NOT NULL,
  is_restricted  INTEGER NOT NULL,
  created_at     INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, space_id)
) STRICT;

CREATE UNIQUE INDEX spaces_by_name ON spaces (tenant_id, kind, name) WHERE kind <> 'personal';

CREATE TABLE members (
  tenant_id  TEXT NOT NULL,
  space_id   TEXT NOT NULL,
  user_id    TEXT NOT NULL,
  role       TEXT NOT NULL,
  PRIMARY KEY (tenant_id, space_id, user_id),
  FOREIGN KEY (tenant_id, space_id) REFERENCES spaces (tenant_id, space_id),
  FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, user_id)
) STRICT;

-- doc_no is the row's number in the index; it grows with every new memory and is never reused.
-- The wide columns stand last, so that a filter on the others does not walk their overflow pages.
CREATE TABLE memories (
  doc_no         INTEGER PRIMARY KEY,
  tenant_id      TEXT NOT NULL REFERENCES tenants (tenant_id),
  memory_id      TEXT NOT NULL,
  space_id       TEXT NOT NULL,
  memory_type    TEXT NOT NULL,
  state          TEXT NOT NULL,
  source         TEXT,
  agent_id       TEXT,
  session_id     TEXT,
  turn_role      TEXT,
  turn_seq       INTEGER,
  content_type   TEXT,
  identity       TEXT,
  created_by     TEXT NOT NULL,
  updated_by     TEXT,
  superseded_by  TEXT,
  role           TEXT NOT NULL,
  importance     REAL NOT NULL,
  valence        REAL NOT NULL,
  external_ref   TEXT,
  fingerprint    TEXT,
  content_key    TEXT NOT NULL,
  derived_from   TEXT NOT NULL,
  version        INTEGER NOT NULL,
  revision       INTEGER NOT NULL,
  created_at     INTEGER NOT NULL,
  updated_at     INTEGER NOT NULL,
  change_no      INTEGER NOT NULL,
  supersedes     TEXT NOT NULL,
  concepts       TEXT NOT NULL,
  tags           TEXT NOT NULL,
  metadata       TEXT,
  content        TEXT NOT NULL,
  UNIQUE (tenant_id, memory_id),
  FOREIGN KEY (tenant_id, space_id) REFERENCES spaces (tenant_id, space_id)
) STRICT;

CREATE UNIQUE INDEX memories_by_identity ON memories (tenant_id, identity) WHERE identity IS NOT NULL;
-- Holds all that lists commonly filter, order and count by, so that only the page itself is read from the rows.
CREATE INDEX memories_by_update ON memories
  (tenant_id, space_id, state, memory_type, updated_at, memory_id, created_at, agent_id, source);
CREATE INDEX memories_by_session ON memories (tenant_id, session_id, created_at, turn_seq, memory_id)
  WHERE session_id IS NOT NULL;
CREATE INDEX memories_by_seq ON memories (tenant_id, session_id, space_id, turn_seq, memory_id)
  WHERE turn_seq IS NOT NULL;
-- Finds the oldest of those that say the same; and holds all that statistics add up, so that they read no row.
CREATE INDEX memories_by_content ON memories (tenant_id, space_id, content_key, state, superseded_by, created_at,
  memory_id, role, fingerprint, importance, valence);
CREATE INDEX memories_by_fingerprint ON memories (tenant_id, space_id, fingerprint, state, superseded_by, created_at,
  memory_id) WHERE fingerprint IS NOT NULL;
CREATE INDEX memories_by_creation ON memories
  (tenant_id, space_id, created_at, memory_id, state, superseded_by, memory_type, agent_id, source);
CREATE INDEX memories_by_change ON memories (tenant_id, change_no);

CREATE TABLE memory_tags (
  tenant_id  TEXT NOT NULL,
  tag        TEXT NOT NULL,
  memory_id  TEXT NOT NULL,
  PRIMARY KEY (tenant_id, tag, memory_id)
) STRICT, WITHOUT ROWID;

-- The concepts of memories by their keys, and which came together how often: see polymem.domain.concepts. The keys of
-- an association stand in the order of their bytes: source < target. doc_no: the memory's own, for the index in memory.
CREATE TABLE memory_concepts (
  tenant_id  TEXT NOT NULL,
  space_id   TEXT NOT NULL,
  concept    TEXT NOT NULL,
  memory_id  TEXT NOT NULL,
  doc_no     INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, space_id, concept, memory_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE associations (
  tenant_id   TEXT NOT NULL,
  space_id    TEXT NOT NULL,
  source      TEXT NOT NULL,
  target      TEXT NOT NULL,
  weight      REAL NOT NULL,
  valence     REAL NOT NULL,
  count       INTEGER NOT NULL,
  updated_at  INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, space_id, source, target)
) STRICT, WITHOUT ROWID;

CREATE INDEX associations_by_source ON associations (tenant_id, space_id, source, weight DESC, target);
CREATE INDEX associations_by_target ON associations (tenant_id, space_id, target, weight DESC, source);

CREATE TABLE memory_versions (
  tenant_id    TEXT NOT NULL,
  memory_id    TEXT NOT NULL,
  revision     INTEGER NOT NULL,
  body         TEXT NOT NULL,
  replaced_at  INTEGER NOT NULL,
  replaced_by  TEXT,
  reason       TEXT NOT NULL,
  PRIMARY KEY (tenant_id, memory_id, revision)
) STRICT;

CREATE TABLE tombstones (
  tenant_id   TEXT NOT NULL,
  memory_id   TEXT NOT NULL,
  space_id    TEXT NOT NULL,
  doc_no      INTEGER NOT NULL,
  deleted_at  INTEGER NOT NULL,
  change_no   INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, memory_id)
) STRICT;

CREATE INDEX tombstones_by_change ON tombstones (tenant_id, change_no);

CREATE TABLE forgotten_identities (
  tenant_id  TEXT NOT NULL,
  identity   TEXT NOT NULL,
  PRIMARY KEY (tenant_id, identity)
) STRICT, WITHOUT ROWID;

CREATE TABLE models (
  model_no         INTEGER PRIMARY KEY,
  name             TEXT NOT NULL,
  revision         TEXT NOT NULL,
  dimension        INTEGER NOT NULL,
  token_dimension  INTEGER NOT NULL,
  UNIQUE (name, revision, dimension, token_dimension)
) STRICT;

-- The index entry of a memory. length: its terms, repeats counted. terms: the 8-byte codes of the distinct ones,
-- ascending; counts: how often each stands in it, all as unsigned numbers of one byte, or of four. model_no: which
-- model made the vectors. traits: the engine's own bytes. chunks: start, end and number of tokens of each chunk,
-- int32; embeddings: one row of float16 for each chunk. All numbers in blobs are little-endian.
CREATE TABLE index_entries (
  doc_no       INTEGER PRIMARY KEY,
  tenant_no    INTEGER NOT NULL,
  length       INTEGER NOT NULL,
  model_no     INTEGER REFERENCES models (model_no),
  is_complete  INTEGER NOT NULL,
  terms        BLOB NOT NULL,
  counts       BLOB NOT NULL,
  traits       BLOB NOT NULL,
  chunks       BLOB NOT NULL,
  embeddings   BLOB NOT NULL
) STRICT;

CREATE INDEX index_entries_to_embed ON index_entries (tenant_no, model_no, is_complete);

-- int8, one row for each token, chunk after chunk. Apart from the entry, so that entries are read quickly.
CREATE TABLE token_vectors (
  doc_no     INTEGER PRIMARY KEY,
  tenant_no  INTEGER NOT NULL,
  vectors    BLOB NOT NULL
) STRICT;

-- The file beside the database that holds the tenant's filter columns and posting lists, as they were at a change:
-- only the file that bears this stamp is read. See index_snapshots.py.
CREATE TABLE index_snapshots (
  tenant_id  TEXT PRIMARY KEY REFERENCES tenants (tenant_id),
  stamp      TEXT NOT NULL
) STRICT;

CREATE TABLE jobs (
  tenant_id               TEXT NOT NULL REFERENCES tenants (tenant_id),
  job_id                  TEXT NOT NULL,
  space_id                TEXT NOT NULL,
  user_id                 TEXT NOT NULL,
  kind                    TEXT NOT NULL,
  queue                   TEXT NOT NULL,
  ordering_key            TEXT,
  blocks_key_when_failed  INTEGER NOT NULL,
  sequence                INTEGER NOT NULL,
  state                   TEXT NOT NULL,
  priority                INTEGER NOT NULL,
  attempts                INTEGER NOT NULL,
  max_attempts            INTEGER NOT NULL,
  fence                   INTEGER NOT NULL,
  payload                 TEXT NOT NULL,
  result                  TEXT NOT NULL,
  progress_total          INTEGER NOT NULL,
  progress_done           INTEGER NOT NULL,
  error                   TEXT,
  reference_at            INTEGER NOT NULL,
  run_after_at            INTEGER NOT NULL,
  lease_until_at          INTEGER,
  created_at              INTEGER NOT NULL,
  updated_at              INTEGER NOT NULL,
  finished_at             INTEGER,
  PRIMARY KEY (tenant_id, job_id)
) STRICT;

CREATE INDEX jobs_by_key ON jobs (tenant_id, ordering_key, sequence)
  WHERE ordering_key IS NOT NULL AND state IN ('queued', 'running', 'failed');
CREATE INDEX jobs_by_kind ON jobs (tenant_id, kind, created_at, sequence);
CREATE INDEX jobs_by_state ON jobs (kind, state);
CREATE INDEX jobs_by_finish ON jobs (finished_at) WHERE finished_at IS NOT NULL;

-- What a worker looks at to find work, across tenants: one row per running job and per queued job that no
-- earlier job of its ordering key holds back. due_at is the job's run_after_at, or the end of its lease.
CREATE TABLE job_dispatch (
  queue      TEXT NOT NULL,
  due_at     INTEGER NOT NULL,
  priority   INTEGER NOT NULL,
  sequence   INTEGER NOT NULL,
  tenant_id  TEXT NOT NULL,
  job_id     TEXT NOT NULL,
  PRIMARY KEY (tenant_id, job_id)
) STRICT;

CREATE INDEX job_dispatch_by_rank ON job_dispatch (queue, priority DESC, sequence, due_at);

CREATE TABLE idempotency (
  tenant_id   TEXT NOT NULL,
  key         TEXT NOT NULL,
  digest      TEXT NOT NULL,
  outcomes    TEXT NOT NULL,
  created_at  INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, key)
) STRICT;

CREATE INDEX idempotency_by_age ON idempotency (created_at);

CREATE TABLE audit_log (
  tenant_id   TEXT NOT NULL,
  change_no   INTEGER NOT NULL,
  entry_no    INTEGER NOT NULL,
  at          INTEGER NOT NULL,
  user_id     TEXT NOT NULL,
  key_id      TEXT NOT NULL,
  action      TEXT NOT NULL,
  target      TEXT NOT NULL,
  request_id  TEXT NOT NULL,
  PRIMARY KEY (tenant_id, change_no, entry_no)
) STRICT;

-- How many queries a tenant's processes drew of what its plan allows for a day (a date of UTC such as 2025-03-01).
CREATE TABLE daily_queries (
  tenant_id  TEXT NOT NULL,
  day        TEXT NOT NULL,
  used       INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, day)
) STRICT, WITHOUT ROWID;

-- Token buckets of the rate limits as the server has last written them down: how much was left at a time, by which rule.
-- While a server runs, its memory is the truth.
CREATE TABLE buckets (
  name               TEXT PRIMARY KEY,
  tokens             REAL NOT NULL,
  at                 INTEGER NOT NULL,
  capacity           REAL NOT NULL,
  refill_per_second  REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- The copy (`polymem copy`) that this database is the unfinished destination of, from the database `source` names; no
-- server opens it while there is a row. A table of a tenant is copied up to the key in `after_key` (a JSON list), or all
-- of it; digest: the sum of the hashes of its rows so far, hexadecimal.
CREATE TABLE copies (
  copy_id  TEXT PRIMARY KEY,
  source   TEXT NOT NULL
) STRICT;

CREATE TABLE copy_marks (
  tenant_id   TEXT NOT NULL,
  table_name  TEXT NOT NULL,
  after_key   TEXT,
  row_count   INTEGER NOT NULL,
  digest      TEXT NOT NULL,
  is_done     INTEGER NOT NULL,
  PRIMARY KEY (tenant_id, table_name)
) STRICT;
