//! Every family there is (CONTRACT.md section 16): name, kind, what it says, and where its numbers are read. Label
//! values are registered names, fixed words and numbers of closed sets, never text from targets or requests.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::super::{ApiState, traffic};
use super::exposition::Samples;
use crate::domain::alert::{AlertType, Severity};
use crate::domain::host::{ProcessUse, Resource};
use crate::domain::outage::OutageSeverity;
use crate::domain::policy::DetectionPolicy;
use crate::domain::service::Service;
use crate::domain::status::Status;
use crate::domain::time::{round6, span};
use crate::domain::window::WINDOW;
use crate::engine::Engine;
use crate::engine::commit::UNWRITTEN_CHECKS;
use crate::engine::counters::{EventCount, LATENESS_BOUNDS, SkipCause};
use crate::engine::live::{DURATION_BOUNDS_US, Roster, Watched};
use crate::engine::mirror::RedisState;
use crate::store::{STORE_BOUNDS, Timings};

/// Windows of `infra_service_availability_ratio`: CONTRACT.md section 16.
const AVAILABILITY: [(&str, Duration); 3] =
    [("1h", Duration::from_secs(3600)), ("24h", WINDOW), ("30d", Duration::from_secs(30 * 24 * 3600))];
const FIVE_MINUTES: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
    Histogram,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
        }
    }
}

/// Where the samples of a family come from.
pub(super) enum Read {
    Monitor(fn(&Source, &mut Samples<'_>) -> fmt::Result),
    /// Asked for each service.
    Services(fn(&One<'_>, &mut Samples<'_>) -> fmt::Result),
}

pub(super) struct Family {
    /// Counters without their `_total`.
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub read: Read,
}

/// What a scrape reads from.
pub(super) struct Source {
    app: ApiState,
    roster: Arc<Roster>,
    detection: DetectionPolicy,
    process: Option<ProcessUse>,
    now: DateTime<Utc>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} services at {}", self.services(), self.now)
    }
}

/// One service, and when it is looked at.
pub(super) struct One<'a> {
    watched: &'a Watched,
    service: &'a Service,
    source: &'a Source,
}

impl One<'_> {
    fn name(&self) -> (&'static str, &str) {
        ("service", self.service.name.as_str())
    }
}

impl Source {
    pub fn new(app: &ApiState) -> Self {
        let engine = &app.engine;
        // Moves services into and out of maintenance as of now.
        engine.windows_in_force();
        Self {
            roster: engine.live.roster(),
            detection: engine.config().detection.clone(),
            process: engine.process(),
            now: engine.clock.now(),
            app: app.clone(),
        }
    }

    fn engine(&self) -> &Engine {
        &self.app.engine
    }

    pub fn services(&self) -> usize {
        self.roster.watched.len()
    }

