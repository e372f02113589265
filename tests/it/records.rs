//! One suite of promises for both homes of the records: SQLite in a file, PostgreSQL in a database of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use as_infrastructure_service::domain::alert::{Alert, AlertStatus, Component, Severity, Told};
use as_infrastructure_service::domain::check::{Check, CheckBatch, CheckRun, name_hash};
use as_infrastructure_service::domain::event::{Event, EventKind};
use as_infrastructure_service::domain::judge::sample_alert;
use as_infrastructure_service::domain::maintenance::{WindowSource, spec};
use as_infrastructure_service::domain::notification::{Notice, NoticeKind, Notification};
use as_infrastructure_service::domain::observation::{Kind, Reason};
use as_infrastructure_service::domain::outage::{Outage, OutageSeverity};
use as_infrastructure_service::domain::registration::{Door, Registration};
use as_infrastructure_service::domain::rollup::Rollup;
use as_infrastructure_service::domain::service::ServiceName;
use as_infrastructure_service::domain::state::ServiceState;
use as_infrastructure_service::domain::status::Status;
use as_infrastructure_service::domain::time::from_ms;
use as_infrastructure_service::domain::window::History;
use as_infrastructure_service::store::records::{Batch, OutageFilter, Records, Retention, Since};
use as_infrastructure_service::store::{RecordsAddress, StoreError};
use secrecy::ExposeSecret;
use serde_json::json;
use tempfile::TempDir;
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::support::{Binary, Recorder, Script, Stub, T0, TestApp};

/// A store, and what must live as long as it.
struct Home {
    records: Records,
    address: RecordsAddress,
    _folder: TempDir,
}

/// The server the tests use: `TEST_POSTGRES_URL`, by default the local one with a user that needs no password.
fn server() -> String {
    std::env::var("TEST_POSTGRES_URL").unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432/postgres".to_owned())
}

/// A new, empty database.
pub async fn new_database() -> String {
    let server = server();
    let (client, connection) =
        tokio_postgres::connect(&server, NoTls).await.expect("PostgreSQL, which tests/run starts (TEST_POSTGRES_URL)");
    tokio::spawn(connection);
    let name = format!("records_{}", Uuid::new_v4().simple());
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let (front, _) = server.rsplit_once('/').unwrap();
    format!("{front}/{name}")
}

