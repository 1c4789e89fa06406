-- A document store: jsonb, and files as bytea that hardly compress.
CREATE TABLE documents (
  id uuid PRIMARY KEY,
  kind text NOT NULL,
  content jsonb NOT NULL,
  tags text[] GENERATED ALWAYS AS (ARRAY[kind, content ->> 'language']) STORED,
  revision int NOT NULL DEFAULT 1,
  stored_at timestamptz NOT NULL
);
INSERT INTO documents (id, kind, content, revision, stored_at)
SELECT md5('document ' || i)::uuid, kind,
  jsonb_build_object(
    'title', initcap(kind) || ' no. ' || i,
    'language', (ARRAY['en', 'de', 'fr', 'ja'])[1 + i % 4],
    'customer', jsonb_build_object('id', 1000 + i % 3000, 'name', 'Müller & Søn ' || i % 500, 'vat', 'XX' || floor(random() * 1e9)::int),
    'lines', (SELECT jsonb_agg(jsonb_build_object('pos', l, 'text', 'Article ' || (i * l) % 977, 'qty', 1 + (i + l) % 9, 'net', round((random() * 300)::numeric, 2)))
              FROM generate_series(1, 1 + i % 6) l),
    'paid', i % 3 > 0, 'due', date '2024-01-01' + i % 500, 'remarks', NULL),
  1 + i % 3, '2024-01-01 09:00+00'::timestamptz + i * interval '11 minutes'
FROM (SELECT i, (ARRAY['invoice', 'offer', 'reminder', 'delivery note'])[1 + i % 4] AS kind FROM generate_series(1, 40000) i) _;
CREATE INDEX ON documents USING gin (content jsonb_path_ops);
CREATE INDEX ON documents ((content ->> 'title'));

CREATE TABLE files (
  document_id uuid NOT NULL REFERENCES documents,
  name text NOT NULL,
  media_type text NOT NULL,
  content bytea NOT NULL,
  sha256 bytea GENERATED ALWAYS AS (sha256(content)) STORED,
  PRIMARY KEY (document_id, name)
);
ALTER TABLE files ALTER content SET STORAGE EXTERNAL;
INSERT INTO files
SELECT md5('document ' || i)::uuid, 'scan-' || i || '.png', 'image/png', '\x89504e470d0a1a0a'::bytea || string_agg(sha256((i::text || ':' || n)::bytea), '' ORDER BY n)
FROM generate_series(1, 900) i, generate_series(1, 100 + i * 37 % 500) n
GROUP BY i;
