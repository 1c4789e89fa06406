-- A small wiki: pages with their history, pictures as large objects, a search column, sequences.
CREATE SCHEMA wiki;
CREATE SEQUENCE wiki.page_numbers START 1000 INCREMENT 7;

CREATE TABLE wiki.pages (
  id bigint PRIMARY KEY DEFAULT nextval('wiki.page_numbers'),
  title text NOT NULL UNIQUE,
  body text NOT NULL,
  search tsvector GENERATED ALWAYS AS (to_tsvector('english', title || ' ' || left(body, 400))) STORED
);
INSERT INTO wiki.pages (title, body)
SELECT subject || ' (part ' || i || ')',
  '# ' || subject || E'\n\n' || repeat('All about ' || lower(subject) || ', written down by the people who know: see [[' || subject || ' (part ' || i + 1 || E')]].\n', 2 + i % 12)
FROM (SELECT i, (ARRAY['Onboarding', 'Backups', 'Coffee machine', 'Release checklist', 'Travel expenses', 'Glossary', 'Naïve questions', 'VPN', '会議室', 'On call'])[1 + i % 10] AS subject
      FROM generate_series(1, 2500) i) _;
CREATE INDEX ON wiki.pages USING gin (search);

CREATE TABLE wiki.revisions (
  page_id bigint NOT NULL REFERENCES wiki.pages,
  number int NOT NULL,
  author text NOT NULL,
  comment text,
  changed_at timestamptz NOT NULL,
  body text NOT NULL,
  PRIMARY KEY (page_id, number)
);
INSERT INTO wiki.revisions
SELECT id, n, 'user' || (id + n) % 60, CASE WHEN n % 4 = 0 THEN 'typo' END, '2023-03-01 10:00+00'::timestamptz + id * interval '1 hour' + n * interval '1 day',
  left(body, (length(body) * n / 8.0)::int)
FROM wiki.pages, generate_series(1, 8) n;

CREATE TABLE wiki.pictures (name text PRIMARY KEY, data oid NOT NULL);
INSERT INTO wiki.pictures
SELECT 'picture ' || i, lo_from_bytea(50000 + i, (SELECT string_agg(sha256((i::text || '/' || n)::bytea), '' ORDER BY n) FROM generate_series(1, 200 + i * 53 % 900) n))
FROM generate_series(1, 120) i;

CREATE MATERIALIZED VIEW wiki.authors AS
  SELECT author, count(*) AS changes, max(changed_at) AS last_seen FROM wiki.revisions GROUP BY author;
CREATE UNIQUE INDEX ON wiki.authors (author);
CREATE VIEW wiki.recent_changes AS
  SELECT title, number, author, changed_at FROM wiki.revisions JOIN wiki.pages ON id = page_id ORDER BY changed_at DESC LIMIT 50;
ALTER TABLE wiki.revisions ENABLE ROW LEVEL SECURITY;
CREATE POLICY everyone ON wiki.revisions FOR SELECT USING (true);
COMMENT ON SCHEMA wiki IS 'What everybody knows, and nobody can find';
