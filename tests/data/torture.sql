-- A database that is legal in every detail and makes careless dump, scan, restore and compare code
-- wrong. Load it as superuser into an empty UTF-8 database:
--
--     psql -X -v ON_ERROR_STOP=1 [-v xml=off] -d <database> -f torture.sql
--
-- xml=off leaves out the values that need a server built with libxml. Nothing is random, nothing is
-- "now": the same server always gets the same rows. Only the partitions of by_mood differ, because an
-- enum's hash is that of its object ids. The roles are the cluster's, and stay. There is neither a
-- subscription nor a prepared transaction, so the database can be dropped.

\if :{?xml}
\else
  \set xml on
\endif
\set QUIET on
\pset format unaligned
\pset tuples_only on
\o /dev/null
SELECT current_setting('server_version_num')::int >= 160000 AS v16,
       current_setting('server_version_num')::int >= 180000 AS v18,
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'hstore') AS hstore,
       EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') AS vector,
       EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i' AND collname = 'und-x-icu') AS icu
\gset
SET client_min_messages = error;
SET timezone = 'UTC';

--------------------------------------------------------------------------------------------------
-- Roles: an owner, a reader, one at the end of a chain of grants, one with a name to quote.
--------------------------------------------------------------------------------------------------
DO $roles$
DECLARE
  wanted text;
