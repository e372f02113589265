-- Events carry a type, and a payload instead of a sentence.
UPDATE events SET event = json_object(
    'id', json_extract(event, '$.id'), 'sequence', sequence, 'at', json_extract(event, '$.at'),
    'kind', CASE json_extract(event, '$.kind') WHEN 'performance_alert' THEN 'alert.raised' ELSE 'service.status_changed' END,
    'service', json_extract(event, '$.service'),
    'payload', CASE json_extract(event, '$.kind')
        WHEN 'performance_alert' THEN json_object('type', 'high_response_time', 'message', json_extract(event, '$.message'))
        ELSE json_object(
            'from', NULL,
            'to', CASE json_extract(event, '$.kind')
                WHEN 'service_down' THEN 'unhealthy' WHEN 'service_degraded' THEN 'degraded' ELSE 'healthy' END,
            'issues', json_array(substr(json_extract(event, '$.message'), instr(json_extract(event, '$.message'), ': ') + 2)))
        END)
WHERE json_extract(event, '$.payload') IS NULL;
ALTER TABLE events ADD COLUMN kind TEXT NOT NULL DEFAULT '';
UPDATE events SET kind = json_extract(event, '$.kind');
CREATE INDEX events_by_kind ON events (kind, sequence);
ALTER TABLE alerts ADD COLUMN kind TEXT NOT NULL DEFAULT '';
ALTER TABLE alerts ADD COLUMN severity TEXT NOT NULL DEFAULT '';
UPDATE alerts SET kind = json_extract(alert, '$.kind'), severity = json_extract(alert, '$.severity');
CREATE INDEX alerts_by_trigger ON alerts (triggered_ms, id);
ALTER TABLE deliveries ADD COLUMN alert_id TEXT NOT NULL DEFAULT '';
UPDATE deliveries SET alert_id = json_extract(delivery, '$.alert_id');
CREATE INDEX deliveries_by_alert ON deliveries (alert_id, at_ms);
-- Small things to be remembered: settings of the API, who changed them, how far a reader has got, what was seen already.
CREATE TABLE facts (
    kind TEXT NOT NULL, name TEXT NOT NULL, at_ms INTEGER NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, name)
) WITHOUT ROWID;
