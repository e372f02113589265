CREATE TABLE service_state (name TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE service_history (name TEXT PRIMARY KEY, rolled_ms INTEGER NOT NULL, history TEXT NOT NULL);
CREATE TABLE outages (
    id TEXT PRIMARY KEY, service TEXT NOT NULL, started_ms INTEGER NOT NULL, ended_ms INTEGER,
    critical INTEGER NOT NULL, outage TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX outages_by_service ON outages (service, started_ms);
CREATE INDEX outages_by_critical ON outages (critical, started_ms);
CREATE INDEX outages_by_end ON outages (ended_ms);
CREATE TABLE alerts (
    id TEXT PRIMARY KEY, component TEXT NOT NULL, status TEXT NOT NULL, triggered_ms INTEGER NOT NULL,
    resolved_ms INTEGER, sequence INTEGER NOT NULL, alert TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX alerts_by_status ON alerts (status, resolved_ms);
CREATE TABLE sequences (component TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE outbox (
    position INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, dead INTEGER NOT NULL DEFAULT 0,
    notification TEXT NOT NULL
);
CREATE TABLE events (sequence INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, event TEXT NOT NULL);
CREATE TABLE check_log (
    mark INTEGER PRIMARY KEY, from_ms INTEGER NOT NULL, to_ms INTEGER NOT NULL, count INTEGER NOT NULL,
    checks BLOB NOT NULL
);
CREATE INDEX check_log_by_time ON check_log (to_ms);
