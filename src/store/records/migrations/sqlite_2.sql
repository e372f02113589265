CREATE TABLE registrations (name TEXT PRIMARY KEY, registration TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE windows (
    id TEXT PRIMARY KEY, end_ms INTEGER NOT NULL, hidden INTEGER NOT NULL, maintenance TEXT NOT NULL
) WITHOUT ROWID;
-- In the order they are written, which fills pages to the brim; the index alone answers what lies where.
CREATE TABLE check_runs (
    place INTEGER PRIMARY KEY, service INTEGER NOT NULL, from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL,
    count INTEGER NOT NULL, checks BLOB NOT NULL
);
CREATE INDEX check_runs_by_service ON check_runs (service, from_ms, to_ms, count);
CREATE TABLE run_marks (service INTEGER PRIMARY KEY, kept_ms INTEGER NOT NULL);
CREATE TABLE fleet_minutes (at_ms INTEGER PRIMARY KEY, rollup TEXT NOT NULL);
CREATE TABLE deliveries (
    id TEXT PRIMARY KEY, outage_id TEXT, at_ms INTEGER NOT NULL, delivery TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX deliveries_by_outage ON deliveries (outage_id);
CREATE INDEX deliveries_by_time ON deliveries (at_ms);
ALTER TABLE outages ADD COLUMN severity TEXT NOT NULL DEFAULT '';
UPDATE outages SET severity = json_extract(outage, '$.severity');
CREATE INDEX outages_by_start ON outages (started_ms);
