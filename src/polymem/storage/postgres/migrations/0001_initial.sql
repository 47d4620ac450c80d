-- Times are integer microseconds since 1970-01-01 UTC. JSON is canonical text. Ids compare byte by byte (COLLATE "C").
-- Every table of a tenant has a primary key that starts with tenant_id, so that it can be distributed by it; plans,
-- keys, models, counters and job_dispatch stand outside. The columns are those of the embedded storage wherever both
-- store the same, so that one set of row mappings serves both and a copy from one to the other loses nothing.

-- pings counts the writes that only prove that writing works.
CREATE TABLE counters (
  name   text COLLATE "C" PRIMARY KEY,
  value  bigint NOT NULL
) WITH (fillfactor = 50);

INSERT INTO counters VALUES ('pings', 0);

-- tenant_no is never given twice. job_sequence is drawn while the tenant's row is locked: within a tenant it is in
-- commit order, across tenants nearly.
CREATE SEQUENCE tenant_no AS integer;
CREATE SEQUENCE job_sequence AS bigint;

CREATE TABLE plans (
  name                 text COLLATE "C" PRIMARY KEY,
  requests_per_minute  bigint NOT NULL CHECK (requests_per_minute > 0),
  burst                bigint NOT NULL CHECK (burst > 0),
  max_memories         bigint CHECK (max_memories > 0),
  queries_per_day      bigint CHECK (queries_per_day > 0)
);

INSERT INTO plans VALUES
  ('self-hosted', 60000, 60000, NULL, NULL),
  ('free', 60, 60, 10000, 1000),
  ('pro', 600, 600, 500000, 50000),
  ('team', 3000, 3000, 5000000, 500000);

-- The row that every commit of the tenant locks first. change_no counts committed changes; it is given under that
-- lock, so that whoever has read up to a number misses none that is committed later.
CREATE TABLE tenants (
  tenant_id     text COLLATE "C" PRIMARY KEY,
  tenant_no     integer NOT NULL,
  name          text NOT NULL,
  plan          text COLLATE "C" NOT NULL,
  is_active     boolean NOT NULL,
  created_at    bigint NOT NULL,
  change_no     bigint NOT NULL DEFAULT 0,
  memory_count  bigint NOT NULL DEFAULT 0,
  terms_total   bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE users (
  tenant_id          text COLLATE "C" NOT NULL REFERENCES tenants (tenant_id),
  user_id            text COLLATE "C" NOT NULL,
  name               text COLLATE "C" NOT NULL,
  personal_space_id  text COLLATE "C" NOT NULL,
  created_at         bigint NOT NULL,
  PRIMARY KEY (tenant_id, user_id),
  UNIQUE (tenant_id, name)
);

CREATE TABLE keys (
  key_hash        bytea PRIMARY KEY,
  key_id          text COLLATE "C" NOT NULL UNIQUE,
  tenant_id       text COLLATE "C" NOT NULL,
  user_id         text COLLATE "C" NOT NULL,
  name            text NOT NULL,
  prefix          text NOT NULL,
  scopes          text NOT NULL,
  allowed_spaces  text,
  created_at      bigint NOT NULL,
  expires_at      bigint,
  revoked_at      bigint
);

CREATE INDEX keys_by_tenant ON keys (tenant_id, created_at);

CREATE TABLE spaces (
  tenant_id      text COLLATE "C" NOT NULL REFERENCES tenants (tenant_id),
  space_id       text COLLATE "C" NOT NULL,
  kind           text COLLATE "C" NOT NULL,
  name           text COLLATE "C" NOT NULL,
  is_restricted  boolean NOT NULL,
  created_at     bigint NOT NULL,
  PRIMARY KEY (tenant_id, space_id)
);

CREATE UNIQUE INDEX spaces_by_name ON spaces (tenant_id, kind, name) WHERE kind <> 'personal';

CREATE TABLE members (
  tenant_id  text COLLATE "C" NOT NULL,
  space_id   text COLLATE "C" NOT NULL,
  user_id    text COLLATE "C" NOT NULL,
  role       text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant_id, space_id, user_id),
  FOREIGN KEY (tenant_id, space_id) REFERENCES spaces (tenant_id, space_id),
  FOREIGN KEY (tenant_id, user_id) REFERENCES users (tenant_id, user_id)
);

