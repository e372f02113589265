//! The rolling numbers of one service and of the system, in the shape that `/metrics` and Redis share (CONTRACT.md
//! section 8, 9.5 and 15.1).

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::Engine;
use super::live::Inner;
use crate::domain::outage::{OutageNumbers, outage_numbers};
use crate::domain::time::{Stamp, round2, round6};
use crate::domain::window::WINDOW;

/// Response times in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct ResponseTime {
    pub current: u64,
    pub average: f64,
    pub p95: f64,
    pub p99: f64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    pub total: u64,
    pub per_minute: u64,
    pub error_count: u64,
    pub error_rate: f64,
}

/// Uptime in percent, the rest in minutes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Availability {
    pub uptime: f64,
    pub downtime_minutes: f64,
    pub mtbf: Option<f64>,
    pub mttr: Option<f64>,
}

/// One service in `/metrics`, and the hash `metrics:<service>`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMetrics {
    pub response_time: ResponseTime,
    pub requests: Requests,
    pub availability: Availability,
}

/// `system` in `/metrics`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SystemMetrics {
    pub timestamp: Stamp,
    pub uptime: u64,
    pub total_services: usize,
    pub healthy_services: usize,
    pub degraded_services: usize,
    pub unhealthy_services: usize,
    pub unknown_services: usize,
    pub average_response_time: f64,
    pub p95_response_time: f64,
    pub p99_response_time: f64,
    pub total_requests: u64,
    pub requests_per_minute: u64,
    pub error_rate: f64,
    pub system_uptime: f64,
    pub alert_count: usize,
}

/// A minute, for counts of the last 60 s.
pub const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

/// Availability of one service over the window that ends now.
pub fn availability(inner: &Inner, now: DateTime<Utc>) -> Availability {
    let parts = inner.history.parts(now);
    let window_ms = i64::try_from(WINDOW.as_millis()).unwrap_or(i64::MAX);
    let OutageNumbers { downtime_minutes, mtbf_minutes, mttr_minutes } =
        outage_numbers(inner.history.outages(), parts.up, now.timestamp_millis(), window_ms, |from, to| {
            inner.history.maintenance_ms(from, to)
        });
    Availability {
        uptime: round2(parts.uptime_percent().unwrap_or(0.0)),
        downtime_minutes: round2(downtime_minutes),
        mtbf: mtbf_minutes.map(round2),
        mttr: mttr_minutes.map(round2),
    }
}

/// The latest response time in whole milliseconds, 0 without one.
pub fn current_ms(inner: &Inner) -> u64 {
    inner.history.latest_ms(1).next().unwrap_or(0)
}

impl ServiceMetrics {
    /// `None` before the first check.
    pub fn of(inner: &Inner, now: DateTime<Utc>) -> Option<Self> {
        if inner.history.is_empty() {
            return None;
        }
        let day = inner.history.day(now);
        let latency = inner.history.day_latency(now);
        Some(Self {
            response_time: ResponseTime {
                current: current_ms(inner),
                average: round2(day.average_ms()),
                p95: round2(latency.percentile_ms(0.95)),
                p99: round2(latency.percentile_ms(0.99)),
            },
            requests: Requests {
                total: day.checks,
                per_minute: inner.history.since(now, MINUTE).checks,
                error_count: day.not_healthy(),
                error_rate: round6(day.error_rate()),
            },
            availability: availability(inner, now),
        })
    }
}

impl SystemMetrics {
    /// `uptime_s`: of this process.
    pub fn of(engine: &Engine, now: DateTime<Utc>, uptime_s: u64) -> Self {
        let counts = engine.live.counts();
        let (day, latency, per_minute) = engine.live.day(now);
        Self {
            timestamp: Stamp(now),
            uptime: uptime_s,
            total_services: counts.total(),
            healthy_services: counts.healthy,
            degraded_services: counts.degraded,
            unhealthy_services: counts.unhealthy,
            unknown_services: counts.unknown,
            average_response_time: round2(day.average_ms()),
            p95_response_time: round2(latency.percentile_ms(0.95)),
            p99_response_time: round2(latency.percentile_ms(0.99)),
            total_requests: day.checks,
            requests_per_minute: per_minute,
            error_rate: round6(day.error_rate()),
            system_uptime: round2(engine.live.system_uptime(now)),
            alert_count: engine.live.alert_count(),
        }
    }
}
