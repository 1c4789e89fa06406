"""The fleet: databases that look like real ones, made by the server itself, the same every time.

Every value comes from a hash of its row number and the database's seed, never from random(), so that
a fleet is the same on every machine, and no two databases of it are alike: a mix-up would be seen.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.server import Target

PREFIX = "bench_"
_UNFINISHED = "_unfinished"

# (rows, bytes of SQL a row) of each table in one unit of the mix: about a third customers (prose,
# jsonb), half events (bytea), the rest numbers.
_CUSTOMERS = (730, 306)
_SENTENCE = 74
_EVENTS = (2330, 204)
_READINGS = (4300, 48)

_SCHEMA = """
BEGIN;  -- made in the transaction that fills it, a table needs no WAL where wal_level is minimal
CREATE TABLE member (name text PRIMARY KEY, seed integer NOT NULL);
CREATE TABLE customers (
    id bigint NOT NULL, name text NOT NULL, email text NOT NULL, signed_up timestamptz NOT NULL,
    balance numeric(12,2) NOT NULL, profile jsonb NOT NULL, about text NOT NULL);
CREATE TABLE events (
    id bigint NOT NULL, customer_id bigint NOT NULL, kind text NOT NULL, at timestamptz NOT NULL,
    amount numeric(12,2), client text NOT NULL, payload bytea NOT NULL, note text NOT NULL);
CREATE TABLE readings (
    id bigint NOT NULL, sensor integer NOT NULL, at timestamptz NOT NULL, value double precision NOT NULL,
    quality smallint NOT NULL);
CREATE VIEW customer_totals AS
    SELECT c.id, c.name, count(*) AS events, sum(e.amount) AS amount
    FROM customers c JOIN events e ON e.customer_id = c.id GROUP BY c.id, c.name;
"""

_ROWS = r"""
SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL work_mem = '256MB';

CREATE FUNCTION pg_temp.pick(i bigint, salt integer, choices bigint, seed integer) RETURNS bigint
    IMMUTABLE LANGUAGE sql AS $$ SELECT (hashint8extended(i, seed * 1000 + salt) & 2147483647) % choices $$;

CREATE TEMP TABLE syllable AS SELECT ordinality - 1 AS id, s FROM unnest(string_to_array(
    'ba be bo ca ce co da de di fa fe fi ga go ha he hi la le li lo ma me mi mo na ne no pa pe po ra re ri'
    ' sa se so ta te ti to va ve wa we an en in on er or st th', ' ')) WITH ORDINALITY AS t(s, ordinality);

CREATE TEMP TABLE word AS
    SELECT w.id, string_agg(s.s, '' ORDER BY k) AS w
    FROM generate_series(0, 2999) AS w(id), generate_series(1, 4) AS k, syllable s
    WHERE k <= 1 + pg_temp.pick(w.id, 1, 3, :seed) + (w.id > 200)::int
      AND s.id = pg_temp.pick(w.id * 4 + k, 2, 53, :seed)
    GROUP BY w.id;

-- The cube prefers a few words to all others, as language does.
CREATE TEMP TABLE sentence AS
    SELECT p.id, initcap(left(string_agg(w.w, ' ' ORDER BY k), 1))
        || substr(string_agg(w.w, ' ' ORDER BY k), 2) || '.' AS s
    FROM generate_series(0, 19999) AS p(id), generate_series(1, 18) AS k, word w
    WHERE k <= 5 + pg_temp.pick(p.id, 3, 14, :seed)
      AND w.id = floor(3000 * (pg_temp.pick(p.id * 18 + k, 4, 1000000, :seed) / 1e6) ^ 3)
    GROUP BY p.id;
ALTER TABLE sentence ADD PRIMARY KEY (id);
ANALYZE word;
ANALYZE sentence;

INSERT INTO member VALUES (:'name', :seed);

INSERT INTO customers
    SELECT i, initcap(a.w || ' ' || b.w), a.w || '.' || b.w || i || '@' || c.w || '.example',
        timestamptz '2019-01-01 00:00Z' + pg_temp.pick(i, 11, 220000000, :seed) * interval '1 second',
        pg_temp.pick(i, 12, 100000000, :seed) / 100.0 - 200000,
        jsonb_build_object(
            'plan', (ARRAY['free', 'basic', 'team', 'enterprise'])[1 + pg_temp.pick(i, 13, 4, :seed)],
            'tags', jsonb_build_array(a.w, c.w), 'score', pg_temp.pick(i, 14, 1000, :seed),
            'consent', jsonb_build_object('newsletter', pg_temp.pick(i, 15, 3, :seed) = 0,
                'analytics', pg_temp.pick(i, 16, 2, :seed) = 0, 'version', '2.1'),
            'address', jsonb_build_object('street', initcap(c.w) || ' ' || pg_temp.pick(i, 17, 200, :seed),
                'zip', lpad(pg_temp.pick(i, 18, 99999, :seed)::text, 5, '0'), 'city', initcap(b.w),
                'country', (ARRAY['CA', 'DE', 'FR', 'US'])[1 + pg_temp.pick(i, 19, 4, :seed)])),
        coalesce((SELECT string_agg(s.s, ' ' ORDER BY k) FROM generate_series(1, :prose) AS k
            JOIN sentence s ON s.id = pg_temp.pick(i * 64 + k, 24, 20000, :seed)), '')
    FROM generate_series(1, :customers) AS i
    JOIN word a ON a.id = pg_temp.pick(i, 21, 3000, :seed)
    JOIN word b ON b.id = pg_temp.pick(i, 22, 3000, :seed)
    JOIN word c ON c.id = pg_temp.pick(i, 23, 3000, :seed)
    ORDER BY i;