CREATE TABLE memories (
  tenant_id      text COLLATE "C" NOT NULL,
  memory_id      text COLLATE "C" NOT NULL,
  space_id       text COLLATE "C" NOT NULL,
  memory_type    text COLLATE "C" NOT NULL,
  state          text COLLATE "C" NOT NULL,
  source         text COLLATE "C",
  agent_id       text COLLATE "C",
  session_id     text COLLATE "C",
  turn_role      text COLLATE "C",
  turn_seq       bigint,
  content_type   text COLLATE "C",
  identity       text COLLATE "C",
  created_by     text COLLATE "C" NOT NULL,
  updated_by     text COLLATE "C",
  superseded_by  text COLLATE "C",
  role           text COLLATE "C" NOT NULL,
  importance     double precision NOT NULL,
  valence        double precision NOT NULL,
  external_ref   text COLLATE "C",
  fingerprint    text COLLATE "C",
  content_key    text COLLATE "C" NOT NULL,
  derived_from   text NOT NULL,
  version        bigint NOT NULL,
  revision       bigint NOT NULL,
  created_at     bigint NOT NULL,
  updated_at     bigint NOT NULL,
  change_no      bigint NOT NULL,
  supersedes     text NOT NULL,
  concepts       text NOT NULL,
  tags           text NOT NULL,
  metadata       text,
  content        text NOT NULL,
  PRIMARY KEY (tenant_id, memory_id),
  FOREIGN KEY (tenant_id, space_id) REFERENCES spaces (tenant_id, space_id)
);

CREATE UNIQUE INDEX memories_by_identity ON memories (tenant_id, identity) WHERE identity IS NOT NULL;
-- Hold all that lists commonly filter, order and count by, so that only the page itself is read from the rows.
CREATE INDEX memories_by_update ON memories (tenant_id, space_id, state, updated_at DESC, memory_id DESC)
  INCLUDE (memory_type, agent_id, source);
CREATE INDEX memories_by_session ON memories (tenant_id, session_id, created_at, turn_seq, memory_id)
  WHERE session_id IS NOT NULL;
CREATE INDEX memories_by_seq ON memories (tenant_id, session_id, space_id, turn_seq, memory_id)
  WHERE turn_seq IS NOT NULL;

-- Feeds are read along it, each page from where the last one ended.
CREATE INDEX memories_by_creation ON memories (tenant_id, space_id, created_at, memory_id);
CREATE INDEX memories_by_content ON memories (tenant_id, space_id, content_key);
CREATE INDEX memories_by_fingerprint ON memories (tenant_id, fingerprint) WHERE fingerprint IS NOT NULL;

-- A space is of one tenant: without this the planner takes both conditions to be independent, and far too few rows.
CREATE STATISTICS memories_of_spaces (dependencies) ON tenant_id, space_id FROM memories;

CREATE TABLE memory_tags (
  tenant_id  text COLLATE "C" NOT NULL,
  tag        text COLLATE "C" NOT NULL,
  memory_id  text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant_id, tag, memory_id)
);

-- The concepts of memories by their keys, and which came together how often: see polymem.domain.concepts. The keys of
-- an association stand in the order of their bytes: source < target.
CREATE TABLE memory_concepts (
  tenant_id  text COLLATE "C" NOT NULL,
  space_id   text COLLATE "C" NOT NULL,
  concept    text COLLATE "C" NOT NULL,
  memory_id  text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant_id, space_id, concept, memory_id)
);

CREATE TABLE associations (
  tenant_id   text COLLATE "C" NOT NULL,
  space_id    text COLLATE "C" NOT NULL,
  source      text COLLATE "C" NOT NULL,
  target      text COLLATE "C" NOT NULL,
  weight      double precision NOT NULL,
  valence     double precision NOT NULL,
  count       bigint NOT NULL,
  updated_at  bigint NOT NULL,
  PRIMARY KEY (tenant_id, space_id, source, target)
);

-- Strongest first; very many are equally strong, so the order among these stands in the index too.
CREATE INDEX associations_by_source ON associations (tenant_id, space_id, source, weight DESC, target);
CREATE INDEX associations_by_target ON associations (tenant_id, space_id, target, weight DESC, source);

