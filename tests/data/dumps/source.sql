-- The small database that the dumps in this folder were made of; see README.md.
\set QUIET on
\pset tuples_only on
\o /dev/null
SELECT current_setting('server_version_num')::int >= 160000 AS v16 \gset
SET client_min_messages = error;
DO $$
BEGIN
  CREATE ROLE scan_owner;
  CREATE ROLE scan_reader;
  CREATE ROLE "Scan ""odd"" to role";
  GRANT scan_reader TO scan_owner;
  ALTER ROLE scan_reader SET search_path = 'a\b', 'it''s';
  COMMENT ON ROLE scan_reader IS E'-- PostgreSQL database cluster dump complete\n--\n\n';
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
CREATE SCHEMA "FROM stdin;";
CREATE TABLE "FROM stdin;"."t (a) FROM stdin;
x" ("a, b" int, "c""d" text);
INSERT INTO "FROM stdin;"."t (a) FROM stdin;
x" VALUES (1, E'\\.'), (2, E'\n\\.\n'), (3, NULL), (4, '\N'), (5, '');
CREATE TABLE hostile (line text);
INSERT INTO hostile VALUES
  (E'\\.'), (E'--\n-- PostgreSQL database dump complete\n--\n\n'), ('\unrestrict x'),
  ('COPY public.hostile (line) FROM stdin;'), (''), (NULL), ('$$'), (''''), ('/*'), (E'\r'), ('é日本');
CREATE TABLE no_column ();
INSERT INTO no_column DEFAULT VALUES;
INSERT INTO no_column DEFAULT VALUES;
CREATE TABLE no_row (a int);
CREATE TABLE quoted (id serial PRIMARY KEY, e text DEFAULT E'\\.\n''', plain text DEFAULT ' it''s $$ -- /* ');
INSERT INTO quoted (plain) VALUES ('x');
COMMENT ON TABLE quoted IS E'--\n-- PostgreSQL database dump complete\n--\n\nCOPY public.no_row (a) FROM stdin;\n9\n\\.\n';
CREATE FUNCTION dollar() RETURNS text LANGUAGE sql AS $_$ SELECT $$
COPY public.no_row (a) FROM stdin;
\.

--
-- PostgreSQL database dump complete
--

\unrestrict k
$$::text $_$;
CREATE FUNCTION nested(a text) RETURNS text LANGUAGE sql AS $_$ SELECT 'it''s $' || '$ /* ' -- no comment's end
$_$;
CREATE FUNCTION atomic(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT a + 1; SELECT a + 2; END;
CREATE PROCEDURE atomic_p() LANGUAGE sql BEGIN ATOMIC INSERT INTO no_row VALUES (1); DELETE FROM no_row WHERE a > 1; END;
CREATE VIEW seen AS SELECT line, 'a''b;' AS "semi;colon" FROM hostile;
CREATE RULE several AS ON INSERT TO seen DO INSTEAD (DELETE FROM no_row; SELECT 1);
ALTER TABLE quoted ENABLE ROW LEVEL SECURITY;
CREATE POLICY "some 'rows'" ON quoted TO scan_reader, "Scan ""odd"" to role" USING (plain <> '; TO nobody');
ALTER TABLE no_row OWNER TO scan_owner;
GRANT SELECT ON no_row TO scan_reader;
GRANT SELECT ON hostile TO PUBLIC;
SELECT setval('quoted_id_seq', 42, false);
CREATE SEQUENCE "odd 'seq'" START 7;
CREATE TYPE mood AS ENUM ('it''s', E'new\nline', 'semi;');
SELECT lo_create(4710);
SELECT lo_from_bytea(4711, '\x00ff5c2e0a270a');
SELECT lo_from_bytea(4712, convert_to(repeat('it''s ', 900), 'UTF8'));
COMMENT ON LARGE OBJECT 4711 IS E'\\.\n';