async fn homes() -> Vec<Home> {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = RecordsAddress::Sqlite(folder.path().join("records.db"));
    let postgres = RecordsAddress::Postgres(new_database().await.into());
    let mut homes = Vec::new();
    for (address, folder) in [(sqlite, folder), (postgres, tempfile::tempdir().unwrap())] {
        homes.push(Home { records: Records::open(&address).await.unwrap(), address, _folder: folder });
    }
    homes
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn since(ms: i64) -> Since {
    Since { alerts: from_ms(ms), outages: from_ms(ms) }
}

fn outage(service: &str, started: i64, ended: Option<i64>) -> Outage {
    Outage {
        id: Outage::id_for(&name(service), from_ms(started), from_ms(started + 2000)),
        service: name(service),
        severity: OutageSeverity::Critical,
        started: from_ms(started),
        confirmed: from_ms(started + 2000),
        ended: ended.map(from_ms),
        reason: Reason::Timeout,
        error_message: "Connection timeout".to_owned(),
        critical: true,
        resolution_notes: None,
        resolved_by: None,
        updated: None,
        maintenance_ms: 0,
        root_cause: None,
    }
}

fn alert(id: &str, resolved: Option<i64>) -> Alert {
    Alert {
        id: id.to_owned(),
        alert_id: format!("{id}-x"),
        description: "it's \"quoted\" \u{1F600}".to_owned(),
        triggered_at: from_ms(T0),
        status: if resolved.is_some() { AlertStatus::Resolved } else { AlertStatus::Active },
        resolved_at: resolved.map(from_ms),
        root_cause: Some(name("db")),
        told: Told::Yes,
        sequence: 7,
        ..sample_alert("auth", Severity::High)
    }
}

fn notification(id: &str, sequence: u64) -> Notification {
    let notice = Notice {
        kind: NoticeKind::AlertRaised,
        alert: Alert { sequence, ..alert(id, None) },
        outage: None,
        from: Status::Healthy,
        to: Status::Unhealthy,
        url: None,
        protocol: None,
        at: from_ms(T0),
    };
    Notification::new(notice, "webhook", from_ms(T0))
}

fn event(sequence: i64) -> Event {
    let payload = serde_json::json!({"from": "healthy", "to": "unhealthy", "issues": []});
    Event { sequence, ..Event::new(EventKind::StatusChanged, Some(name("auth")), payload, from_ms(T0 + sequence)) }
}

fn check(at_ms: i64) -> Check {
    Check {
        at_ms,
        status: Status::Healthy,
        reason: Reason::Ok,
        kind: Kind::Scheduled,
        http_status: 200,
        response_us: Some(1500),
        streak: 3,
        error: None,
        maintenance: false,
        redirected: false,
    }
}

#[tokio::test]
async fn everything_committed_is_restored() {
    for home in homes().await {
        let state = ServiceState { sequence: 9, last_check: Some(from_ms(T0)), ..ServiceState::default() };
        let mut history = History::default();
        history.record(check(T0), std::time::Duration::from_secs(60), &[]);
        let (open, old) = (outage("auth", T0, None), outage("web", T0 - 90_000_000, Some(T0 - 89_000_000)));
        let batch = Batch {
            states: [(name("Auth"), state.clone())].into(),
            histories: vec![(name("auth"), serde_json::to_string(&history).unwrap(), T0)],
            outages: [(open.id, open.clone()), (old.id, old.clone())].into(),
            alerts: [alert("a-1", None), alert("a-2", Some(T0)), alert("a-3", Some(T0 - 1_000_000))]
                .map(|alert| (alert.id.clone(), alert))
                .into(),
            owed: vec![notification("b", 1), notification("a", 2)],
            events: vec![event(1), event(2)],
            ..Batch::default()
        };
        home.records.write(batch).await.unwrap();
        drop(home.records);
        let records = reopen(&home.address).await;
        let restored = records.restore(since(T0 - 1000)).await.unwrap();
        assert_eq!(restored.states, [(name("auth"), state)].into());
        let (read, rolled_ms) = &restored.histories[&name("auth")];
        assert_eq!(serde_json::to_value(read).unwrap(), serde_json::to_value(&history).unwrap());
        assert_eq!(*rolled_ms, T0);
        assert_eq!(restored.living_alerts, [alert("a-1", None)]);
        assert_eq!(restored.recent_alerts, [alert("a-2", Some(T0))]);
        assert_eq!(restored.sequences, [(Component::Service(name("auth")), 7)].into());
        assert_eq!(restored.outages, [old, open.clone()]);
        assert_eq!(restored.last_incident, Some(open));
        assert_eq!(restored.owed, [notification("b", 1), notification("a", 2)]);
        assert_eq!(restored.events.iter().map(|event| event.sequence).collect::<Vec<_>>(), [1, 2]);
    }
}

/// The thread of the last handle ends in its own time.
async fn reopen(address: &RecordsAddress) -> Records {
    crate::support::eventually("the records free again", async || Records::open(address).await.ok()).await
}

#[tokio::test]
async fn a_commit_repeated_changes_nothing_and_later_values_replace_earlier_ones() {
    for home in homes().await {
        let batch = |severity| Batch {
            alerts: [("a".to_owned(), Alert { severity, ..alert("a", None) })].into(),
            owed: vec![notification("a", 1)],
            events: vec![event(1)],
            ..Batch::default()
        };
        let first = batch(Severity::High);
        home.records.write(first.clone()).await.unwrap();
        home.records.write(first).await.unwrap();
        home.records.write(batch(Severity::Critical)).await.unwrap();
        let restored = home.records.restore(since(0)).await.unwrap();
        assert_eq!(restored.living_alerts.len(), 1);
        assert_eq!(restored.living_alerts[0].severity, Severity::Critical);
        assert_eq!((restored.owed.len(), restored.events.len()), (1, 1));
    }
}

#[tokio::test]
async fn settled_and_dead_rows_leave_the_outbox_and_a_removed_service_its_state() {
    for home in homes().await {
        let rows = vec![notification("a", 1), notification("b", 1), notification("c", 1)];
        let ids: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
        let states = [(name("auth"), ServiceState::default())].into();
        home.records.write(Batch { owed: rows, states, ..Batch::default() }).await.unwrap();
        let batch = Batch {
            settled: vec![ids[0].clone()],
            dead: vec![ids[1].clone()],
            removed: vec![name("AUTH")],
            ..Batch::default()
        };
        home.records.write(batch).await.unwrap();
        let restored = home.records.restore(since(0)).await.unwrap();
        assert_eq!(restored.owed.iter().map(|row| row.id.clone()).collect::<Vec<_>>(), [ids[2].clone()]);
        assert!(restored.states.is_empty());
    }
}

#[tokio::test]
async fn the_check_log_is_read_by_pages_and_cleaned_by_age() {
    for home in homes().await {
        for second in 0..1200 {
            let mut checks = CheckBatch { mark: second + 1, ..CheckBatch::default() };
            checks.push(42, &check(T0 + second * 1000), None);
            home.records.write(Batch { checks: vec![checks], ..Batch::default() }).await.unwrap();
            if second == 99 && matches!(home.address, RecordsAddress::Postgres(_)) {
                // The rest as one transaction: the pages do not care.
                let rest = (100..1200).map(|second| {
                    let mut checks = CheckBatch { mark: second + 1, ..CheckBatch::default() };
                    checks.push(42, &check(T0 + second * 1000), None);
                    checks
                });
                home.records.write(Batch { checks: rest.collect(), ..Batch::default() }).await.unwrap();
                break;
            }
        }
        let read = async |since_ms| {
            let (mut after, mut checks) = (0, Vec::new());
            loop {
                let page = home.records.check_log(since_ms, after, 500).await.unwrap();
                checks.extend(page.checks.into_iter().map(|logged| (logged.service, logged.check)));
                let Some(next) = page.next else { return checks };
                after = next;
            }
        };
        let all = read(0).await;
        assert_eq!(all.len(), 1200);
        assert_eq!(all[5], (42, check(T0 + 5000)));
        assert_eq!(read(T0 + 1_000_000).await.len(), 199);
        let retention = Retention {
            now: from_ms(T0),
            log_before: from_ms(T0 + 600_000),
            checks_before: from_ms(T0),
            outages_before: Some(from_ms(T0)),
            log_through: i64::MAX,
        };
        while home.records.clean_up(retention).await.unwrap() {}
        assert_eq!(read(0).await.len(), 600);
    }
}

#[tokio::test]
async fn old_events_leave_but_the_newest_stays_for_numbers_to_go_on_from() {
    for home in homes().await {
        let events = (1..=3).map(|sequence| Event {
            sequence,
            ..Event::new(EventKind::RegistryChanged, None, serde_json::json!({}), from_ms(T0 - 9000))
        });
        home.records.write(Batch { events: events.collect(), ..Batch::default() }).await.unwrap();
        let retention = Retention {
            now: from_ms(T0),
            log_before: from_ms(0),
            checks_before: from_ms(T0),
            outages_before: None,
            log_through: i64::MAX,
        };
        while home.records.clean_up(retention).await.unwrap() {}
        let left = home.records.events_after(0, 10).await.unwrap();
        assert_eq!(left.iter().map(|event| event.sequence).collect::<Vec<_>>(), [3]);
    }
}

#[tokio::test]
async fn closed_outages_and_resolved_alerts_leave_after_their_time_and_open_ones_never() {
    for home in homes().await {
        let list = [outage("a", T0 - 9000, Some(T0 - 5000)), outage("b", T0 - 9000, None)];
        let batch = Batch {
            outages: list.map(|outage| (outage.id, outage)).into(),
            alerts: BTreeMap::from(
                [alert("x", Some(T0 - 5000)), alert("y", None)].map(|alert| (alert.id.clone(), alert)),
            ),
            ..Batch::default()
        };
        home.records.write(batch).await.unwrap();
        let retention = Retention {
            now: from_ms(T0),
            log_before: from_ms(0),
            checks_before: from_ms(0),
            outages_before: Some(from_ms(T0)),
            log_through: i64::MAX,
        };
        while home.records.clean_up(retention).await.unwrap() {}
        let restored = home.records.restore(since(0)).await.unwrap();
        assert_eq!(restored.outages.iter().map(|outage| outage.service.to_string()).collect::<Vec<_>>(), ["b"]);
        assert_eq!((restored.living_alerts.len(), restored.recent_alerts.len()), (1, 0));
    }
}

#[tokio::test]
async fn two_processes_do_not_share_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let address = RecordsAddress::Sqlite(folder.path().join("records.db"));
    let _held = Records::open(&address).await.unwrap();
    assert!(matches!(Records::open(&address).await, Err(StoreError::InUse { .. })));
}