CREATE TABLE memory_versions (
  tenant_id    text COLLATE "C" NOT NULL,
  memory_id    text COLLATE "C" NOT NULL,
  revision     bigint NOT NULL,
  body         text NOT NULL,
  replaced_at  bigint NOT NULL,
  replaced_by  text,
  reason       text NOT NULL,
  PRIMARY KEY (tenant_id, memory_id, revision)
);

CREATE TABLE tombstones (
  tenant_id   text COLLATE "C" NOT NULL,
  memory_id   text COLLATE "C" NOT NULL,
  space_id    text COLLATE "C" NOT NULL,
  deleted_at  bigint NOT NULL,
  change_no   bigint NOT NULL,
  PRIMARY KEY (tenant_id, memory_id)
);

CREATE TABLE forgotten_identities (
  tenant_id  text COLLATE "C" NOT NULL,
  identity   text COLLATE "C" NOT NULL,
  PRIMARY KEY (tenant_id, identity)
);

CREATE TABLE models (
  model_no         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name             text COLLATE "C" NOT NULL,
  revision         text COLLATE "C" NOT NULL,
  dimension        integer NOT NULL,
  token_dimension  integer NOT NULL,
  UNIQUE (name, revision, dimension, token_dimension)
);

-- The index entry of a memory. The columns from space_id to updated_at are copies of the memory's own: what filters
-- ask for stands beside what is searched, so that an arm needs no second table.
-- length: its terms, repeats counted. codes: the 8-byte code of each distinct term, mixed with the tenant's number, so
-- that a list of the inverted index is one tenant's alone; ascending. counts: how often each stands in it, unsigned
-- numbers of one byte, or of four, little-endian. weights: about what BM25 gives each term, at the code's place.
-- model_no, is_complete: which model made the chunks, and whether all of them. traits: the engine's own bytes.
CREATE TABLE index_entries (
  tenant_id      text COLLATE "C" NOT NULL,
  memory_id      text COLLATE "C" NOT NULL,
  space_id       text COLLATE "C" NOT NULL,
  memory_type    text COLLATE "C" NOT NULL,
  state          text COLLATE "C" NOT NULL,
  source         text COLLATE "C",
  agent_id       text COLLATE "C",
  session_id     text COLLATE "C",
  tags           text[] COLLATE "C" NOT NULL,
  created_at     bigint NOT NULL,
  updated_at     bigint NOT NULL,
  turn_role      text COLLATE "C",
  turn_seq       bigint,
  superseded_by  text COLLATE "C",
  length         integer NOT NULL,
  model_no       integer,
  is_complete    boolean NOT NULL,
  traits         bytea NOT NULL,
  weights        sparsevec NOT NULL,
  codes          bigint[] NOT NULL,
  counts         bytea NOT NULL,
  PRIMARY KEY (tenant_id, memory_id)
);

-- Nothing of a row is moved out of it unless it does not fit its page at all: what is moved is read by a search of its own.
ALTER TABLE index_entries
  ALTER tenant_id SET STORAGE MAIN,
  ALTER memory_id SET STORAGE MAIN,
  ALTER space_id SET STORAGE MAIN,
  ALTER memory_type SET STORAGE MAIN,
  ALTER state SET STORAGE MAIN,
  ALTER source SET STORAGE MAIN,
  ALTER agent_id SET STORAGE MAIN,
  ALTER session_id SET STORAGE MAIN,
  ALTER tags SET STORAGE MAIN,
  ALTER turn_role SET STORAGE MAIN,
  ALTER superseded_by SET STORAGE MAIN,
  ALTER traits SET STORAGE MAIN,
  ALTER weights SET STORAGE MAIN,
  ALTER codes SET STORAGE MAIN,
  ALTER counts SET STORAGE MAIN;
-- The list of new entries that the index keeps unsorted is read by every search: it stays short.
CREATE INDEX index_entries_by_code ON index_entries USING gin (codes) WITH (gin_pending_list_limit = 256);
CREATE INDEX index_entries_to_embed ON index_entries (tenant_id, model_no, is_complete, memory_id);

