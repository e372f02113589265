CREATE TABLE registrations (name text PRIMARY KEY, registration text NOT NULL);
CREATE TABLE windows (id text PRIMARY KEY, end_ms bigint NOT NULL, hidden boolean NOT NULL, maintenance text NOT NULL);
CREATE TABLE check_runs (
    service bigint NOT NULL, from_ms bigint NOT NULL, to_ms bigint NOT NULL, count integer NOT NULL,
    checks bytea NOT NULL, PRIMARY KEY (service, from_ms)
) PARTITION BY RANGE (from_ms);
CREATE TABLE check_runs_other PARTITION OF check_runs DEFAULT;
CREATE TABLE run_marks (service bigint PRIMARY KEY, kept_ms bigint NOT NULL);
CREATE TABLE fleet_minutes (at_ms bigint PRIMARY KEY, rollup text NOT NULL);
CREATE TABLE deliveries (id text PRIMARY KEY, outage_id text, at_ms bigint NOT NULL, delivery text NOT NULL);
CREATE INDEX deliveries_by_outage ON deliveries (outage_id);
CREATE INDEX deliveries_by_time ON deliveries (at_ms);
ALTER TABLE outages ADD COLUMN severity text NOT NULL DEFAULT '';
UPDATE outages SET severity = outage::json ->> 'severity';
CREATE INDEX outages_by_start ON outages (started_ms);
