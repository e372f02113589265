//! A simulated day of 1,000 services on a clock moved by hand: the numbers at its end equal those counted by hand.

use std::time::Duration;

use as_infrastructure_service::domain::observation::{Observation, Reason};

use crate::support::TestApp;

const SERVICES: usize = 1000;
const INTERVAL: u64 = 240;

#[tokio::test]
async fn a_day_of_a_thousand_services_adds_up() {
    let mut file = String::new();
    for n in 0..SERVICES {
        file.push_str(&format!(
            "[[service]]\nname = \"svc-{n}\"\nurl = \"http://localhost:1\"\ncheck_interval = {INTERVAL}\n"
        ));
    }
    let app = TestApp::with_file(&file, &[("ENABLE_ALERTING", "false")]).await;
    let rounds = 24 * 3600 / INTERVAL;
    let watched = app.app.engine.live.roster().watched.clone();
    for round in 0..rounds {
        for (n, watched) in watched.iter().enumerate() {
            // Service 7 is down for rounds 100 to 115, service 8 slow in every tenth round.
            let seen = match (n, round) {
                (7, 100..115) => Observation::failed(Reason::ConnectRefused, ""),
                (8, _) if round % 10 == 0 => Observation::answered(200, Duration::from_millis(1500)),
                _ => Observation::answered(200, Duration::from_millis(10 + n as u64 % 50)),
            };
            let service = watched.service();
            app.app.engine.take_in(watched, &service, seen, Default::default()).await;
        }
        app.clock.advance(Duration::from_secs(INTERVAL));
    }
    let metrics = app.get("/metrics").await.json;
    assert_eq!(metrics["system"]["totalRequests"], SERVICES as u64 * rounds);
    assert_eq!(metrics["system"]["healthyServices"], SERVICES);

    let seven = app.get("/metrics/service/svc-7").await.json["metrics"].clone();
    assert_eq!(seven["availability"]["downtimeMinutes"], 15.0 * INTERVAL as f64 / 60.0);
    assert_eq!(seven["requests"]["failed"], 15);
    assert_eq!(seven["availability"]["mttr"], 60.0);
    // Up 345 rounds of 360: the last verdict holds to the end of the day.
    assert_eq!(seven["availability"]["uptime"], 95.83);
    assert_eq!(seven["availability"]["mtbf"], 345.0 * INTERVAL as f64 / 60.0);

    let eight = app.get("/metrics/service/svc-8").await.json["metrics"].clone();
    assert_eq!(eight["requests"]["successful"], rounds - rounds / 10);
    assert_eq!(eight["availability"]["uptime"], 100.0);
    let p99 = eight["responseTime"]["p99"].as_f64().unwrap();
    assert!((p99 - 1500.0).abs() <= 15.0, "p99 {p99}");
    let p50 = eight["responseTime"]["p50"].as_f64().unwrap();
    assert!((p50 - 18.0).abs() <= 0.18, "p50 {p50}");
}
