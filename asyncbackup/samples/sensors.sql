-- Measurements of things: numbers and timestamps, a partition for each month.
CREATE TABLE sensors (
  id int PRIMARY KEY,
  serial uuid NOT NULL UNIQUE,
  site text NOT NULL,
  address inet NOT NULL,
  place point NOT NULL,
  installed date NOT NULL
);
INSERT INTO sensors
SELECT i, md5('sensor ' || i)::uuid, 'Hall ' || chr(65 + i % 8), inet '10.20.0.0' + i, point(47 + random(), 8 + random()), date '2023-05-01' + i % 300
FROM generate_series(1, 240) i;

CREATE TABLE readings (
  sensor_id int NOT NULL,
  at timestamptz NOT NULL,
  celsius double precision,
  humidity real,
  battery_mv smallint NOT NULL
) PARTITION BY RANGE (at);
CREATE TABLE readings_2025_01 PARTITION OF readings FOR VALUES FROM ('2025-01-01 00:00+00') TO ('2025-02-01 00:00+00');
CREATE TABLE readings_2025_02 PARTITION OF readings FOR VALUES FROM ('2025-02-01 00:00+00') TO ('2025-03-01 00:00+00');
CREATE TABLE readings_2025_03 PARTITION OF readings FOR VALUES FROM ('2025-03-01 00:00+00') TO ('2025-04-01 00:00+00');
CREATE TABLE readings_later PARTITION OF readings DEFAULT;
INSERT INTO readings
SELECT 1 + i % 240, at, CASE WHEN random() < 0.99 THEN 21 + 6 * sin(i / 40000.0) + random() END, (40 + 20 * random())::real, 2900 + floor(random() * 700)
FROM (SELECT i, '2025-01-01 00:00+00'::timestamptz + i * interval '13.7 seconds' AS at FROM generate_series(1, 600000) i) _;
CREATE INDEX ON readings (sensor_id, at);

CREATE TABLE alarms (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  sensor_id int NOT NULL REFERENCES sensors,
  during tstzrange NOT NULL,
  severity text NOT NULL
);
INSERT INTO alarms (sensor_id, during, severity)
SELECT 1 + i % 240, tstzrange(t, t + random() * interval '3 hours'), (ARRAY['info', 'warning', 'critical'])[1 + i % 3]
FROM (SELECT i, '2025-01-01 00:00+00'::timestamptz + i * interval '41 minutes' AS t FROM generate_series(1, 3000) i) _;

CREATE MATERIALIZED VIEW daily AS
  SELECT sensor_id, at::date AS day, avg(celsius) AS celsius, min(battery_mv) AS battery_mv FROM readings WHERE at < '2025-02-01 00:00+00' GROUP BY 1, 2;