#[tokio::test]
async fn only_the_owner_reads_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let _held = Records::open(&RecordsAddress::Sqlite(folder.path().join("records.db"))).await.unwrap();
    for name in ["records.db", "records.db-wal"] {
        let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
    }
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_with_an_alert() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("records.db"), vec![0x5a; 8192]).unwrap();
    let clock = as_infrastructure_service::clock::Clock::manual(from_ms(T0));
    let app = TestApp::start(folder.clone(), clock, &[]).await;
    app.app.engine.on_time().await;
    let alerts = app.get("/status/critical").await.json["alerts"].clone();
    assert_eq!(alerts[0]["type"], "monitor_impaired");
    assert!(alerts[0]["message"].as_str().unwrap().contains("records.db.damaged-20260131T103000Z"), "{alerts}");
    assert!(folder.path().join("records.db.damaged-20260131T103000Z").exists());
}

#[tokio::test]
async fn the_service_itself_goes_on_from_postgresql() {
    let recorder = Recorder::start().await;
    let (url, database) = (recorder.url(), new_database().await);
    let more =
        [("METRICS_STORAGE_URL", database.as_str()), ("ALERT_WEBHOOK_URL", &url), ("NOTIFICATION_GROUP_WAIT_MS", "0")];
    let app = TestApp::with(&more).await;
    assert_eq!(app.get("/health").await.json["self"]["store"]["kind"], "postgresql");
    app.fail("web-ui", 3).await;
    recorder.wait_for(1).await;
    let app = app.restart(&more).await;
    let shown = app.get("/health/service/web-ui").await.json;
    assert_eq!(shown["service"]["consecutiveFailures"], 3);
    app.answer("web-ui", 5).await;
    recorder.wait_for(2).await;
    assert_eq!(recorder.log(), ["alert_raised web-ui", "alert_resolved web-ui"]);
}

