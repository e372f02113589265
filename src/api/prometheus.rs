//! The Prometheus families of milestone A (CONTRACT.md section 16), read from the live view while being scraped: no second
//! copy of any number, no series of a service that is gone.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Registry;

use super::ApiState;
use crate::domain::host::Resource;
use crate::domain::service::Service;
use crate::domain::status::Status;
use crate::engine::counters::{EventCount, LATENESS_BOUNDS, SkipCause};
use crate::engine::live::{DURATION_BOUNDS_US, Tally};
use crate::engine::mirror::RedisState;

/// Everything as text: OpenMetrics, or the older format 0.0.4.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub(super) fn write(app: &ApiState, open: bool) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot::take(app)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(if open { text } else { classic(&text) })
}

/// OpenMetrics as format 0.0.4: counters are announced with their suffix, units and the end mark are unknown to it.
fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help: Option<&str> = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = Some(rest);
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or((rest, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            let kind = match kind {
                "unknown" => "untyped",
                "info" | "stateset" => "gauge",
                known => known,
            };
            if let Some((_, words)) = help.take().and_then(|help| help.split_once(' ')) {
                text.push_str(&format!("# HELP {name}{suffix} {words}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            continue;
        }
        if !line.starts_with("# UNIT") && !line.starts_with("# EOF") {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// One service as it is scraped.
#[derive(Debug)]
struct Row {
    service: Arc<Service>,
    status: Status,
    streak: u32,
    outage_open: bool,
    last_check_s: Option<f64>,
    tally: Tally,
}

#[derive(Debug)]
struct Queue {
    name: &'static str,
    depth: u64,
    limit: u64,
    dropped: u64,
}

/// Everything as it is scraped.
#[derive(Debug)]
struct Snapshot {
    app: App,
    rows: Vec<Row>,
    queues: Vec<Queue>,
}

/// `ApiState` cannot be printed; what is needed of it can.
#[derive(Debug)]
struct App {
    version: String,
    uptime_s: u64,
    engine: Arc<crate::engine::Engine>,
}

impl Snapshot {
    fn take(app: &ApiState) -> Self {
        let engine = &app.engine;
        let roster = engine.live.roster();
        let rows = roster.watched.iter().map(|watched| {
            let inner = watched.lock();
            Row {
                service: watched.service(),
                status: inner.state.status,
                streak: inner.state.failing_count(),
                outage_open: inner.state.outage.is_some(),
                last_check_s: inner.state.last_check.map(|at| at.timestamp_millis() as f64 / 1000.0),
                tally: inner.tally.clone(),
            }
        });
        let rows = rows.collect();
        let unlimited = u64::MAX;
        let count = |number: usize| number as u64;
        let refused = engine.counters.api_refused.load(Ordering::Relaxed);
        let dropped = engine.counters.commit_dropped.load(Ordering::Relaxed);
        let queues = vec![
            Queue { name: "commit", depth: count(engine.commit.depth()), limit: unlimited, dropped },
            Queue { name: "redis", depth: count(engine.mirror.depth()), limit: unlimited, dropped: 0 },
            Queue { name: "outbox", depth: count(engine.outbox.depth().0), limit: unlimited, dropped: 0 },
            Queue { name: "api", depth: 0, limit: count(app.config.max_in_flight), dropped: refused },
        ];
        let app = App { version: app.config.version.clone(), uptime_s: app.uptime_s(), engine: engine.clone() };
        Self { app, rows, queues }
    }
}

/// One family being written.
struct Family<'a>(MetricEncoder<'a>);

impl Family<'_> {
    fn gauge(&mut self, labels: &[(&str, &str)], value: f64) -> fmt::Result {
        if labels.is_empty() {
            self.0.encode_gauge(&value)
        } else {
            self.0.encode_family(&labels)?.encode_gauge(&value)
        }
    }

    fn counter(&mut self, labels: &[(&str, &str)], value: u64) -> fmt::Result {
        let none: Option<&Exemplar<NoLabelSet, u64>> = None;
        if labels.is_empty() {
            self.0.encode_counter(&value, none)
        } else {
            self.0.encode_family(&labels)?.encode_counter(&value, none)
        }
    }

    /// `buckets`: upper bound and count of each, the last one unbounded.
    fn histogram(&mut self, labels: &[(&str, &str)], sum: f64, buckets: &[(f64, u64)]) -> fmt::Result {
        let count = buckets.iter().map(|(_, count)| count).sum();
        if labels.is_empty() {
            self.0.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
        } else {
            self.0.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
        }
    }
}

fn bounded(bounds: impl Iterator<Item = f64>, counts: impl Iterator<Item = u64>) -> Vec<(f64, u64)> {
    bounds.chain([f64::MAX]).zip(counts).collect()
}

impl Collector for Snapshot {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        self.itself(&mut to)?;
        self.fleet(&mut to)?;
        self.checks(&mut to)?;
        self.lanes(&mut to)
    }
}

fn family<'a>(
    to: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
    kind: MetricType,
) -> Result<Family<'a>, fmt::Error> {
    Ok(Family(to.encode_descriptor(name, help, None, kind)?))
}

