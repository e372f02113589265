//! The pure part of one check under criterion: classify, advance, window, counts. `cargo bench --bench pipeline`

#![expect(clippy::expect_used, reason = "a benchmark that cannot run says so by ending")]

use std::hint::black_box;
use std::time::Duration;

use as_infrastructure_service::domain::check::{Check, CheckBatch};
use as_infrastructure_service::domain::classify::classify;
use as_infrastructure_service::domain::observation::{Kind, Observation, Reason};
use as_infrastructure_service::domain::policy::{FlapPolicy, OutagePolicy};
use as_infrastructure_service::domain::service::{Service, Source};
use as_infrastructure_service::domain::spec::{Defaults, ServiceSpec};
use as_infrastructure_service::domain::state::ServiceState;
use as_infrastructure_service::domain::status::{Status, StatusCounts};
use as_infrastructure_service::domain::time::from_ms;
use as_infrastructure_service::domain::window::History;
use criterion::{Criterion, criterion_group, criterion_main};

const T0: i64 = 1_700_000_000_000;
const POLICY: OutagePolicy = OutagePolicy {
    detection_threshold: 3,
    recovery_threshold: 1,
    verification: true,
    confirm_interval: Duration::from_secs(1),
    flap: FlapPolicy { window: 20, high_percent: 30, low_percent: 20 },
};

fn service() -> Service {
    let spec = ServiceSpec {
        name: "billing".to_owned(),
        url: Some("http://billing.internal:8080".to_owned()),
        ..ServiceSpec::default()
    };
    spec.into_service(&Defaults::default(), Source::File).expect("a valid definition")
}

/// A day of checks at 15 s.
fn full_history(service: &Service) -> History {
    let mut history = History::default();
    for n in 0..5760u32 {
        let check = Check {
            at_ms: T0 + i64::from(n) * 15_000,
            status: Status::Healthy,
            reason: Reason::Ok,
            kind: Kind::Scheduled,
            http_status: 200,
            response_us: Some(20_000 + (n * 7919) % 9_000),
            streak: n as i32 + 1,
            error: None,
            maintenance: false,
            redirected: false,
        };
        history.record(check, service.hold(), &[]);
    }
    history
}

fn benches(c: &mut Criterion) {
    let service = service();
    let healthy = Observation::answered(200, Duration::from_millis(25));
    let refused = Observation::failed(Reason::ConnectRefused, "refused");
    let (limits, expected) = (service.limits.latency, &service.expected);
    c.bench_function("classify a healthy answer", |b| {
        b.iter(|| classify(black_box(&healthy), limits, expected));
    });
    c.bench_function("classify a refusal", |b| b.iter(|| classify(black_box(&refused), limits, expected)));

    let verdict = classify(&healthy, limits, expected);
    let state = ServiceState::default();
    let now = from_ms(T0);
    let state = state.advance(&service, &verdict, &healthy, Kind::Scheduled, now, &POLICY, false).state;
    c.bench_function("advance by a healthy check", |b| {
        b.iter(|| black_box(&state).advance(&service, &verdict, &healthy, Kind::Scheduled, now, &POLICY, false));
    });

    let mut history = full_history(&service);
    let mut at_ms = T0 + 86_400_000;
    c.bench_function("window: record into a full day", |b| {
        b.iter(|| {
            at_ms += 15_000;
            let check = Check {
                at_ms,
                status: Status::Healthy,
                reason: Reason::Ok,
                kind: Kind::Scheduled,
                http_status: 200,
                response_us: Some(25_000),
                streak: 1,
                error: None,
                maintenance: false,
                redirected: false,
            };
            history.record(check, service.hold(), &[]);
        });
    });
    let history = full_history(&service);
    let end = from_ms(T0 + 86_400_000);
    c.bench_function("window: percentiles of a full day", |b| {
        b.iter(|| black_box(&history).day_latency(end).percentile_ms(0.99));
    });
    c.bench_function("window: uptime of a full day", |b| b.iter(|| black_box(&history).parts(end).uptime_percent()));

    let mut counts = StatusCounts { healthy: 10_000, ..StatusCounts::default() };
    c.bench_function("counts: one status change", |b| {
        b.iter(|| {
            counts.remove(Status::Healthy);
            counts.add(Status::Degraded);
            counts.remove(Status::Degraded);
            counts.add(Status::Healthy);
            black_box(counts.overall())
        });
    });
    let newest = history.newest().next().expect("a full day");
    c.bench_function("check log: one entry", |b| {
        let mut batch = CheckBatch::default();
        b.iter(|| {
            if batch.count == 1000 {
                batch = CheckBatch::default();
            }
            batch.push(7, black_box(&newest), None);
        });
    });
}

criterion_group!(pipeline, benches);
criterion_main!(pipeline);