INSERT INTO events
    SELECT i, 1 + pg_temp.pick(i, 31, :customers, :seed),
        (ARRAY['login', 'order', 'payment', 'refund', 'message'])[1 + pg_temp.pick(i, 32, 5, :seed)],
        timestamptz '2024-01-01 00:00Z' + i * interval '7.3 seconds',
        CASE WHEN pg_temp.pick(i, 33, 4, :seed) > 0 THEN pg_temp.pick(i, 34, 1000000, :seed) / 100.0 END,
        (ARRAY['Mozilla/5.0 (X11; Linux x86_64)', 'Mozilla/5.0 (Windows NT 10.0; Win64; x64)', 'curl/8.5.0',
            'Mozilla/5.0 (iPhone; CPU iPhone OS 17_4 like Mac OS X)'])[1 + pg_temp.pick(i, 35, 4, :seed)],
        substr(sha512((:seed || ' ' || i)::bytea),
            1, 16 + pg_temp.pick(i, 36, 49, :seed)::integer),
        'customer ' || pg_temp.pick(i, 31, :customers, :seed) || (ARRAY[' signed in', ' placed an order',
            ' was told that the order is on its way', ' asked for a refund', ' changed the address']
            )[1 + pg_temp.pick(i, 32, 5, :seed)]
    FROM generate_series(1, :events) AS i;

INSERT INTO readings
    SELECT i, pg_temp.pick(i, 41, 500, :seed), timestamptz '2024-06-01 00:00Z' + i * interval '0.25 seconds',
        pg_temp.pick(i, 42, 1000000000, :seed) / 1e6 - 300, pg_temp.pick(i, 43, 4, :seed)
    FROM generate_series(1, :readings) AS i;
"""

_INDEXES = """
ALTER TABLE customers ADD PRIMARY KEY (id);
ALTER TABLE events ADD PRIMARY KEY (id);
ALTER TABLE readings ADD PRIMARY KEY (id);
ALTER TABLE events ADD FOREIGN KEY (customer_id) REFERENCES customers;
CREATE UNIQUE INDEX customers_email ON customers (email);
CREATE INDEX customers_plan ON customers ((profile ->> 'plan'));
CREATE INDEX events_customer ON events (customer_id, at);
CREATE INDEX readings_sensor ON readings (sensor, at);
COMMIT;
VACUUM (FREEZE, ANALYZE);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A database to be: `megabytes` of SQL text (0: empty), so many sentences for each customer."""

    name: str
    seed: int
    megabytes: int
    prose: int

    @property
    def rows(self) -> dict[str, int]:
        """How many rows make up the size."""
        customer = _CUSTOMERS[1] + _SENTENCE * self.prose
        unit = _CUSTOMERS[0] * customer + _EVENTS[0] * _EVENTS[1] + _READINGS[0] * _READINGS[1]
        units = self.megabytes * 1e6 / unit
        counts = {"customers": _CUSTOMERS[0], "events": _EVENTS[0], "readings": _READINGS[0]}
        return {table: round(count * units) for table, count in counts.items()}


def plan(kind: str, count: int, megabytes: int, prose: int = 1) -> list[Member]:
    """Return members of one size; the name says all that determines the contents."""
    size = f"{megabytes}mb" + (f"_prose{prose}" if prose != 1 else "")
    return [
        Member(name=f"{PREFIX}{kind}_{size}_{seed:04d}", seed=seed, megabytes=megabytes, prose=prose)
        for seed in range(1, count + 1)
    ]


def build(target: Target, members: Iterable[Member]) -> list[str]:
    """Make the databases that are not there yet and return the names of those."""
    existing = set(target.databases())
    for name in existing:
        if name.startswith(PREFIX) and name.endswith(_UNFINISHED):
            target.psql("postgres", f'DROP DATABASE "{name}"')
    missing = [member for member in members if member.name not in existing]
    missing.sort(key=lambda member: -member.megabytes)
    if missing:
        total = sum(member.megabytes for member in missing)
        print(f"building {len(missing)} databases, about {total:,} MB of SQL …", flush=True)
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(lambda member: _build_one(target, member), missing):
                pass
        target.psql("postgres", "CHECKPOINT")
    return [member.name for member in missing]


def drop(target: Target, names: Iterable[str]) -> None:
    """Remove databases that build() made."""
    for name in names:
        target.psql("postgres", f'DROP DATABASE "{name}"')


def _build_one(target: Target, member: Member) -> None:
    if not member.megabytes:
        target.psql("postgres", f'CREATE DATABASE "{member.name}" TEMPLATE template0')
        return
    unfinished = member.name + _UNFINISHED
    target.psql("postgres", f'CREATE DATABASE "{unfinished}" TEMPLATE template0')
    variables = {"name": member.name, "seed": member.seed, "prose": member.prose, **member.rows}
    target.psql(unfinished, _SCHEMA + _ROWS + _INDEXES, variables)
    target.psql("postgres", f'ALTER DATABASE "{unfinished}" RENAME TO "{member.name}"')
