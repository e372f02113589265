//! What the alerting pipeline and the dashboard poll (CONTRACT.md 9.4). Their cost does not depend on the number of
//! services.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde::ser::SerializeMap;
use serde_json::{Value, json};

use super::ApiState;
use super::bodies::fleet::{CriticalBody, DashboardBody};
use crate::domain::service::ServiceName;
use crate::domain::status::Status;
use crate::domain::time::{Stamp, round2};

/// Events on the dashboard: CONTRACT.md 9.4.
const SHOWN_EVENTS: usize = 5;

struct Statuses<'a>(&'a [(ServiceName, Status)]);

impl Serialize for Statuses<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, status) in self.0 {
            map.serialize_entry(name, status)?;
        }
        map.end()
    }
}

/// `GET /status/critical`: the critical services, the active alerts, and the latest incident.
#[utoipa::path(get, path = "/status/critical", operation_id = "getCriticalStatus",
    responses((status = 200, body = CriticalBody)))]
pub(super) async fn critical(State(app): State<ApiState>) -> Json<Value> {
    app.engine.windows_in_force();
    let live = &app.engine.live;
    let now = app.engine.clock.now();
    let view = live.critical();
    let alerts = live.alerts();
    let incident = live.last_incident().map(|outage| {
        json!({
            "timestamp": Stamp(outage.started),
            "service": outage.service,
            "issue": outage.error_message,
            "duration": round2(app.engine.outage_duration(&outage, now).as_secs_f64() / 60.0),
            "resolved": !outage.is_open(),
        })
    });
    Json(json!({
        "critical": {"status": view.word, "issueCount": view.issues, "criticalServices": Statuses(&view.statuses)},
        "alerts": alerts.iter().map(|alert| alert.record()).collect::<Vec<_>>(),
        "lastIncident": incident,
    }))
}

/// `GET /status/dashboard`: the fleet at a glance.
#[utoipa::path(get, path = "/status/dashboard", operation_id = "getDashboard",
    responses((status = 200, body = DashboardBody)))]
pub(super) async fn dashboard(State(app): State<ApiState>) -> Json<Value> {
    app.engine.windows_in_force();
    let live = &app.engine.live;
    let now = app.engine.clock.now();
    let fleet = live.fleet();
    let counts = fleet.all;
    let events: Vec<Value> = live
        .events
        .lines(SHOWN_EVENTS)
        .into_iter()
        .filter_map(|event| {
            let (kind, message) = event.line()?;
            Some(json!({"timestamp": Stamp(event.at), "type": kind, "service": event.service, "message": message}))
        })
        .collect();
    Json(json!({
        "dashboard": {
            "overallStatus": fleet.judged.overall(),
            "systemUptime": round2(live.system_uptime(now)),
            "activeAlerts": live.alert_count(),
            "servicesSummary": {
                "total": counts.total(), "healthy": counts.healthy, "degraded": counts.degraded,
                "down": counts.unhealthy, "unknown": counts.unknown,
            },
            "recentEvents": events,
            "lastUpdated": Stamp(now),
        },
    }))
}