impl Snapshot {
    fn itself(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let engine = &self.app.engine;
        let gauge = MetricType::Gauge;
        family(to, "infra_build_info", "The running version", gauge)?.gauge(&[("version", &self.app.version)], 1.0)?;
        family(to, "infra_uptime_seconds", "Since this process started to serve", gauge)?
            .gauge(&[], self.app.uptime_s as f64)?;
        let redis = engine.mirror.state();
        // Where nobody asked for Redis, its absence is no news.
        if !matches!(redis, RedisState::Off | RedisState::Absent) {
            let up = f64::from(u8::from(redis == RedisState::Connected));
            family(to, "infra_redis_up", "The shared copy in Redis can be written", gauge)?.gauge(&[], up)?;
        }
        let active = f64::from(u8::from(engine.is_active()));
        family(to, "infra_monitoring_active", "Services are checked and alerts are raised", gauge)?
            .gauge(&[], active)?;
        let records = f64::from(u8::from(engine.commit.trouble().is_none()));
        family(to, "infra_records_up", "The durable records can be written", gauge)?.gauge(&[], records)?;
        let reload = engine.reload.latest().is_none_or(|reload| reload.error.is_none());
        family(to, "infra_config_reload_success", "The latest reload of settings and services was taken", gauge)?
            .gauge(&[], f64::from(u8::from(reload)))?;
        let host = engine.host();
        let usages = [
            ("infra_host_cpu_usage_ratio", "CPU in use, of the machine or container", Resource::Cpu),
            ("infra_host_memory_usage_ratio", "Memory in use, of the machine or container", Resource::Memory),
            ("infra_host_disk_usage_ratio", "The fullest disk", Resource::Disk),
        ];
        for (name, help, resource) in usages {
            // Absent rather than 0 while it cannot be seen.
            if let Some(percent) = host.sample.as_ref().and_then(|sample| sample.usage(resource)) {
                family(to, name, help, gauge)?.gauge(&[], percent / 100.0)?;
            }
        }
        let mut panics = family(to, "infra_panics", "Panics caught, the part started again", MetricType::Counter)?;
        for (task, count) in engine.counters.panics() {
            panics.counter(&[("task", task)], count)?;
        }
        Ok(())
    }

    fn fleet(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.app.engine.live.counts();
        let mut services = family(to, "infra_services", "Services by status", MetricType::Gauge)?;
        for status in Status::ALL {
            services.gauge(&[("status", status.as_str())], counts.of(status) as f64)?;
        }
        let mut up = family(to, "infra_service_up", "1 healthy or degraded, 0 unhealthy", MetricType::Gauge)?;
        for row in self.rows.iter().filter(|row| row.status != Status::Unknown) {
            let service = &row.service;
            let critical = if service.critical { "true" } else { "false" };
            let labels = [("service", service.name.as_str()), ("category", &service.category), ("critical", critical)];
            up.gauge(&labels, f64::from(u8::from(row.status.is_up())))?;
        }
        let mut each = family(to, "infra_service_status", "1 for the present status", MetricType::Gauge)?;
        for row in &self.rows {
            for status in Status::ALL {
                let labels = [("service", row.service.name.as_str()), ("status", status.as_str())];
                each.gauge(&labels, f64::from(u8::from(row.status == status)))?;
            }
        }
        self.per_service(to, "infra_service_consecutive_failures", "Unhealthy checks in a row", |row| {
            Some(f64::from(row.streak))
        })?;
        self.per_service(to, "infra_outage_open", "1 while an outage is open", |row| {
            Some(f64::from(u8::from(row.outage_open)))
        })?;
        self.per_service(to, "infra_service_last_check_timestamp_seconds", "Unix time of the latest check", |row| {
            row.last_check_s
        })
    }

