-- Events carry a type, and a payload instead of a sentence.
UPDATE events SET event = json_build_object(
    'id', event::json -> 'id', 'sequence', sequence, 'at', event::json -> 'at',
    'kind', CASE event::json ->> 'kind' WHEN 'performance_alert' THEN 'alert.raised' ELSE 'service.status_changed' END,
    'service', event::json -> 'service',
    'payload', CASE event::json ->> 'kind'
        WHEN 'performance_alert' THEN json_build_object('type', 'high_response_time', 'message', event::json -> 'message')
        ELSE json_build_object(
            'from', NULL,
            'to', CASE event::json ->> 'kind'
                WHEN 'service_down' THEN 'unhealthy' WHEN 'service_degraded' THEN 'degraded' ELSE 'healthy' END,
            'issues', json_build_array(substr(event::json ->> 'message', strpos(event::json ->> 'message', ': ') + 2)))
        END)::text
WHERE event::json -> 'payload' IS NULL;
ALTER TABLE events ADD COLUMN kind text NOT NULL DEFAULT '';
UPDATE events SET kind = event::json ->> 'kind';
CREATE INDEX events_by_kind ON events (kind, sequence);
ALTER TABLE alerts ADD COLUMN kind text NOT NULL DEFAULT '';
ALTER TABLE alerts ADD COLUMN severity text NOT NULL DEFAULT '';
UPDATE alerts SET kind = alert::json ->> 'kind', severity = alert::json ->> 'severity';
CREATE INDEX alerts_by_trigger ON alerts (triggered_ms, id);
ALTER TABLE deliveries ADD COLUMN alert_id text NOT NULL DEFAULT '';
UPDATE deliveries SET alert_id = delivery::json ->> 'alert_id';
CREATE INDEX deliveries_by_alert ON deliveries (alert_id, at_ms);
-- Small things to be remembered: settings of the API, who changed them, how far a reader has got, what was seen already.
CREATE TABLE facts (
    kind text NOT NULL, name text NOT NULL, at_ms bigint NOT NULL, value text NOT NULL, PRIMARY KEY (kind, name)
);
