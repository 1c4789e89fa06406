-- A ticket tracker: little structure, much prose.
CREATE TEMP TABLE sentences ON COMMIT DROP AS
SELECT i AS id,
  format('%s %s %s %s %s %s %s.',
    (ARRAY['The', 'Every', 'Our', 'This', 'Another', 'Their', 'Some', 'No'])[1 + floor(random() * 8)::int],
    (ARRAY['nightly', 'older', 'first', 'internal', 'failing', 'quiet', 'remote', 'second', 'manual', 'duplicated', 'shared', 'temporary'])[1 + floor(random() * 12)::int],
    (ARRAY['report', 'import', 'invoice', 'printer', 'session', 'calendar', 'password', 'upload', 'customer', 'browser', 'deployment', 'search', 'gateway', 'spreadsheet'])[1 + floor(random() * 14)::int],
    (ARRAY['stops', 'waits for', 'overwrites', 'ignores', 'needs', 'blocks', 'forgets', 'repeats', 'doubles', 'loses', 'follows', 'delays'])[1 + floor(random() * 12)::int],
    (ARRAY['the', 'a', 'one', 'each', 'the whole', 'that'])[1 + floor(random() * 6)::int],
    (ARRAY['connection', 'attachment', 'signature', 'warehouse', 'mailbox', 'currency', 'holiday', 'contract', 'table', 'sensor', 'language', 'backup'])[1 + floor(random() * 12)::int],
    (ARRAY['after an update', 'on Mondays', 'when two people save at once', 'since the move to the new office', 'without any message', 'unless it is restarted',
      'for customers abroad', 'in the test system', 'as described in the manual', 'before the first login', 'at the end of the month', 'but only on a phone'])[1 + floor(random() * 12)::int]
  ) AS text
FROM generate_series(1, 5000) i;

CREATE TABLE people (
  id int PRIMARY KEY,
  login text NOT NULL UNIQUE,
  display_name text NOT NULL,
  active boolean NOT NULL DEFAULT true
);
INSERT INTO people SELECT i, 'user' || i, 'Person ' || i, i % 11 > 0 FROM generate_series(1, 400) i;

CREATE TABLE tickets (
  id int PRIMARY KEY,
  title text NOT NULL,
  body text NOT NULL,
  state text NOT NULL CHECK (state IN ('open', 'waiting', 'closed')),
  priority smallint NOT NULL,
  labels text[] NOT NULL,
  reporter int NOT NULL,
  opened_at timestamptz NOT NULL,
  closed_at timestamptz
);
INSERT INTO tickets
SELECT i, rtrim(min(text), '.'), string_agg(text, CASE WHEN i % 3 = 0 THEN E'\n\n' ELSE ' ' END ORDER BY n),
  (ARRAY['open', 'waiting', 'closed', 'closed', 'closed'])[1 + i % 5], 1 + i % 4,
  (ARRAY['{}', '{bug}', '{question}', '{bug,urgent}', '{"needs info"}', '{feature}'])[1 + i % 6]::text[], 1 + (i * 7) % 400,
  '2021-06-01 06:00+00'::timestamptz + i * interval '101 minutes',
  CASE WHEN i % 5 > 1 THEN '2021-06-09 06:00+00'::timestamptz + i * interval '101 minutes' END
FROM (SELECT i, n, 1 + floor(random() * 5000)::int AS sentence FROM generate_series(1, 12000) i, generate_series(1, 3 + i % 9) n) picked
JOIN sentences ON sentences.id = sentence
GROUP BY i ORDER BY i;

CREATE TABLE comments (
  id int PRIMARY KEY,
  ticket_id int NOT NULL,
  author int NOT NULL,
  body text NOT NULL,
  written_at timestamptz NOT NULL
);
INSERT INTO comments
SELECT i, 1 + (i * 31) % 12000, 1 + (i * 13) % 400, string_agg(text, ' ' ORDER BY n),
  '2021-06-01 07:00+00'::timestamptz + i * interval '17 minutes'
FROM (SELECT i, n, 1 + floor(random() * 5000)::int AS sentence FROM generate_series(1, 65000) i, generate_series(1, 1 + i % 8) n) picked
JOIN sentences ON sentences.id = sentence
GROUP BY i ORDER BY i;

ALTER TABLE tickets ADD FOREIGN KEY (reporter) REFERENCES people;
ALTER TABLE comments ADD FOREIGN KEY (ticket_id) REFERENCES tickets, ADD FOREIGN KEY (author) REFERENCES people;
CREATE INDEX ON comments (ticket_id, written_at);
CREATE INDEX ON tickets USING gin (labels);
CREATE INDEX ON tickets (opened_at) WHERE state <> 'closed';

CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.closed_at := CASE WHEN NEW.state = 'closed' THEN coalesce(NEW.closed_at, now()) END;
  RETURN NEW;
END
$$;
CREATE TRIGGER touch BEFORE UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION touch();