-- In how many of a tenant's index entries a term stands, by its plain code; no row for none.
CREATE TABLE term_counts (
  tenant_id  text COLLATE "C" NOT NULL,
  code       bigint NOT NULL,
  documents  integer NOT NULL CHECK (documents > 0),
  PRIMARY KEY (tenant_id, code)
) WITH (fillfactor = 80);

-- The vectors of a memory, chunk by chunk; the columns from space_id to updated_at as in index_entries. tenant_no
-- names the tenant in the graphs over embeddings (see vector_graphs). start_at and end_at: characters in the indexed
-- text. token_vectors: int8, one row for each token; apart from the rest, so that embeddings are read quickly.
CREATE TABLE chunks (
  tenant_id      text COLLATE "C" NOT NULL,
  memory_id      text COLLATE "C" NOT NULL,
  chunk_no       integer NOT NULL,
  tenant_no      integer NOT NULL,
  model_no       integer NOT NULL,
  space_id       text COLLATE "C" NOT NULL,
  memory_type    text COLLATE "C" NOT NULL,
  state          text COLLATE "C" NOT NULL,
  source         text COLLATE "C",
  agent_id       text COLLATE "C",
  session_id     text COLLATE "C",
  tags           text[] COLLATE "C" NOT NULL,
  created_at     bigint NOT NULL,
  updated_at     bigint NOT NULL,
  start_at       integer NOT NULL,
  end_at         integer NOT NULL,
  embedding      halfvec NOT NULL,
  token_vectors  bytea NOT NULL,
  PRIMARY KEY (tenant_id, memory_id, chunk_no)
) PARTITION BY HASH (tenant_id);

-- Of a row the token vectors alone are moved out of it, and always: see toast_tuple_target below.
ALTER TABLE chunks
  ALTER embedding SET STORAGE PLAIN,
  ALTER token_vectors SET STORAGE EXTERNAL,
  ALTER tenant_id SET STORAGE MAIN,
  ALTER memory_id SET STORAGE MAIN,
  ALTER space_id SET STORAGE MAIN,
  ALTER memory_type SET STORAGE MAIN,
  ALTER state SET STORAGE MAIN,
  ALTER source SET STORAGE MAIN,
  ALTER agent_id SET STORAGE MAIN,
  ALTER session_id SET STORAGE MAIN,
  ALTER tags SET STORAGE MAIN;

-- Every graph is an index that each statement on its table has to look at, whichever tenant asks: in parts, few do.
DO $$
BEGIN
  FOR part IN 0..31 LOOP
    EXECUTE format(
      'CREATE TABLE chunks_%s PARTITION OF chunks FOR VALUES WITH (MODULUS 32, REMAINDER %s)'
      ' WITH (toast_tuple_target = 128)', part, part);
  END LOOP;
END
$$;

-- The HNSW graphs that stand, each over the embeddings of one large tenant by one model: a partial index of the
-- tenant's part of chunks.
-- is_ready: searches may use it.
CREATE TABLE vector_graphs (
  tenant_id  text COLLATE "C" NOT NULL,
  model_no   integer NOT NULL,
  index_name text COLLATE "C" NOT NULL,
  is_ready   boolean NOT NULL,
  PRIMARY KEY (tenant_id, model_no)
);

CREATE TABLE jobs (
  tenant_id               text COLLATE "C" NOT NULL REFERENCES tenants (tenant_id),
  job_id                  text COLLATE "C" NOT NULL,
  space_id                text COLLATE "C" NOT NULL,
  user_id                 text COLLATE "C" NOT NULL,
  kind                    text COLLATE "C" NOT NULL,
  queue                   text COLLATE "C" NOT NULL,
  ordering_key            text COLLATE "C",
  blocks_key_when_failed  boolean NOT NULL,
  sequence                bigint NOT NULL,
  state                   text COLLATE "C" NOT NULL,
  priority                integer NOT NULL,
  attempts                integer NOT NULL,
  max_attempts            integer NOT NULL,
  fence                   bigint NOT NULL,
  payload                 text NOT NULL,
  result                  text NOT NULL,
  progress_total          bigint NOT NULL,
  progress_done           bigint NOT NULL,
  error                   text,
  reference_at            bigint NOT NULL,
  run_after_at            bigint NOT NULL,
  lease_until_at          bigint,
  created_at              bigint NOT NULL,
  updated_at              bigint NOT NULL,
  finished_at             bigint,
  PRIMARY KEY (tenant_id, job_id)
);