#[tokio::test]
async fn with_the_records_away_checks_and_pages_go_on_and_everything_is_caught_up() {
    let recorder = Recorder::start().await;
    let stub = Stub::start(Script::ok()).await;
    let file = format!("[[service]]\nname = \"auth\"\nurl = \"{}\"\ncritical = true\n", stub.url());
    let hook = recorder.url();
    let binary = Binary::start(&file, &[("ALERT_WEBHOOK_URL", &hook)]).await;
    binary.wait_until("/health/service/auth", |body| body["service"]["status"] == "healthy").await;
    // Another process holds the file for longer than anyone waits.
    let other = rusqlite::Connection::open(binary.folder.path().join("health_metrics.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    stub.set(Script::Reply(500, String::new()));
    recorder.wait_for(1).await;
    let health = binary.wait_until("/health", |body| body["self"]["store"]["durability"] == "none").await;
    assert!(health["self"]["problems"].to_string().contains("records not writable"), "{health}");
    assert_eq!(binary.get("/readyz").await["status"], "not_ready");
    let id = |body: &serde_json::Value| {
        let list = body["alerts"].as_array().unwrap();
        list.iter().find(|alert| alert["component"] == "auth").map(|alert| alert["id"].clone())
    };
    let told = id(&binary.get("/status/critical").await);
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    binary.wait_until("/health", |body| body["self"]["store"]["durability"] == "power_loss").await;
    let binary = Binary::start_in(binary.kill().await, &[("ALERT_WEBHOOK_URL", &hook)]).await;
    assert_eq!(id(&binary.get("/status/critical").await), told);
}

fn registration(id: &str, version: u64) -> Registration {
    let definition = json!({"name": id, "url": "tcp://127.0.0.1:1"});
    Registration {
        definition: definition.as_object().unwrap().clone(),
        door: Door::Services,
        created: from_ms(T0),
        updated: from_ms(T0),
        version,
    }
}

fn run(service: &str, from: i64, count: i64) -> CheckRun {
    let checks: Vec<Check> = (0..count).map(|n| check(from + n * 15_000)).collect();
    CheckRun::of(name_hash(&name(service)), &checks).unwrap()
}

#[tokio::test]
async fn registrations_windows_runs_and_minutes_are_kept_and_given_up() {
    for home in homes().await {
        let records = &home.records;
        let window = spec::window(
            json!({"start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-02T00:00:00Z"}).as_object().unwrap(),
            None,
            WindowSource::Api,
            |_| None,
            from_ms(T0),
        )
        .unwrap();
        let minute = Rollup { at_ms: T0, latency: vec![(700, 70_000)], ..Rollup::default() };
        let batch = Batch {
            registrations: BTreeMap::from([
                (name("auth"), registration("auth", 1)),
                (name("web"), registration("web", 1)),
            ]),
            windows: BTreeMap::from([(window.id, (window.clone(), false))]),
            runs: vec![run("auth", T0, 60), run("auth", T0 + 900_000, 60), run("web", T0, 60)],
            minutes: vec![minute.clone(), Rollup { at_ms: T0 + 60_000, ..minute.clone() }],
            ..Batch::default()
        };
        // Written twice: a commit whose answer was lost is repeated.
        records.write(batch.clone()).await.unwrap();
        records.write(batch).await.unwrap();
        let restored = records.restore(since(0)).await.unwrap();
        let names: Vec<_> = restored.registrations.iter().filter_map(Registration::name).collect();
        assert_eq!((names.len(), restored.windows), (2, vec![(window.clone(), false)]));
        assert_eq!(restored.run_marks[&name_hash(&name("auth"))], T0 + 900_000 + 59 * 15_000);
        assert_eq!(records.minutes(T0, T0 + 60_000, 1).await.unwrap(), [Rollup { at_ms: T0 + 60_000, ..minute }]);

        // A range finds the run that reaches into it, and none beside it.
        let hash = name_hash(&name("auth"));
        let found = records.runs(hash, T0 + 600_000, T0 + 700_000).await.unwrap();
        assert_eq!(found.iter().map(|run| run.from_ms).collect::<Vec<_>>(), [T0]);
        let both = records.runs(hash, T0, T0 + 1_000_000).await.unwrap();
        assert_eq!(both.iter().map(|run| (run.from_ms, run.count)).collect::<Vec<_>>(), [(T0 + 900_000, 60), (T0, 60)]);
        let blobs = records.run_blobs(hash, T0, T0 + 900_000).await.unwrap();
        assert_eq!(blobs.len(), 2);
        assert_eq!(CheckRun::decode(blobs[0].0, &blobs[0].1).unwrap().len(), 60);

        let batch = Batch {
            unregistered: vec![name("Auth")],
            erased: vec![name("auth")],
            registrations: BTreeMap::from([(name("web"), registration("web", 2))]),
            windows: BTreeMap::from([(window.id, (window.clone(), true))]),
            ..Batch::default()
        };
        records.write(batch).await.unwrap();
        let restored = records.restore(since(0)).await.unwrap();
        assert_eq!(restored.registrations, [registration("web", 2)]);
        assert!(restored.windows[0].1 && !restored.run_marks.contains_key(&hash));
        assert!(records.runs(hash, 0, i64::MAX).await.unwrap().is_empty());

        // What is older than retention goes, piece by piece.
        let late = from_ms(T0 + 40 * 86_400_000);
        let retention = Retention {
            now: late,
            log_before: late,
            checks_before: late,
            outages_before: Some(late),
            log_through: i64::MAX,
        };
        while records.clean_up(retention).await.unwrap() {}
        assert!(records.runs(name_hash(&name("web")), 0, i64::MAX).await.unwrap().is_empty());
        assert!(records.minutes(0, i64::MAX, 10).await.unwrap().is_empty());
        assert!(records.restore(since(0)).await.unwrap().windows.is_empty());
    }
}

#[tokio::test]
async fn runs_of_a_day_lie_in_a_partition_that_is_dropped_whole() {
    let home = homes().await.pop().unwrap();
    let RecordsAddress::Postgres(url) = &home.address else { panic!("PostgreSQL is the last home") };
    let (client, connection) = tokio_postgres::connect(url.expose_secret(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let partitions = async || -> Vec<String> {
        let sql =
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'check_runs'::regclass ORDER BY 1";
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let at = |days: i64| from_ms(T0 + days * 86_400_000);
    let turn = async |days: i64| {
        let keep = at(days - 30);
        let retention = Retention {
            now: at(days),
            log_before: keep,
            checks_before: keep,
            outages_before: None,
            log_through: i64::MAX,
        };
        while home.records.clean_up(retention).await.unwrap() {}
    };
    assert_eq!(partitions().await.len(), 6, "yesterday to three days ahead, and the common one");
    turn(0).await;
    home.records.write(Batch { runs: vec![run("auth", T0, 60)], ..Batch::default() }).await.unwrap();
    let day = (T0 / 86_400_000).to_string();
    let rows: i64 = client.query_one(&format!("SELECT count(*) FROM check_runs_d{day}"), &[]).await.unwrap().get(0);
    assert_eq!(rows, 1);
    turn(30).await;
    assert!(partitions().await.contains(&format!("check_runs_d{day}")));
    turn(32).await;
    assert!(!partitions().await.contains(&format!("check_runs_d{day}")));
    assert!(home.records.runs(name_hash(&name("auth")), 0, i64::MAX).await.unwrap().is_empty());
}

#[tokio::test]
async fn outages_are_found_by_what_is_asked() {
    for home in homes().await {
        let (open, old) = (outage("auth", T0, None), outage("web", T0 - 90_000_000, Some(T0 - 89_000_000)));
        let minor = Outage { severity: OutageSeverity::Minor, ..outage("auth", T0 - 5_000, Some(T0 - 1_000)) };
        let list = [open.clone(), old.clone(), minor.clone()];
        let outages = list.iter().map(|outage| (outage.id, outage.clone())).collect();
        home.records.write(Batch { outages, ..Batch::default() }).await.unwrap();
        let ask = async |filter: OutageFilter, skip, limit| {
            let page = home.records.outages(filter, skip, limit).await.unwrap();
            (page.outages.iter().map(|outage| outage.id).collect::<Vec<_>>(), page.total)
        };
        assert_eq!(ask(OutageFilter::default(), 0, 10).await, (vec![open.id, minor.id, old.id], 3));
        assert_eq!(ask(OutageFilter::default(), 1, 1).await, (vec![minor.id], 3));
        let of = |service: &str| OutageFilter { service: Some(name(service)), ..OutageFilter::default() };
        assert_eq!(ask(of("AUTH"), 0, 10).await, (vec![open.id, minor.id], 2));
        let severity = OutageFilter { severity: Some(OutageSeverity::Minor), ..OutageFilter::default() };
        assert_eq!(ask(severity, 0, 10).await, (vec![minor.id], 1));
        let range =
            OutageFilter { from: Some(from_ms(T0 - 5_000)), to: Some(from_ms(T0 - 1)), ..OutageFilter::default() };
        assert_eq!(ask(range, 0, 10).await, (vec![minor.id], 1));
        assert_eq!(ask(OutageFilter { open: Some(true), ..OutageFilter::default() }, 0, 10).await, (vec![open.id], 1));
        assert_eq!(home.records.outage(old.id).await.unwrap(), Some(old));
        assert_eq!(home.records.outage(Uuid::nil()).await.unwrap(), None);
        let sums = home.records.outage_sums(OutageFilter::default()).await.unwrap();
        assert_eq!((sums["CRITICAL"].total, sums["CRITICAL"].open, sums["CRITICAL"].closed_ms), (2, 1, 1_000_000));
        assert_eq!((sums["MINOR"].total, sums["MINOR"].closed_ms), (1, 4_000));
    }
}