BEGIN
  FOREACH wanted IN ARRAY ARRAY['torture_owner', 'torture_reader', 'torture_heir', 'Tor"ture '' röle'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
      EXECUTE format('CREATE ROLE %I', wanted);
    END IF;
  END LOOP;
END
$roles$;
GRANT torture_reader TO torture_heir;

--------------------------------------------------------------------------------------------------
-- Schemas and names. Whoever reads the lines of a dump with a pattern meets its equal here.
--------------------------------------------------------------------------------------------------
CREATE SCHEMA "select";
CREATE SCHEMA "Mixed Case, (with) ""quotes"".dots";
CREATE SCHEMA "línea
nueva";
CREATE SCHEMA owned AUTHORIZATION torture_owner;
CREATE SCHEMA empty_schema;
COMMENT ON SCHEMA empty_schema IS E'nothing in it\n\\.\nCOPY public.nothing (a) FROM stdin;';

CREATE TABLE "select"."from stdin;" ("a, b" int, "c (d)" text, "e ""f""" text);
INSERT INTO "select"."from stdin;" VALUES (1, 'COPY public.t (a) FROM stdin;', '1' || E'\t' || '2'), (2, '', NULL);

CREATE TABLE "línea
nueva"."x (a) FROM stdin;
\." ("col
umn" text, "tab	ulator" int, "back\slash" int, "Ünïcödé" text DEFAULT 'ß', "percent%" int);
INSERT INTO "línea
nueva"."x (a) FROM stdin;
\." VALUES ('one', 1, 1, 'é', 1), (E'\\.', 2, 2, '日本', 2), (E'\n', NULL, NULL, '', NULL);

CREATE TABLE "Mixed Case, (with) ""quotes"".dots"."order" ("table" int PRIMARY KEY, "user" text, "COPY" text, "1" int);
INSERT INTO "Mixed Case, (with) ""quotes"".dots"."order" SELECT i, 'user ' || i, NULL, -i FROM generate_series(1, 40) i;
COMMENT ON COLUMN "Mixed Case, (with) ""quotes"".dots"."order"."1" IS 'a name that is a number';

CREATE TABLE a_table_whose_name_is_as_long_as_a_name_may_be_in_postgresql_63 (
  a_column_whose_name_is_as_long_as_a_name_may_be_in_postgresql63 int);
INSERT INTO a_table_whose_name_is_as_long_as_a_name_may_be_in_postgresql_63 VALUES (63);

--------------------------------------------------------------------------------------------------
-- Rows that look like something else.
--------------------------------------------------------------------------------------------------
CREATE TABLE hostile (id int PRIMARY KEY, line text);
INSERT INTO hostile VALUES
  (1, E'\\.'),
  (2, E'\\.\n'),
  (3, E'before\n\\.\nafter'),
  (4, E'--\n-- PostgreSQL database dump complete\n--\n\n'),
  (5, E'--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abcdefABCDEF0123456789\n\n'),
  (6, E'\\restrict 0123456789'),
  (7, E'\\connect template1\n\\! touch /tmp/pwned'),
  (8, 'COPY public.hostile (id, line) FROM stdin;'),
  (9, E'COPY public.hostile (id, line) FROM stdin;\n99\tfalse row\n\\.\n'),
  (10, '\N'),
  (11, NULL),
  (12, ''),
  (13, ' '),
  (14, E'\r'),
  (15, E'\r\n'),
  (16, E'\b\f\n\r\t\v'),
  (17, E'\x01\x02\x1b[31mred\x1b[0m\x7f'),
  (18, '$$'),
  (19, '$body$ BEGIN; END; $body$'),
  (20, ''';DROP TABLE hostile;--'),
  (21, E'\\\\'),
  (22, E'ends with a backslash \\'),
  (23, '/* never closed'),
  (24, U&'\+01F4BE \+01F469\200D\+01F4BB \202E right to left \202C \FEFF'),
  (25, 'e' || U&'\0301' || ' is not é'),
  (26, 'SELECT pg_catalog.setval(''public.counter'', 1, false);'),
  (27, 'SELECT pg_catalog.lo_open(''4711'', 131072);'),
  (28, E'-- Data for Name: hostile; Type: TABLE DATA; Schema: public; Owner: postgres'),
  (29, repeat(E'\\.\n', 5000)),
  (30, repeat('a line that is longer than any buffer ', 40000));

-- A row that is nothing but an empty line, or nothing but the mark for NULL.
CREATE TABLE one_column (only_one text);
INSERT INTO one_column VALUES (''), (NULL), (E'\\.'), ('\N'), (E'\n'), (''), ('.'), (E'\\');
CREATE TABLE no_column ();
INSERT INTO no_column DEFAULT VALUES;
INSERT INTO no_column DEFAULT VALUES;
INSERT INTO no_column DEFAULT VALUES;
CREATE TABLE no_row (a int, b text);
CREATE TABLE no_column_no_row ();
CREATE TABLE dropped_columns (gone int, a int, gone_too text, b text, last_gone int);
INSERT INTO dropped_columns SELECT i, i, 'x', 'b' || i, i FROM generate_series(1, 25) i;
ALTER TABLE dropped_columns DROP COLUMN gone, DROP COLUMN gone_too, DROP COLUMN last_gone, ADD COLUMN c int DEFAULT 7;

--------------------------------------------------------------------------------------------------
-- Types: those of the user, then a row of every built-in one at its limits.
--------------------------------------------------------------------------------------------------
CREATE TYPE mood AS ENUM ('low', 'it''s "high"', 'línea
nueva');
ALTER TYPE mood ADD VALUE 'middle' BEFORE 'it''s "high"';
CREATE TYPE point3 AS (x float8, y float8, z float8);
CREATE TYPE labelled AS ("the label" text, place point3, moods mood[]);
CREATE TYPE never_filled;
CREATE DOMAIN positive AS int CONSTRAINT above_zero CHECK (VALUE > 0);
CREATE DOMAIN short_name AS varchar(20) DEFAULT 'nameless' NOT NULL CHECK (VALUE <> '');
CREATE DOMAIN unit_point AS point3 CHECK ((VALUE).x IS NULL OR (VALUE).x BETWEEN -1 AND 1);
CREATE DOMAIN triple AS int[] CHECK (cardinality(VALUE) = 3);
CREATE TYPE float_range AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = float_ranges);
COMMENT ON TYPE mood IS 'in an order that is not that of its making';

-- A base type of its own, with the input and output of text.
CREATE TYPE shout;
CREATE FUNCTION shout_in(cstring) RETURNS shout IMMUTABLE STRICT LANGUAGE internal AS 'textin';
CREATE FUNCTION shout_out(shout) RETURNS cstring IMMUTABLE STRICT LANGUAGE internal AS 'textout';
CREATE TYPE shout (INPUT = shout_in, OUTPUT = shout_out, LIKE = text, CATEGORY = 'S', COLLATABLE = true);

SELECT pg_catalog.set_config('torture.xml', CASE WHEN :'xml' IN ('on', 'true', '1') THEN '<a b="c">d &amp; e</a>' END, false);

CREATE TABLE every_type (
  id int GENERATED ALWAYS AS IDENTITY (START WITH 10 INCREMENT BY 5) PRIMARY KEY,
  i2 smallint, i8 bigint, f4 real, f8 double precision, n numeric, n2 numeric(12, 4), m money,
  t text, vc varchar(40), c char(10), ch "char", nm name, by bytea, bo boolean,
  d date, ti time, tiz timetz, ts timestamp, ts0 timestamp(0), tz timestamptz, iv interval, ivy interval year to month,
  j json, jb jsonb, jp jsonpath, x xml, u uuid, bi bit(5), vb varbit,
  ine inet, ci cidr, ma macaddr, ma8 macaddr8,
  p point, l line, ls lseg, bx box, pa path, po polygon, ci2 circle,
  tv tsvector, tq tsquery, lsn pg_lsn, snap pg_snapshot, xi xid8, o oid, ti2 tid, iv2 int2vector,
  rc regclass, rt regtype, rp regprocedure, rl regrole, rn regnamespace, rcfg regconfig,
  r4 int4range, r8 int8range, rnum numrange, rts tsrange, rtz tstzrange, rd daterange, mr int4multirange, mrd datemultirange,
  at text[], a2 int[][], aj jsonb[], ab bytea[], ap point3[],
  mo mood, amo mood[], comp labelled, dpos positive, dname short_name, dunit unit_point, dtri triple, fr float_range, frs float_ranges, sh shout,
  twice int GENERATED ALWAYS AS (i2 * 2) STORED,
  words tsvector GENERATED ALWAYS AS (to_tsvector('english', coalesce(t, ''))) STORED
);
CREATE FUNCTION fill_every_type(first int, last int) RETURNS void LANGUAGE sql AS $$
  INSERT INTO every_type (i2, i8, f4, f8, n, n2, m, t, vc, c, ch, nm, by, bo, d, ti, tiz, ts, ts0, tz, iv, ivy, j, jb, jp, x, u, bi, vb,
    ine, ci, ma, ma8, p, l, ls, bx, pa, po, ci2, tv, tq, lsn, snap, xi, o, ti2, iv2, rc, rt, rp, rl, rn, rcfg,
    r4, r8, rnum, rts, rtz, rd, mr, mrd, at, a2, aj, ab, ap, mo, amo, comp, dpos, dunit, dtri, fr, frs, sh)
  SELECT i % 16000, i * 987654321987, i / 7.0, exp(i % 300) / 3, (10::numeric ^ (i % 60)) / 7, i * 1.2345, (i * 1.37)::numeric::money,
    'The ' || i || ' quick foxes' || E'\t' || 'jumped\' || chr(9731 + i % 20), 'vc' || i, 'c' || i, chr(65 + i % 26)::"char", 'name ' || i,
    decode(md5(i::text) || '00ff5c2e0a', 'hex'), i % 3 = 0,
    date '2000-02-29' + i, time '00:00' + i * interval '1 minute 1 microsecond', timetz '12:00:00.5-08:30' + i * interval '1 second',
    timestamp '1999-12-31 23:59:59.123456' + i * interval '25 hours', timestamp '2020-01-01' + i * interval '1 day',
    timestamptz '2021-03-28 00:30+00' + i * interval '37 minutes', make_interval(i, -i, 0, i, -i, 1, i / 3.0), make_interval(i, 1),
    format('{"b": %s,  "a": 1, "b": [null]}', i)::json, jsonb_build_object('k', i, 'é', array[i, null], 'deep', jsonb_build_object('"', E'\n\t\\')),
    '$.a[*] ? (@ > 1 && @.b == "x")', nullif(current_setting('torture.xml'), '')::xml, md5(i::text)::uuid, (i % 32)::bit(5), (i % 1000)::bit(12)::varbit,
    inet '10.0.0.1/8' + i, set_masklen(cidr '192.168.0.0/16', 16), '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
    point(i, -i / 3.0), '{1,-1,0}', lseg(point(0, 0), point(i, 1)), box(point(i, i), point(0, 0)), '[(0,0),(1,1),(2,0)]', '((0,0),(0,1),(1,0))', circle(point(i, i), 2),
    to_tsvector('simple', 'it''s a ''quoted'' ' || i), 'cat & (rat | !dog:AB*)', '16/B374D848', '10:20:10,14,15', i::text::xid8, 4000000000, '(1,2)', '1 2 3',
    'pg_catalog.pg_class', 'mood', 'pg_catalog.lower(text)', 'torture_reader', 'select', 'english',
    int4range(i, i + 5), int8range(NULL, i), numrange(i, i + 0.5, '[]'), tsrange('2020-01-01', 'infinity'), tstzrange('-infinity', NULL), 'empty',
    int4multirange(int4range(i, i + 1), int4range(i + 5, NULL)), datemultirange(daterange('2020-01-01', '2020-02-01')),
    array['a', 'b\c', NULL, '', 'NULL', E't\tab', E'\\.', '{"}'], ('[0:1][-1:0]={{' || i || ',2},{3,NULL}}')::int[], array['{"a": 1}', 'null']::jsonb[], array['\x00'::bytea, '', NULL], array[(1, 2, 3)::point3, NULL],
    (enum_range(NULL::mood))[1 + i % 4], enum_range(NULL::mood), (E'a "label"\n', (1, NULL, 'NaN')::point3, array['low']::mood[])::labelled, 1 + i, (0.5, i, NULL)::point3, array[i, NULL, 3],
    float_range(i, i + 0.1), float_ranges(float_range(NULL, 0)), ('LOUD ' || i)::shout
  FROM generate_series(first, last) i
$$;
SELECT fill_every_type(1, 400);
-- The limits; and a row of nothing but NULL.
INSERT INTO every_type (i2, i8, f4, f8, n, n2, m, by, d, tiz, ts, tz, iv, at, a2, ine, u, rnum, frs)
VALUES (-16384, -9223372036854775808, '-0', 'NaN', 'NaN', 99999999.9999, '-92233720368547758.08', '', '-infinity', '23:59:59.999999+15:59', '4713-01-01 00:00:00 BC', 'infinity', '-178000000 years', '{}', '{}', '::ffff:1.2.3.4', '00000000-0000-0000-0000-000000000000', '(,)', '{}'),
       (16383, 9223372036854775807, '1.4e-45', '1.7976931348623157e308', 'Infinity', -0.0001, '92233720368547758.07', '\x5c2e0a', '5874897-12-31', '00:00:00-15:59', '294276-12-31 23:59:59.999999', '-infinity', '1 mon -1 day +00:00:00.000001', '{NULL}', '{{1}}', 'fe80::1/64', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'empty', '{(,)}'),
       (0, 0, 'Infinity', '5e-324', '-Infinity', 0, '0', '\x5c', '0001-01-01 BC', '00:00+00', '0001-12-31 BC', '0044-03-15 12:00+00 BC', '0', '[5:6]={a,b}', '{{{1,2},{3,4}}}', '0.0.0.0/0', NULL, NULL, NULL);
INSERT INTO every_type DEFAULT VALUES;
ALTER TABLE every_type ALTER t SET STATISTICS 500, ALTER by SET STORAGE EXTERNAL, ALTER t SET COMPRESSION pglz, ALTER i8 SET (n_distinct = -0.5);

--------------------------------------------------------------------------------------------------
-- The order of rows on disk: rows of uneven width and gaps that were filled again.
--------------------------------------------------------------------------------------------------
CREATE TABLE uneven (id bigserial PRIMARY KEY, filling text) WITH (fillfactor = 70);
ALTER TABLE uneven ALTER filling SET STORAGE PLAIN;
INSERT INTO uneven (filling)
  SELECT (SELECT string_agg(md5((i * 31 + k)::text), '') FROM generate_series(0, (i::bigint * i * 7919) % 211) k) FROM generate_series(1, 900) i;
CREATE TABLE gaps (id int PRIMARY KEY, what text NOT NULL);
INSERT INTO gaps SELECT i, repeat('x', i % 60) FROM generate_series(1, 9000) i;
UPDATE gaps SET what = what || 'updated' WHERE id % 3 = 0;
DELETE FROM gaps WHERE id % 7 = 0;
VACUUM gaps;
INSERT INTO gaps SELECT i, 'filled a gap' FROM generate_series(20001, 21500) i;
ALTER TABLE gaps CLUSTER ON gaps_pkey;
CREATE TABLE same_rows (a int, b text);
INSERT INTO same_rows SELECT i % 3, 'the same' FROM generate_series(1, 300) i;
CREATE TABLE toasted (id int, big text, small bytea);
INSERT INTO toasted SELECT i, (SELECT string_agg(md5((i * k)::text), '') FROM generate_series(1, 1500) k), decode(repeat('0a5c2e', i), 'hex') FROM generate_series(1, 12) i;

--------------------------------------------------------------------------------------------------
-- Inheritance, whose columns drift apart, and partitions of every kind.
--------------------------------------------------------------------------------------------------
CREATE TABLE ancestor (a int, b text);
CREATE TABLE other_ancestor (b text, z date DEFAULT '2020-02-02');
CREATE TABLE heir (own int) INHERITS (ancestor);
CREATE TABLE heir_of_both (last text) INHERITS (other_ancestor, ancestor);
INSERT INTO ancestor SELECT i, 'ancestor' FROM generate_series(1, 10) i;
INSERT INTO heir SELECT i, 'heir', -i FROM generate_series(11, 30) i;
INSERT INTO heir_of_both (a, b, last) SELECT i, 'both', 'last' FROM generate_series(31, 37) i;
ALTER TABLE ancestor ADD COLUMN late text DEFAULT 'came late', ADD CONSTRAINT only_here CHECK (a > 0) NO INHERIT;
ALTER TABLE heir ALTER COLUMN late SET DEFAULT 'came later';

CREATE TABLE measured (at timestamptz NOT NULL, site int NOT NULL, value numeric, note text) PARTITION BY RANGE (at);
CREATE TABLE measured_2023 PARTITION OF measured FOR VALUES FROM ('2023-01-01+00') TO ('2024-01-01+00') PARTITION BY LIST (site);
CREATE TABLE measured_2023_one PARTITION OF measured_2023 FOR VALUES IN (1);
CREATE TABLE owned."measured 2023 rest" PARTITION OF measured_2023 DEFAULT;
CREATE TABLE measured_2024 (note text, value numeric, dropped int, site int NOT NULL, at timestamptz NOT NULL);
ALTER TABLE measured_2024 DROP COLUMN dropped;
ALTER TABLE measured ATTACH PARTITION measured_2024 FOR VALUES FROM ('2024-01-01+00') TO ('2025-01-01+00');
CREATE TABLE measured_else PARTITION OF measured DEFAULT WITH (fillfactor = 50);
CREATE TABLE measured_never PARTITION OF measured FOR VALUES FROM ('2030-01-01+00') TO (MAXVALUE);
INSERT INTO measured SELECT timestamptz '2022-12-01 00:00+00' + i * interval '11 hours', i % 4, i / 8.0, CASE WHEN i % 5 > 0 THEN 'note ' || i END FROM generate_series(1, 2000) i;
CREATE INDEX measured_by_site ON measured (site, at DESC);
ALTER TABLE measured ADD PRIMARY KEY (at, site);

CREATE TABLE by_mood (feeling mood, n int) PARTITION BY HASH (feeling);
CREATE TABLE by_mood_0 PARTITION OF by_mood FOR VALUES WITH (MODULUS 4, REMAINDER 0);
CREATE TABLE by_mood_1 PARTITION OF by_mood FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE by_mood_2 PARTITION OF by_mood FOR VALUES WITH (MODULUS 4, REMAINDER 2);
CREATE TABLE by_mood_3 PARTITION OF by_mood FOR VALUES WITH (MODULUS 4, REMAINDER 3);
INSERT INTO by_mood SELECT (enum_range(NULL::mood))[1 + i % 4], i FROM generate_series(1, 400) i;
CREATE TABLE by_list (key text, n int) PARTITION BY LIST (key);
CREATE TABLE "by_list '\.'" PARTITION OF by_list FOR VALUES IN (E'\\.', E'new\nline', NULL);
CREATE TABLE by_list_rest PARTITION OF by_list DEFAULT;
INSERT INTO by_list VALUES (E'\\.', 1), (E'new\nline', 2), (NULL, 3), ('', 4), ('rest', 5);
CREATE TABLE by_expression (t text) PARTITION BY RANGE (lower(t) COLLATE "C", length(t));
CREATE TABLE by_expression_all PARTITION OF by_expression FOR VALUES FROM (MINVALUE, MINVALUE) TO (MAXVALUE, MAXVALUE);
INSERT INTO by_expression VALUES ('Abc'), ('xYZ');
CREATE TABLE no_partition (a int) PARTITION BY LIST (a);

--------------------------------------------------------------------------------------------------
-- Other tables: unlogged, typed, with an access method, with keys in circles.
--------------------------------------------------------------------------------------------------
CREATE UNLOGGED TABLE forgotten (a int, s serial);
INSERT INTO forgotten (a) SELECT generate_series(1, 50);
CREATE TABLE of_type OF point3 (PRIMARY KEY (x), z WITH OPTIONS DEFAULT 3);
INSERT INTO of_type SELECT i, i * 2 FROM generate_series(1, 20) i;
CREATE ACCESS METHOD second_heap TYPE TABLE HANDLER heap_tableam_handler;
CREATE TABLE in_second_heap (a int) USING second_heap;
INSERT INTO in_second_heap SELECT generate_series(1, 15);

CREATE TABLE hen (id int PRIMARY KEY, egg int NOT NULL);
CREATE TABLE egg (id int PRIMARY KEY, hen int NOT NULL REFERENCES hen DEFERRABLE INITIALLY DEFERRED, elder int REFERENCES egg ON DELETE SET NULL (elder));
ALTER TABLE hen ADD CONSTRAINT hen_from_egg FOREIGN KEY (egg) REFERENCES egg ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED;
BEGIN;
INSERT INTO hen SELECT i, i FROM generate_series(1, 100) i;
INSERT INTO egg SELECT i, 101 - i, CASE WHEN i > 1 THEN i - 1 END FROM generate_series(1, 100) i;
COMMIT;
CREATE TABLE refers_to_partitions (at timestamptz, site int, FOREIGN KEY (at, site) REFERENCES measured);
INSERT INTO refers_to_partitions SELECT at, site FROM measured WHERE site = 1 LIMIT 30;
CREATE TABLE constrained (a int CONSTRAINT "odd ""name""" CHECK (a <> 13), during tsrange, b text, c text,
  UNIQUE NULLS NOT DISTINCT (b), EXCLUDE USING gist (during WITH &&) WHERE (a > 0) DEFERRABLE);
INSERT INTO constrained SELECT i, tsrange(timestamp '2020-01-01' + i * interval '1 day', timestamp '2020-01-02' + i * interval '1 day'), nullif(i, 5)::text FROM generate_series(1, 12) i;
INSERT INTO constrained (a, b) VALUES (-1, 'to be');
ALTER TABLE constrained ADD CONSTRAINT not_yet_valid CHECK (a > 0) NOT VALID, ADD CONSTRAINT dangling FOREIGN KEY (a) REFERENCES hen NOT VALID;
ALTER TABLE constrained REPLICA IDENTITY FULL;
CREATE TABLE identities (always_id bigint GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME "iden tity" MINVALUE -5 START -5), default_id smallint GENERATED BY DEFAULT AS IDENTITY (INCREMENT -1 MAXVALUE 100 START 100 CACHE 4 CYCLE), v text);
INSERT INTO identities (v) SELECT 'v' || i FROM generate_series(1, 9) i;

CREATE FUNCTION grade(int) RETURNS text LANGUAGE sql IMMUTABLE RETURN CASE WHEN $1 > 50 THEN 'good' ELSE 'bad' END;
CREATE TABLE graded (points int, a text GENERATED ALWAYS AS (grade(points)) STORED, b int, c int GENERATED ALWAYS AS (b + points) STORED);
INSERT INTO graded (points, b) SELECT i, i * 2 FROM generate_series(40, 60) i;
-- A check that depends on a setting of the session: the rows are there, and must be once more.
CREATE FUNCTION session_says(int) RETURNS boolean LANGUAGE sql STABLE AS $$ SELECT $1 > 0 AND current_setting('torture.strict', true) IS DISTINCT FROM 'yes' $$;
CREATE TABLE moody_check (a int CHECK (session_says(a)), b text COLLATE "C");
INSERT INTO moody_check VALUES (1, 'x'), (2, 'Y');

\if :v16
CREATE TABLE new_in_16 (a text STORAGE EXTERNAL);
INSERT INTO new_in_16 VALUES (repeat('sixteen', 100));
\endif
\if :v18
CREATE TABLE new_in_18 (a int CONSTRAINT never_null NOT NULL, b int GENERATED ALWAYS AS (a * 2), span daterange, room int4range, PRIMARY KEY (room, span WITHOUT OVERLAPS));
INSERT INTO new_in_18 (a, span, room) SELECT i, daterange(date '2025-01-01' + i, date '2025-01-02' + i), int4range(i, i + 1) FROM generate_series(1, 10) i;
ALTER TABLE new_in_18 ADD CONSTRAINT wished CHECK (a > 5) NOT ENFORCED;
\endif

--------------------------------------------------------------------------------------------------
-- Sequences, at rest, at the end, run over.
--------------------------------------------------------------------------------------------------
CREATE SEQUENCE counter;
SELECT nextval('counter') FROM generate_series(1, 41);
CREATE SEQUENCE unused_counter START 7 MINVALUE 5;
CREATE SEQUENCE run_over MAXVALUE 10 CYCLE;
SELECT nextval('run_over') FROM generate_series(1, 13);
CREATE SEQUENCE downwards AS smallint INCREMENT -3 MINVALUE -300 MAXVALUE -1;
SELECT nextval('downwards') FROM generate_series(1, 5);
CREATE SEQUENCE exhausted MINVALUE -9223372036854775808 START -9223372036854775808;
SELECT setval('exhausted', 9223372036854775807);
CREATE SEQUENCE set_back;
SELECT setval('set_back', 77, false);
CREATE UNLOGGED SEQUENCE unlogged_counter;
SELECT nextval('unlogged_counter');
CREATE SEQUENCE "Mixed Case, (with) ""quotes"".dots"."se'quence
2" CACHE 10 OWNED BY "Mixed Case, (with) ""quotes"".dots"."order"."table";
SELECT nextval('"Mixed Case, (with) ""quotes"".dots"."se''quence
2"');

--------------------------------------------------------------------------------------------------
-- Functions whose bodies look like the dump around them.
--------------------------------------------------------------------------------------------------
CREATE FUNCTION looks_like_a_dump() RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, "select" SET "torture.note" = 'a ''quoted'' value' AS $_$
BEGIN
  -- What follows is text, and no COPY.
  RETURN $q$
COPY public.hostile (id, line) FROM stdin;
666	not a row
\.

--
-- PostgreSQL database dump complete
--

\unrestrict deadbeef
$q$ || $_2$ $ $$ $_2$;
END
$_$;
CREATE FUNCTION quoted_body() RETURNS text LANGUAGE sql AS 'SELECT ''$_$ it''''s
COPY public.hostile (id, line) FROM stdin;
\.
--
-- PostgreSQL database dump complete
--
$_$''::text';
CREATE FUNCTION standard_body(a int, OUT b int, OUT c text) LANGUAGE sql STRICT BEGIN ATOMIC SELECT a + 1, 'x;y' || a; END;
CREATE FUNCTION many(VARIADIC numbers int[] DEFAULT '{1,2}') RETURNS TABLE ("the number" int, half numeric) LANGUAGE sql STABLE PARALLEL SAFE COST 7 ROWS 3 AS 'SELECT n, n / 2.0 FROM unnest(numbers) n';
CREATE FUNCTION many(text) RETURNS text LANGUAGE sql LEAKPROOF IMMUTABLE SECURITY DEFINER AS 'SELECT upper($1)';
CREATE PROCEDURE do_nothing(INOUT a int, b text DEFAULT E'\\.\n') LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
CREATE FUNCTION touch_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.what := NEW.what; RETURN NEW; END $$;
CREATE FUNCTION look_at_rows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM count(*) FROM newer; RETURN NULL; END $$;
CREATE TRIGGER "touch ""it""" BEFORE INSERT OR UPDATE OF what ON gaps FOR EACH ROW WHEN (NEW.id > 0) EXECUTE FUNCTION touch_row('an argument', E'\\.');
CREATE TRIGGER look AFTER INSERT ON gaps REFERENCING NEW TABLE AS newer FOR EACH STATEMENT EXECUTE FUNCTION look_at_rows();
CREATE TRIGGER sleeping BEFORE UPDATE ON gaps FOR EACH ROW EXECUTE FUNCTION touch_row();
CREATE TRIGGER on_replicas BEFORE UPDATE ON gaps FOR EACH ROW EXECUTE FUNCTION touch_row();
CREATE CONSTRAINT TRIGGER later AFTER DELETE ON gaps DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION touch_row();
ALTER TABLE gaps DISABLE TRIGGER sleeping, ENABLE REPLICA TRIGGER on_replicas;
-- A trigger that would change rows if it ran while they are loaded.
CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.line := 'spoiled'; RETURN NEW; END $$;
CREATE TRIGGER spoil BEFORE INSERT ON hostile FOR EACH ROW EXECUTE FUNCTION spoil();

CREATE AGGREGATE product(float8) (SFUNC = float8mul, STYPE = float8, INITCOND = '1', COMBINEFUNC = float8mul, PARALLEL = SAFE);
CREATE FUNCTION equals_text(int, text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1::text = $2';
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = text, FUNCTION = equals_text);
CREATE FUNCTION shouts_alike(shout, shout) RETURNS boolean IMMUTABLE STRICT LANGUAGE internal AS 'texteq';
CREATE FUNCTION shout_hash(shout) RETURNS int IMMUTABLE STRICT LANGUAGE internal AS 'hashtext';
CREATE OPERATOR = (LEFTARG = shout, RIGHTARG = shout, FUNCTION = shouts_alike, HASHES);
CREATE OPERATOR FAMILY loud USING hash;
CREATE OPERATOR CLASS loud_ops DEFAULT FOR TYPE shout USING hash FAMILY loud AS OPERATOR 1 =, FUNCTION 1 shout_hash(shout);
CREATE CAST (shout AS text) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (mood AS int) WITH INOUT AS ASSIGNMENT;
CREATE COLLATION plain FROM "C";
\if :icu
CREATE COLLATION numeric_order (PROVIDER = icu, LOCALE = 'en-u-kn-true', DETERMINISTIC = false);
CREATE TABLE in_icu (t text COLLATE numeric_order UNIQUE);
INSERT INTO in_icu VALUES ('A-2'), ('A-10'), ('a-123');
\endif
CREATE CONVERSION latin_one FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE FUNCTION second_pl_handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE TRUSTED LANGUAGE second_pl HANDLER second_pl_handler;
CREATE FUNCTION in_second_pl() RETURNS int LANGUAGE second_pl AS 'BEGIN RETURN 2; END';
CREATE TRANSFORM FOR int LANGUAGE sql (FROM SQL WITH FUNCTION prsd_lextype(internal), TO SQL WITH FUNCTION int4recv(internal));
CREATE TEXT SEARCH DICTIONARY stubborn (TEMPLATE = snowball, LANGUAGE = english, STOPWORDS = english);
CREATE TEXT SEARCH CONFIGURATION stubborn_english (COPY = english);
ALTER TEXT SEARCH CONFIGURATION stubborn_english ALTER MAPPING FOR asciiword WITH stubborn, simple;

--------------------------------------------------------------------------------------------------
-- Views, materialised ones too, one on top of another; rules; indexes; statistics.
--------------------------------------------------------------------------------------------------
CREATE VIEW top AS SELECT id, line FROM hostile WHERE id < 10 WITH LOCAL CHECK OPTION;
CREATE VIEW on_top WITH (security_barrier, security_invoker) AS SELECT t.*, E'\\.\n' AS "\." FROM top t;
CREATE RULE swallow AS ON INSERT TO on_top DO INSTEAD NOTHING;
CREATE RULE protect AS ON DELETE TO graded WHERE OLD.points > 50 DO INSTEAD NOTHING;
CREATE VIEW needs_key AS SELECT id, egg FROM hen GROUP BY id;
CREATE VIEW in_circle AS SELECT 1 AS a;
CREATE FUNCTION from_circle() RETURNS SETOF in_circle LANGUAGE sql AS 'SELECT 1';
CREATE OR REPLACE VIEW in_circle AS SELECT a FROM from_circle();
CREATE RECURSIVE VIEW countdown (n) AS VALUES (10) UNION ALL SELECT n - 1 FROM countdown WHERE n > 0;
CREATE MATERIALIZED VIEW filled AS SELECT site, count(*) AS n, max(value) AS highest FROM measured GROUP BY site;
CREATE MATERIALIZED VIEW on_filled WITH (fillfactor = 90) AS SELECT sum(n) AS total FROM filled;
CREATE MATERIALIZED VIEW never_filled_view AS SELECT 1 AS a WITH NO DATA;
-- A name that sorts before what it needs.
CREATE MATERIALIZED VIEW aaa_first AS SELECT total + 1 AS total FROM on_filled;
CREATE UNIQUE INDEX ON filled (site);
INSERT INTO measured VALUES ('2031-01-01', 9, 9, 'after the view was filled');

CREATE INDEX ON uneven (md5(filling));
CREATE UNIQUE INDEX ON gaps (lower(what), id DESC NULLS LAST) INCLUDE (what) WHERE id > 100;
CREATE INDEX "in""dex" ON every_type USING gin (jb jsonb_path_ops, tv);
CREATE INDEX ON every_type USING brin (ts timestamp_minmax_multi_ops (values_per_range = 16)) WITH (pages_per_range = 4);
CREATE INDEX ON every_type USING gist (r4, p);
CREATE INDEX ON every_type USING spgist (bx);
CREATE INDEX ON every_type USING hash (sh);
CREATE INDEX ON ONLY by_list (n);
CREATE STATISTICS together (ndistinct, dependencies, mcv) ON a, b FROM same_rows;
CREATE STATISTICS owned.expressed ON lower(what), (id % 10) FROM gaps;
ALTER STATISTICS together SET STATISTICS 50;
ANALYZE same_rows;

--------------------------------------------------------------------------------------------------
-- Owners, privileges, row security.
--------------------------------------------------------------------------------------------------
CREATE TABLE secured (a int, tenant name DEFAULT current_user, hidden text);
INSERT INTO secured SELECT i, CASE WHEN i % 2 = 0 THEN 'torture_reader' ELSE 'torture_owner' END, 'h' || i FROM generate_series(1, 30) i;
ALTER TABLE secured ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, OWNER TO torture_owner;
CREATE POLICY "its own" ON secured TO torture_reader, torture_heir USING (tenant = current_user) WITH CHECK (a > 0);
CREATE POLICY fewer ON secured AS RESTRICTIVE FOR SELECT USING (a < 100);
CREATE POLICY adding ON secured FOR INSERT TO PUBLIC WITH CHECK (true);
ALTER TABLE graded OWNER TO torture_owner;
ALTER TABLE same_rows OWNER TO "Tor""ture ' röle";
GRANT SELECT, INSERT ON graded TO torture_reader WITH GRANT OPTION;
GRANT SELECT (a), UPDATE (hidden) ON secured TO torture_reader;
SET SESSION AUTHORIZATION torture_reader;
GRANT SELECT ON graded TO torture_heir, "Tor""ture ' röle";
RESET SESSION AUTHORIZATION;
REVOKE EXECUTE ON FUNCTION grade(int) FROM PUBLIC;
REVOKE USAGE ON TYPE mood FROM PUBLIC;
GRANT USAGE ON TYPE mood TO torture_reader;
REVOKE USAGE ON LANGUAGE second_pl FROM PUBLIC;
GRANT USAGE ON SCHEMA owned, "select" TO PUBLIC;
GRANT SELECT ON pg_catalog.pg_authid TO torture_owner;
ALTER DEFAULT PRIVILEGES FOR ROLE torture_owner IN SCHEMA owned GRANT SELECT ON TABLES TO torture_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE torture_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

--------------------------------------------------------------------------------------------------
-- Large objects: around the size of their pages, with a hole, empty, owned, commented, granted.
--------------------------------------------------------------------------------------------------
SELECT lo_create(46000);
SELECT lo_from_bytea(46001, '\x00ff105c2e0a');
SELECT lo_from_bytea(46002, convert_to(repeat('x', 2047), 'UTF8'));
SELECT lo_from_bytea(46003, convert_to(repeat('y', 2048), 'UTF8'));
SELECT lo_from_bytea(46004, convert_to(repeat('z', 2049), 'UTF8'));
SELECT lo_from_bytea(46005, decode(repeat('ab5c2e', 90000), 'hex'));
SELECT lo_create(46006);
SELECT lo_put(46006, 50000, '\x01');  -- what lies before was never written
SELECT lo_from_bytea(46007, convert_to(E'\\.\n--\n-- PostgreSQL database dump complete\n--\n', 'UTF8'));
COMMENT ON LARGE OBJECT 46001 IS E'a large object''s comment\n\\.';
GRANT SELECT ON LARGE OBJECT 46001 TO torture_reader;
ALTER LARGE OBJECT 46002 OWNER TO torture_owner;
CREATE TABLE attachments (name text, content oid);
INSERT INTO attachments SELECT 'file ' || i, 46000 + i FROM generate_series(0, 7) i;

--------------------------------------------------------------------------------------------------
-- Foreign data, extensions, publications.
--------------------------------------------------------------------------------------------------
CREATE FOREIGN DATA WRAPPER nowhere OPTIONS (note 'it''s "nowhere"');
CREATE SERVER "far away" TYPE 'none' VERSION '1.0' FOREIGN DATA WRAPPER nowhere OPTIONS (host 'example.invalid', port '1');
CREATE USER MAPPING FOR torture_reader SERVER "far away" OPTIONS (user 'me', password 'se''cret');
CREATE FOREIGN TABLE far (a int OPTIONS (column_name 'A a') NOT NULL, b text DEFAULT E'\\.') SERVER "far away" OPTIONS (table 'x');
GRANT USAGE ON FOREIGN SERVER "far away" TO torture_reader;
\if :hstore
CREATE EXTENSION hstore WITH SCHEMA "select";
CREATE TABLE with_hstore (h "select".hstore);
INSERT INTO with_hstore VALUES ('a=>1, "b\\.
"=>NULL');
\endif
\if :vector
CREATE EXTENSION vector WITH SCHEMA owned;
CREATE TABLE with_vector (v owned.vector(3));
INSERT INTO with_vector VALUES ('[1,2,3]'), (NULL);
\endif
COMMENT ON EXTENSION plpgsql IS 'a comment of our own';
CREATE PUBLICATION a_few FOR TABLE graded (points, b) WHERE (points > 45), by_list WITH (publish = 'insert, update', publish_via_partition_root = true);
CREATE PUBLICATION every FOR ALL TABLES;
CREATE PUBLICATION "of a schema" FOR TABLES IN SCHEMA owned;
CREATE PUBLICATION nothing;
COMMENT ON TABLE hostile IS E'line one\n-- line two; it''s "quoted" \\.\nCOPY public.hostile (id, line) FROM stdin;\n\\.\n';
COMMENT ON COLUMN hostile.line IS '$$ -- $1';
COMMENT ON INDEX "in""dex" IS 'an index';
COMMENT ON CONSTRAINT "odd ""name""" ON constrained IS 'a constraint';
COMMENT ON TRIGGER "touch ""it""" ON gaps IS 'a trigger';
COMMENT ON POLICY fewer ON secured IS 'a policy';
COMMENT ON FUNCTION many(text) IS 'one of two';
COMMENT ON ROLE torture_reader IS 'of the torture database';

--------------------------------------------------------------------------------------------------
-- The database's own properties. Sessions that begin from here on see other formats.
--------------------------------------------------------------------------------------------------
ALTER DATABASE :"DBNAME" SET timezone = 'America/St_Johns';
ALTER DATABASE :"DBNAME" SET bytea_output = 'escape';
ALTER DATABASE :"DBNAME" SET datestyle = 'SQL, DMY';
ALTER DATABASE :"DBNAME" SET intervalstyle = 'sql_standard';
ALTER DATABASE :"DBNAME" SET search_path = "select", "Mixed Case, (with) ""quotes"".dots", public;
ALTER DATABASE :"DBNAME" SET "torture.note" = E'it''s\n"a" note';
ALTER DATABASE :"DBNAME" SET statement_timeout = '10min';
ALTER ROLE torture_reader IN DATABASE :"DBNAME" SET work_mem = '8MB';
ALTER ROLE torture_reader IN DATABASE :"DBNAME" SET search_path = public;
ALTER DATABASE :"DBNAME" CONNECTION LIMIT 90;
ALTER DATABASE :"DBNAME" OWNER TO torture_owner;
COMMENT ON DATABASE :"DBNAME" IS E'a database''s comment\n\\.';
REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE :"DBNAME" TO torture_reader WITH GRANT OPTION;

-- At the very end, because they would watch everything above.
CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watching ON ddl_command_end WHEN TAG IN ('CREATE TABLE', 'DROP TABLE') EXECUTE FUNCTION watch();
CREATE EVENT TRIGGER asleep ON sql_drop EXECUTE FUNCTION watch();
ALTER EVENT TRIGGER asleep DISABLE;