    /// Those of `range` that are still watched.
    pub fn each(&self, range: Range<usize>, mut tell: impl FnMut(One<'_>) -> fmt::Result) -> fmt::Result {
        for watched in self.roster.watched.get(range).unwrap_or_default().iter().filter(|one| !one.is_retired()) {
            let service = watched.service();
            tell(One { watched, service: &service, source: self })?;
        }
        Ok(())
    }

    /// Lanes that hold something back, and those that refuse beyond a number.
    fn queues(&self) -> Vec<Queue> {
        let engine = self.engine();
        let counters = &engine.counters;
        let in_flight = self.app.config.max_in_flight.saturating_sub(self.app.lane.available_permits());
        let mut queues = vec![
            Queue {
                name: "commit",
                depth: engine.commit.depth(),
                limit: Some(UNWRITTEN_CHECKS),
                dropped: of(&counters.commit_dropped),
            },
            // A service is in it once, however often it changes.
            Queue { name: "redis", depth: engine.mirror.depth(), limit: Some(self.services()), dropped: 0 },
            Queue { name: "outbox", depth: engine.outbox.depth().0, limit: None, dropped: 0 },
            Queue {
                name: "api",
                depth: in_flight,
                limit: Some(self.app.config.max_in_flight),
                dropped: of(&counters.api_refused),
            },
        ];
        if engine.exporter.is_on() {
            // Its limit is one of bytes on disk.
            let dropped = of(&counters.export_dropped);
            queues.push(Queue { name: "export", depth: engine.exporter.depth(), limit: None, dropped });
        }
        queues
    }

    /// The stores there are: calls they did not do, and how long calls took.
    fn stores(&self) -> Vec<(&'static str, u64, Option<&Timings>)> {
        let engine = self.engine();
        let counters = &engine.counters;
        let redis = engine.mirror.redis().map(|redis| redis.timings());
        let mut stores = vec![
            ("records", of(&counters.records_errors), Some(engine.records.timings())),
            ("redis", of(&counters.redis_errors), redis),
        ];
        if engine.exporter.is_on() {
            stores.push(("elasticsearch", of(&counters.elasticsearch_errors), Some(&engine.exporter.timings)));
        }
        stores
    }

    fn usage(&self, resource: Resource, to: &mut Samples<'_>) -> fmt::Result {
        // Absent rather than 0 while it cannot be seen.
        match self.engine().host().sample.as_ref().and_then(|sample| sample.usage(resource)) {
            Some(percent) => to.gauge(&[], percent / 100.0),
            None => Ok(()),
        }
    }

    fn events(&self, count: EventCount, to: &mut Samples<'_>) -> fmt::Result {
        for ((_, kind), number) in self.engine().counters.events().into_iter().filter(|((of, _), _)| *of == count) {
            to.counter(&[("type", kind)], number)?;
        }
        Ok(())
    }

    fn process(&self, to: &mut Samples<'_>, number: impl Fn(&ProcessUse) -> Option<f64>) -> fmt::Result {
        self.process.as_ref().and_then(number).map_or(Ok(()), |number| to.gauge(&[], number))
    }
}

struct Queue {
    name: &'static str,
    depth: usize,
    limit: Option<usize>,
    dropped: u64,
}

fn of(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn unix(at: DateTime<Utc>) -> f64 {
    at.timestamp_millis() as f64 / 1000.0
}

const fn gauge(name: &'static str, help: &'static str, read: Read) -> Family {
    Family { name, kind: Kind::Gauge, help, read }
}

const fn counter(name: &'static str, help: &'static str, read: Read) -> Family {
    Family { name, kind: Kind::Counter, help, read }
}

const fn histogram(name: &'static str, help: &'static str, read: Read) -> Family {
    Family { name, kind: Kind::Histogram, help, read }
}

use Read::{Monitor, Services};

pub(super) const FAMILIES: &[Family] = &[
    gauge(
        "infra_build_info",
        "The running version",
        Monitor(|from, to| to.gauge(&[("version", &from.app.config.version)], 1.0)),
    ),
    gauge(
        "infra_uptime_seconds",
        "Since this process started to serve",
        Monitor(|from, to| to.gauge(&[], from.app.uptime_s() as f64)),
    ),
    gauge(
        "infra_monitoring_active",
        "Services are checked and alerts are raised",
        Monitor(|from, to| to.flag(&[], from.engine().is_active())),
    ),
    gauge(
        "infra_monitor_impaired",
        "The monitor itself is in trouble: results say nothing about services",
        Monitor(|from, to| to.flag(&[], from.engine().impairment().is_some())),
    ),
    gauge(
        "infra_redis_up",
        "The shared copy in Redis can be written",
        Monitor(|from, to| match from.engine().mirror.state() {
            // Where nobody asked for Redis, its absence is no news.
            RedisState::Off | RedisState::Absent => Ok(()),
            state => to.flag(&[], state == RedisState::Connected),
        }),
    ),
    gauge(
        "infra_records_up",
        "The durable records can be written",
        Monitor(|from, to| to.flag(&[], from.engine().commit.trouble().is_none())),
    ),
    gauge(
        "infra_config_reload_success",
        "The latest reload of settings and services was taken",
        Monitor(|from, to| {
            let latest = from.engine().reload.latest();
            to.flag(&[], latest.is_none_or(|reload| reload.error.is_none()))
        }),
    ),
    gauge(
        "infra_config_reload_timestamp_seconds",
        "Unix time of the latest reload, taken or not; at first that of the start",
        Monitor(|from, to| {
            let latest = from.engine().reload.latest();
            to.gauge(&[], unix(latest.map_or(from.app.loaded, |reload| reload.at)))
        }),
    ),
    gauge(
        "infra_services",
        "Services by status",
        Monitor(|from, to| {
            let counts = from.engine().live.counts();
            Status::ALL
                .into_iter()
                .try_for_each(|status| to.gauge(&[("status", status.as_str())], counts.of(status) as f64))
        }),
    ),
    gauge(
        "infra_service_up",
        "1 healthy or degraded, 0 unhealthy",
        Services(|one, to| {
            let status = one.watched.lock().state.status;
            if status == Status::Unknown {
                return Ok(());
            }
            let critical = if one.service.critical { "true" } else { "false" };
            to.flag(&[one.name(), ("category", &one.service.category), ("critical", critical)], status.is_up())
        }),
    ),
    gauge(
        "infra_service_status",
        "1 for the present status",
        Services(|one, to| {
            let present = one.watched.lock().state.status;
            Status::ALL
                .into_iter()
                .try_for_each(|status| to.flag(&[one.name(), ("status", status.as_str())], status == present))
        }),
    ),
    gauge(
        "infra_service_in_maintenance",
        "1 while a maintenance window is in force for it",
        Services(|one, to| {
            let in_maintenance = one.watched.lock().in_maintenance;
            to.flag(&[one.name()], in_maintenance)
        }),
    ),
    gauge(
        "infra_service_consecutive_failures",
        "Unhealthy checks in a row",
        Services(|one, to| {
            let streak = one.watched.lock().state.failing_count();
            to.gauge(&[one.name()], f64::from(streak))
        }),
    ),
    gauge(
        "infra_outage_open",
        "1 while an outage is open",
        Services(|one, to| {
            let open = one.watched.lock().state.outage.is_some();
            to.flag(&[one.name()], open)
        }),
    ),
    gauge(
        "infra_service_last_check_timestamp_seconds",
        "Unix time of the latest check",
        Services(|one, to| {
            let last = one.watched.lock().state.last_check;
            last.map_or(Ok(()), |last| to.gauge(&[one.name()], unix(last)))
        }),
    ),
    gauge(
        "infra_service_detection_seconds",
        "From a failure to the receiver of its alert, in the worst case",
        Services(|one, to| {
            let worst = one.service.worst_case_detection(&one.source.detection);
            if one.service.active { to.gauge(&[one.name()], worst.as_secs_f64()) } else { Ok(()) }
        }),
    ),
    gauge(
        "infra_service_availability_ratio",
        "Up time over up and down time in the window, as far back as the service is known",
        Services(|one, to| {
            let now = one.source.now;
            let ratios = {
                let inner = one.watched.lock();
                AVAILABILITY.map(|(window, span)| (window, inner.history.availability(now, span)))
            };
            ratios.into_iter().try_for_each(|(window, ratio)| {
                ratio.map_or(Ok(()), |ratio| to.gauge(&[one.name(), ("window", window)], round6(ratio)))
            })
        }),
    ),
    gauge(
        "infra_service_error_ratio",
        "Checks that were not healthy over all in the window",
        Services(|one, to| {
            let now = one.source.now;
            let counts = {
                let inner = one.watched.lock();
                [("5m", inner.history.since(now, FIVE_MINUTES)), ("24h", inner.history.day(now))]
            };
            counts.into_iter().filter(|(_, counts)| counts.checks > 0).try_for_each(|(window, counts)| {
                to.gauge(&[one.name(), ("window", window)], round6(counts.error_rate()))
            })
        }),
    ),
    histogram(
        "infra_probe_duration_seconds",
        "Response times of answered checks",
        Services(|one, to| {
            let (buckets, sum_us) = {
                let inner = one.watched.lock();
                (inner.tally.buckets, inner.tally.sum_us)
            };
            let bounds = DURATION_BOUNDS_US.iter().map(|us| f64::from(*us) / 1e6);
            let labels = [one.name(), ("protocol", one.service.protocol.label())];
            to.histogram(&labels, sum_us as f64 / 1e6, bounds, buckets.into_iter().map(u64::from))
        }),
    ),
    gauge(
        "infra_probe_phase_seconds",
        "Where the time of the latest check went; a reused connection has a response only",
        Services(|one, to| {
            let phases = one.watched.lock().state.phases;
            let phases = [
                ("resolve", phases.resolve),
                ("connect", phases.connect),
                ("tls", phases.tls),
                ("response", phases.response),
            ];
            phases.into_iter().try_for_each(|(phase, took)| {
                took.map_or(Ok(()), |took| to.gauge(&[one.name(), ("phase", phase)], took.as_secs_f64()))
            })
        }),
    ),
    gauge(
        "infra_tls_certificate_expiry_seconds",
        "Time left of the certificate shown last, negative when it has expired",
        Services(|one, to| {
            let expires = one.watched.lock().state.certificate_expires;
            expires.map_or(Ok(()), |at| to.gauge(&[one.name()], (at - one.source.now.timestamp()) as f64))
        }),
    ),
    counter(
        "infra_checks",
        "Checks by result and reason",
        Services(|one, to| {
            let results = one.watched.lock().tally.results.clone();
            results.into_iter().try_for_each(|(status, reason, count)| {
                let result = status.map_or("inconclusive", Status::as_str);
                to.counter(&[one.name(), ("result", result), ("reason", reason.as_str())], count)
            })
        }),
    ),
    counter(
        "infra_checks_due",
        "Checks that were due",
        Monitor(|from, to| to.counter(&[], from.engine().counters.due())),
    ),
    counter(
        "infra_checks_started",
        "Checks started",
        Monitor(|from, to| to.counter(&[], of(&from.engine().counters.started))),
    ),
    counter(
        "infra_checks_finished",
        "Checks that came to a result",
        Monitor(|from, to| to.counter(&[], of(&from.engine().counters.finished))),
    ),
    counter(
        "infra_checks_cancelled",
        "Checks given up by the monitor",
        Monitor(|from, to| to.counter(&[], of(&from.engine().counters.cancelled))),
    ),
    gauge(
        "infra_checks_in_flight",
        "Checks under way",
        Monitor(|from, to| to.gauge(&[], from.engine().counters.in_flight() as f64)),
    ),
    counter(
        "infra_checks_skipped",
        "Due checks not started",
        Monitor(|from, to| {
            let counters = &from.engine().counters;
            SkipCause::ALL
                .into_iter()
                .try_for_each(|cause| to.counter(&[("cause", cause.as_str())], counters.skipped(cause)))
        }),
    ),
    histogram(
        "infra_scheduler_lateness_seconds",
        "Planned to real start of a check",
        Monitor(|from, to| {
            let seen = from.engine().counters.lateness();
            to.histogram(&[], seen.sum_seconds, LATENESS_BOUNDS.into_iter(), seen.buckets.into_iter())
        }),
    ),
    counter(
        "infra_outages",
        "Outages opened",
        Services(|one, to| {
            let opened = one.watched.lock().tally.outages;
            let usual = OutageSeverity::of(one.service);
            OutageSeverity::ALL.into_iter().zip(opened).try_for_each(|(severity, count)| {
                // Begins at 0, so that the first one is a rise.
                if count == 0 && severity != usual {
                    return Ok(());
                }
                let severity = severity.as_str().to_ascii_lowercase();
                to.counter(&[one.name(), ("severity", &severity)], u64::from(count))
            })
        }),
    ),
    gauge(
        "infra_alerts_active",
        "Alerts on the active list",
        Monitor(|from, to| {
            let tally = from.engine().live.alert_tally();
            each_alert(|key, labels| to.gauge(labels, tally.get(&key).copied().unwrap_or(0) as f64))
        }),
    ),
    counter(
        "infra_alerts_raised",
        "Alerts that came on the active list, by the severity they began with",
        Monitor(|from, to| {
            let raised = from.engine().counters.alerts();
            each_alert(|key, labels| to.counter(labels, raised.get(&key).copied().unwrap_or(0)))
        }),
    ),
    counter(
        "infra_notifications",
        "Messages by channel and result",
        Monitor(|from, to| {
            let sent = from.engine().counters.notifications();
            sent.into_iter().try_for_each(|((channel, result), count)| {
                to.counter(&[("channel", &channel), ("result", result)], count)
            })
        }),
    ),
    gauge(
        "infra_outbox_oldest_age_seconds",
        "Age of the oldest message owed",
        Monitor(|from, to| {
            let oldest = from.engine().outbox.depth().1;
            to.gauge(&[], oldest.map_or(0.0, |at| span(at, from.now).as_secs_f64()))
        }),
    ),
    gauge(
        "infra_queue_depth",
        "Entries waiting; of the API, requests under way",
        Monitor(|from, to| {
            from.queues().iter().try_for_each(|queue| to.gauge(&[("queue", queue.name)], queue.depth as f64))
        }),
    ),
    gauge(
        "infra_queue_limit",
        "Entries a queue may hold",
        Monitor(|from, to| {
            let limited = from.queues().into_iter().filter_map(|queue| Some((queue.name, queue.limit?)));
            limited.into_iter().try_for_each(|(name, limit)| to.gauge(&[("queue", name)], limit as f64))
        }),
    ),
    counter(
        "infra_queue_dropped",
        "Entries given up at the limit",
        Monitor(|from, to| {
            from.queues().iter().try_for_each(|queue| to.counter(&[("queue", queue.name)], queue.dropped))
        }),
    ),
    counter(
        "infra_store_errors",
        "Calls a store did not do",
        Monitor(|from, to| {
            from.stores().into_iter().try_for_each(|(store, errors, _)| to.counter(&[("store", store)], errors))
        }),
    ),
    histogram(
        "infra_store_duration_seconds",
        "How long calls of a store took, done or not",
        Monitor(|from, to| {
            let timed = from.stores().into_iter().filter_map(|(store, _, timings)| Some((store, timings?.seen())));
            timed.into_iter().try_for_each(|(store, (counts, sum))| {
                let labels = [("store", store)];
                to.histogram(&labels, sum.as_secs_f64(), STORE_BOUNDS.into_iter(), counts.into_iter())
            })
        }),
    ),
    counter(
        "infra_export_documents",
        "Documents sent to Elasticsearch, by index and by what became of them",
        Monitor(|from, to| {
            let counts = from.engine().counters.all_exported();
            counts
                .into_iter()
                .try_for_each(|((index, result), count)| to.counter(&[("index", index), ("result", result)], count))
        }),
    ),
    gauge(
        "infra_export_lag_seconds",
        "Age of the oldest record that Elasticsearch has not taken",
        Monitor(|from, to| from.engine().export_lag().map_or(Ok(()), |lag| to.gauge(&[], lag.as_secs_f64()))),
    ),
    gauge(
        "infra_maintenance_windows_active",
        "Maintenance windows in force",
        Monitor(|from, to| to.gauge(&[], from.engine().windows_in_force().windows.len() as f64)),
    ),
    counter(
        "infra_events_published",
        "Events that other parties were told",
        Monitor(|from, to| from.events(EventCount::Published, to)),
    ),
    counter(
        "infra_events_consumed",
        "Events of other parties that were dealt with",
        Monitor(|from, to| from.events(EventCount::Consumed, to)),
    ),
    counter(
        "infra_events_dead_lettered",
        "Events of other parties that nobody could read",
        Monitor(|from, to| from.events(EventCount::DeadLettered, to)),
    ),
    counter(
        "infra_http_requests",
        "Requests answered",
        Monitor(|from, to| {
            from.app.traffic.seen().into_iter().try_for_each(|(name, route)| {
                route.answers.into_iter().try_for_each(|(method, code, count)| {
                    let code = code.to_string();
                    to.counter(&[("route", &name), ("method", method), ("code", &code)], count)
                })
            })
        }),
    ),
    histogram(
        "infra_http_request_duration_seconds",
        "From the head of a request to the head of its answer",
        Monitor(|from, to| {
            from.app.traffic.seen().into_iter().try_for_each(|(name, route)| {
                let (bounds, counts) = (traffic::BOUNDS.into_iter(), route.buckets.into_iter());
                to.histogram(&[("route", &name)], route.sum.as_secs_f64(), bounds, counts)
            })
        }),
    ),
    counter(
        "infra_panics",
        "Panics caught, the part started again",
        Monitor(|from, to| {
            let panics = from.engine().counters.panics();
            panics.into_iter().try_for_each(|(task, count)| to.counter(&[("task", task)], count))
        }),
    ),
    gauge(
        "infra_host_cpu_usage_ratio",
        "CPU in use, of the machine or container",
        Monitor(|from, to| from.usage(Resource::Cpu, to)),
    ),
    gauge(
        "infra_host_memory_usage_ratio",
        "Memory in use, of the machine or container",
        Monitor(|from, to| from.usage(Resource::Memory, to)),
    ),
    gauge("infra_host_disk_usage_ratio", "The fullest disk", Monitor(|from, to| from.usage(Resource::Disk, to))),
    gauge(
        "process_resident_memory_bytes",
        "Resident memory of this process",
        Monitor(|from, to| from.process(to, |used| Some(used.resident_bytes as f64))),
    ),
    gauge(
        "process_virtual_memory_bytes",
        "Virtual memory of this process",
        Monitor(|from, to| from.process(to, |used| Some(used.virtual_bytes as f64))),
    ),
    counter(
        "process_cpu_seconds",
        "CPU time this process has used",
        Monitor(|from, to| from.process.map_or(Ok(()), |used| to.sum(used.cpu.as_secs_f64()))),
    ),
    gauge(
        "process_open_fds",
        "Files and sockets this process has open",
        Monitor(|from, to| from.process(to, |used| Some(used.open_files as f64))),
    ),
    gauge(
        "process_max_fds",
        "Files and sockets this process may have open",
        Monitor(|from, to| from.process(to, |used| Some(used.most_open_files? as f64))),
    ),
    gauge(
        "process_start_time_seconds",
        "Unix time this process started at",
        Monitor(|from, to| from.process(to, |used| Some(used.started))),
    ),
];

/// Tells of every kind of alert there is, also of those that nobody has: what begins at 0 is seen to rise.
fn each_alert(mut tell: impl FnMut((Severity, AlertType), &[(&str, &str)]) -> fmt::Result) -> fmt::Result {
    for kind in AlertType::ALL {
        for severity in Severity::ALL {
            tell((severity, kind), &[("severity", severity.as_str()), ("type", kind.as_str())])?;
        }
    }
    Ok(())
}