CREATE INDEX jobs_by_key ON jobs (tenant_id, ordering_key, sequence)
  WHERE ordering_key IS NOT NULL AND state IN ('queued', 'running', 'failed');
CREATE INDEX jobs_by_kind ON jobs (tenant_id, kind, created_at DESC, sequence DESC);
CREATE INDEX jobs_by_state ON jobs (kind, state);
CREATE INDEX jobs_by_finish ON jobs (finished_at) WHERE finished_at IS NOT NULL;

-- What a worker looks at to find work, across tenants: one row per running job and per queued job that no earlier
-- job of its ordering key holds back. due_at is the job's run_after_at, or the end of its lease.
CREATE TABLE job_dispatch (
  tenant_id  text COLLATE "C" NOT NULL,
  job_id     text COLLATE "C" NOT NULL,
  queue      text COLLATE "C" NOT NULL,
  due_at     bigint NOT NULL,
  priority   integer NOT NULL,
  sequence   bigint NOT NULL,
  PRIMARY KEY (tenant_id, job_id)
);

CREATE INDEX job_dispatch_by_rank ON job_dispatch (queue, priority DESC, sequence, due_at);

CREATE TABLE idempotency (
  tenant_id   text COLLATE "C" NOT NULL,
  key         text COLLATE "C" NOT NULL,
  digest      text NOT NULL,
  outcomes    text NOT NULL,
  created_at  bigint NOT NULL,
  PRIMARY KEY (tenant_id, key)
);

CREATE INDEX idempotency_by_age ON idempotency (created_at);

CREATE TABLE audit_log (
  tenant_id   text COLLATE "C" NOT NULL,
  change_no   bigint NOT NULL,
  entry_no    integer NOT NULL,
  at          bigint NOT NULL,
  user_id     text COLLATE "C" NOT NULL,
  key_id      text COLLATE "C" NOT NULL,
  action      text NOT NULL,
  target      text NOT NULL,
  request_id  text NOT NULL,
  PRIMARY KEY (tenant_id, change_no, entry_no)
);

-- Token buckets of the rate limits that all processes share: how much was left at a time. Not logged: after a crash of
-- the database every bucket is full again, and no write to disk stands in the way of a request.
-- granted: what the last draw gave. full_at: when it is full again, and says as little as no bucket.
CREATE UNLOGGED TABLE buckets (
  name     text COLLATE "C" PRIMARY KEY,
  tokens   double precision NOT NULL,
  at       bigint NOT NULL,
  granted  integer NOT NULL,
  full_at  bigint NOT NULL
) WITH (fillfactor = 50);

-- How many queries a tenant's processes drew of what its plan allows for a day (a date of UTC such as 2025-03-01).
-- granted: what the last draw gave.
CREATE TABLE daily_queries (
  tenant_id  text COLLATE "C" NOT NULL,
  day        text COLLATE "C" NOT NULL,
  used       bigint NOT NULL,
  granted    bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant_id, day)
) WITH (fillfactor = 50);

-- The latest commits of a tenant, each in the slot of its change_no: whether a commit whose answer was lost went through.
CREATE TABLE commits (
  tenant_id  text COLLATE "C" NOT NULL,
  slot       smallint NOT NULL,
  token      uuid NOT NULL,
  PRIMARY KEY (tenant_id, slot)
) WITH (fillfactor = 50);

-- The copy (`polymem copy`) that this database is the unfinished destination of, from the database `source` names; no
-- server opens it while there is a row. A table of a tenant is copied up to the key in `after_key` (a JSON list), or all
-- of it; digest: the sum of the hashes of its rows so far, hexadecimal.
CREATE TABLE copies (
  copy_id  text COLLATE "C" PRIMARY KEY,
  source   text NOT NULL
);

CREATE TABLE copy_marks (
  tenant_id   text COLLATE "C" NOT NULL,
  table_name  text COLLATE "C" NOT NULL,
  after_key   text,
  row_count   bigint NOT NULL,
  digest      text NOT NULL,
  is_done     boolean NOT NULL,
  PRIMARY KEY (tenant_id, table_name)
);