    fn per_service(
        &self,
        to: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&Row) -> Option<f64>,
    ) -> fmt::Result {
        let mut gauges = family(to, name, help, MetricType::Gauge)?;
        for row in &self.rows {
            if let Some(value) = value(row) {
                gauges.gauge(&[("service", row.service.name.as_str())], value)?;
            }
        }
        Ok(())
    }

    fn checks(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let counters = &self.app.engine.counters;
        let mut durations =
            family(to, "infra_probe_duration_seconds", "Response times of answered checks", MetricType::Histogram)?;
        for row in &self.rows {
            let labels = [("service", row.service.name.as_str()), ("protocol", row.service.protocol.label())];
            let bounds = DURATION_BOUNDS_US.iter().map(|us| f64::from(*us) / 1e6);
            let buckets = bounded(bounds, row.tally.buckets.iter().map(|count| u64::from(*count)));
            durations.histogram(&labels, row.tally.sum_us as f64 / 1e6, &buckets)?;
        }
        let mut checks = family(to, "infra_checks", "Checks by result and reason", MetricType::Counter)?;
        for row in &self.rows {
            for (status, reason, count) in &row.tally.results {
                let result = status.map_or("inconclusive", Status::as_str);
                let labels = [("service", row.service.name.as_str()), ("result", result), ("reason", reason.as_str())];
                checks.counter(&labels, *count)?;
            }
        }
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let total = [
            ("infra_checks_due", "Checks that were due", counters.due()),
            ("infra_checks_started", "Checks started", of(&counters.started)),
            ("infra_checks_finished", "Checks that came to a result", of(&counters.finished)),
            ("infra_checks_cancelled", "Checks given up by the monitor", of(&counters.cancelled)),
        ];
        for (name, help, count) in total {
            family(to, name, help, MetricType::Counter)?.counter(&[], count)?;
        }
        family(to, "infra_checks_in_flight", "Checks under way", MetricType::Gauge)?
            .gauge(&[], counters.in_flight() as f64)?;
        let mut skipped = family(to, "infra_checks_skipped", "Due checks not started", MetricType::Counter)?;
        for cause in SkipCause::ALL {
            skipped.counter(&[("cause", cause.as_str())], counters.skipped(cause))?;
        }
        let lateness = counters.lateness();
        family(to, "infra_scheduler_lateness_seconds", "Planned to real start of a check", MetricType::Histogram)?
            .histogram(&[], lateness.sum_seconds, &bounded(LATENESS_BOUNDS.into_iter(), lateness.buckets.into_iter()))
    }

    fn lanes(&self, to: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let engine = &self.app.engine;
        let mut alerts = family(to, "infra_alerts_active", "Alerts on the active list", MetricType::Gauge)?;
        for ((severity, kind), count) in engine.live.alert_tally() {
            alerts.gauge(&[("severity", severity.as_str()), ("type", kind.as_str())], count as f64)?;
        }
        let mut sent = family(to, "infra_notifications", "Messages by channel and result", MetricType::Counter)?;
        for ((channel, result), count) in engine.counters.notifications() {
            sent.counter(&[("channel", &channel), ("result", result)], count)?;
        }
        let now = engine.clock.now();
        let age = engine.outbox.depth().1.map_or(0.0, |at| crate::domain::time::span(at, now).as_secs_f64());
        family(to, "infra_outbox_oldest_age_seconds", "Age of the oldest message owed", MetricType::Gauge)?
            .gauge(&[], age)?;
        let mut depth = family(to, "infra_queue_depth", "Entries waiting", MetricType::Gauge)?;
        for queue in &self.queues {
            depth.gauge(&[("queue", queue.name)], queue.depth as f64)?;
        }
        let mut limit = family(to, "infra_queue_limit", "Entries a queue may hold", MetricType::Gauge)?;
        for queue in self.queues.iter().filter(|queue| queue.limit != u64::MAX) {
            limit.gauge(&[("queue", queue.name)], queue.limit as f64)?;
        }
        let mut dropped = family(to, "infra_queue_dropped", "Entries given up at the limit", MetricType::Counter)?;
        for queue in &self.queues {
            dropped.counter(&[("queue", queue.name)], queue.dropped)?;
        }
        let counters = &engine.counters;
        for (count, name, help) in [
            (EventCount::Published, "infra_events_published", "Events that other parties were told"),
            (EventCount::Consumed, "infra_events_consumed", "Events of other parties that were dealt with"),
            (EventCount::DeadLettered, "infra_events_dead_lettered", "Events of other parties that nobody could read"),
        ] {
            let mut events = family(to, name, help, MetricType::Counter)?;
            for ((_, kind), number) in counters.events().into_iter().filter(|((of, _), _)| *of == count) {
                events.counter(&[("type", kind)], number)?;
            }
        }
        let mut errors = family(to, "infra_store_errors", "Calls a store did not do", MetricType::Counter)?;
        for (store, count) in [("records", &counters.records_errors), ("redis", &counters.redis_errors)] {
            errors.counter(&[("store", store)], count.load(Ordering::Relaxed))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_announced_with_their_suffix_in_the_older_format() {
        let open =
            "# HELP a Help a.\n# TYPE a counter\na_total 1\n# HELP g G.\n# TYPE g gauge\n# UNIT g s\ng 2\n# EOF\n";
        let expected = "# HELP a_total Help a.\n# TYPE a_total counter\na_total 1\n# HELP g G.\n# TYPE g gauge\ng 2\n";
        assert_eq!(classic(open), expected);
    }
}
