CREATE TABLE service_state (name text PRIMARY KEY, state text NOT NULL);
CREATE TABLE service_history (name text PRIMARY KEY, rolled_ms bigint NOT NULL, history text NOT NULL);
CREATE TABLE outages (
    id text PRIMARY KEY, service text NOT NULL, started_ms bigint NOT NULL, ended_ms bigint,
    critical boolean NOT NULL, outage text NOT NULL
);
CREATE INDEX outages_by_service ON outages (service, started_ms);
CREATE INDEX outages_by_critical ON outages (critical, started_ms);
CREATE INDEX outages_by_end ON outages (ended_ms);
CREATE TABLE alerts (
    id text PRIMARY KEY, component text NOT NULL, status text NOT NULL, triggered_ms bigint NOT NULL,
    resolved_ms bigint, sequence bigint NOT NULL, alert text NOT NULL
);
CREATE INDEX alerts_by_status ON alerts (status, resolved_ms);
CREATE TABLE sequences (component text PRIMARY KEY, sequence bigint NOT NULL);
CREATE TABLE outbox (
    position bigserial PRIMARY KEY, id text NOT NULL UNIQUE, dead boolean NOT NULL DEFAULT false,
    notification text NOT NULL
);
CREATE TABLE events (sequence bigint PRIMARY KEY, at_ms bigint NOT NULL, event text NOT NULL);
CREATE TABLE check_log (
    mark bigint PRIMARY KEY, from_ms bigint NOT NULL, to_ms bigint NOT NULL, count integer NOT NULL,
    checks bytea NOT NULL
);
CREATE INDEX check_log_by_time ON check_log (to_ms);
