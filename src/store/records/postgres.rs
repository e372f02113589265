//! Records in PostgreSQL: one connection, made anew when it breaks, every call under a deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use uuid::Uuid;

use super::rows::{self, Raw, json, key};
use super::{
    AlertFilter, AlertPage, Batch, LogPage, OutageFilter, OutagePage, OutageSums, Overrun, PAGE, Restored, Retention,
    RunHead, Since,
};
use crate::domain::alert::Alert;
use crate::domain::check::{CheckRun, name_hash};
use crate::domain::event::{Event, EventKind, RECENT};
use crate::domain::notification::{Delivery, Notification};
use crate::domain::outage::Outage;
use crate::domain::rollup::Rollup;
use crate::store::StoreError;
use crate::store::Timings;

/// Connecting, and one call: our choice. Longer than a busy server needs, shorter than the detection promise.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Key of the advisory lock around migrations: the first bytes of the product's name.
const MIGRATION_LOCK: i64 = 0x6173_2d69_6e66_7261;

const MIGRATIONS: [&str; 3] = [
    include_str!("migrations/postgres_1.sql"),
    include_str!("migrations/postgres_2.sql"),
    include_str!("migrations/postgres_3.sql"),
];
/// Days whose partitions of the check history are made ahead: our choice.
const DAYS_AHEAD: i64 = 3;
const DAY_MS: i64 = 86_400_000;

type Lane = Arc<Mutex<Option<Client>>>;

/// A handle to the database.
#[derive(Debug, Clone)]
pub struct Postgres {
    config: Arc<Config>,
    /// `None` while disconnected.
    client: Lane,
    /// A second connection, so that long reads hold up no commit.
    reader: Lane,
    pub(super) timings: Arc<Timings>,
    /// `fsync` and `synchronous_commit` are on.
    safe: Arc<AtomicBool>,
}

impl Postgres {
    pub(super) async fn connect(url: &SecretString) -> Result<Self, StoreError> {
        let mut config: Config = url.expose_secret().parse().map_err(refused)?;
        config
            .application_name("as-infrastructure-service")
            .connect_timeout(CONNECT_DEADLINE)
            .tcp_user_timeout(CALL_DEADLINE)
            .keepalives_idle(Duration::from_secs(30));
        let records = Self {
            config: Arc::new(config),
            client: Arc::default(),
            reader: Arc::default(),
            timings: Arc::default(),
            safe: Arc::new(AtomicBool::new(true)),
        };
        let mut client = records.dial().await?;
        records.migrate(&mut client).await?;
        let row = client
            .query_one("SELECT current_setting('fsync'), current_setting('synchronous_commit')", &[])
            .await
            .map_err(refused)?;
        let (fsync, commit): (String, String) = (row.get(0), row.get(1));
        let now_ms: i64 =
            client.query_one("SELECT (extract(epoch FROM now()) * 1000)::bigint", &[]).await.map_err(refused)?.get(0);
        Self::turn_partitions(&client, now_ms, i64::MIN).await?;
        records.safe.store(fsync == "on" && commit != "off", Ordering::Relaxed);
        *records.client.lock().await = Some(client);
        Ok(records)
    }

    pub(super) fn durability(&self) -> &'static str {
        if self.safe.load(Ordering::Relaxed) { "power_loss" } else { "crash" }
    }

    async fn dial(&self) -> Result<Client, StoreError> {
        let attempt = async {
            match self.config.get_ssl_mode() {
                SslMode::Disable => self.dial_plain().await,
                SslMode::Prefer => match self.dial_tls().await {
                    // As libpq does: preferred is not required.
                    Err(error) if is_tls(&error) => {
                        tracing::debug!("PostgreSQL over TLS failed and sslmode is prefer: connecting without");
                        self.dial_plain().await
                    }
                    tried => tried,
                },
                _ => self.dial_tls().await,
            }
        };
        let dialled = async {
            let client = attempt.await?;
            client.batch_execute("SET statement_timeout = '8s'; SET lock_timeout = '5s'").await?;
            Ok(client)
        };
        timeout(CONNECT_DEADLINE, dialled)
            .await
            .map_err(|_| StoreError::Unavailable("PostgreSQL did not answer within 5 s".into()))?
            .map_err(refused)
    }

    async fn dial_plain(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config = (*self.config).clone();
        config.ssl_mode(SslMode::Disable);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "PostgreSQL connection ended");
            }
        });
        Ok(client)
    }

    async fn dial_tls(&self) -> Result<Client, tokio_postgres::Error> {
        let tls = match ClientConfig::builder().with_platform_verifier() {
            Ok(builder) => builder.with_no_client_auth(),
            Err(error) => {
                tracing::warn!(%error, "no CA certificates on this system: TLS to PostgreSQL will be refused");
                ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
            }
        };
        let (client, connection) = self.config.connect(MakeRustlsConnect::new(tls)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "PostgreSQL connection ended");
            }
        });
        Ok(client)
    }

    /// Brings the schema up to date, one process at a time.
    async fn migrate(&self, client: &mut Client) -> Result<(), StoreError> {
        let transaction = client.transaction().await.map_err(refused)?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await.map_err(refused)?;
        transaction
            .batch_execute("CREATE TABLE IF NOT EXISTS schema_version (version bigint PRIMARY KEY)")
            .await
            .map_err(refused)?;
        let row = transaction
            .query_one("SELECT coalesce(max(version), 0) FROM schema_version", &[])
            .await
            .map_err(refused)?;
        let (found, known): (i64, i64) = (row.get(0), MIGRATIONS.len() as i64);
        if found > known {
            return Err(StoreError::Newer { found, known });
        }
        for (version, migration) in (1i64..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
            transaction.batch_execute(migration).await.map_err(refused)?;
            transaction.execute("INSERT INTO schema_version VALUES ($1)", &[&version]).await.map_err(refused)?;
        }
        transaction.commit().await.map_err(refused)
    }

    /// Runs `work` on a live connection, under the deadline. A connection that failed is not used again.
    async fn call<T>(&self, work: impl AsyncFnOnce(&mut Client) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.timings.time(self.on(&self.client, work)).await
    }

    async fn read<T>(&self, work: impl AsyncFnOnce(&mut Client) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.timings.time(self.on(&self.reader, work)).await
    }

    async fn on<T>(
        &self,
        lane: &Lane,
        work: impl AsyncFnOnce(&mut Client) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let late = || StoreError::Unavailable("PostgreSQL did not answer within 10 s".into());
        let mut held = timeout(CALL_DEADLINE, lane.lock()).await.map_err(|_| late())?;
        let mut client = match held.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.dial().await?,
        };
        let result = timeout(CALL_DEADLINE, work(&mut client)).await.map_err(|_| late())?;
        if result.is_ok() {
            *held = Some(client);
        }
        result
    }

    pub(super) async fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        self.call(async |client| {
            let transaction = client.transaction().await.map_err(refused)?;
            write(&transaction, batch).await?;
            transaction.commit().await.map_err(refused)
        })
        .await
    }

    pub(super) async fn restore(&self, since: Since) -> Result<Restored, StoreError> {
        self.call(async |client| raw(client, since).await.map_err(refused)).await?.read()
    }

    pub(super) async fn check_log(&self, since_ms: i64, after: i64, blobs: i64) -> Result<LogPage, StoreError> {
        self.read(async |client| {
            let found = client
                .query(
                    "SELECT mark, from_ms, checks FROM check_log WHERE mark > $1 AND to_ms > $2 ORDER BY mark LIMIT $3",
                    &[&after, &since_ms, &blobs],
                )
                .await
                .map_err(refused)?;
            let next = found.last().map(|row| row.get(0));
            let checks = found.iter().flat_map(|row| rows::decode(row.get(0), row.get(1), row.get(2))).collect();
            Ok(LogPage { checks, next })
        })
        .await
    }

    pub(super) async fn log_overrun(&self, after: i64, bytes: i64, since_ms: i64) -> Result<Overrun, StoreError> {
        self.read(async |client| {
            let sql = "SELECT coalesce(max(mark), 0), coalesce(sum(count), 0)::bigint, coalesce(min(from_ms), 0),
                     coalesce(max(to_ms), 0)
                 FROM (SELECT mark, from_ms, to_ms, count, sum(length(checks)) OVER (ORDER BY mark DESC) AS newer
                     FROM check_log WHERE mark > $1) AS log
                 WHERE newer > $2 OR to_ms < $3";
            let row = client.query_one(sql, &[&after, &bytes, &since_ms]).await.map_err(refused)?;
            let checks = row.get::<_, i64>(1).unsigned_abs();
            Ok(Overrun { through: row.get(0), checks, from_ms: row.get(2), to_ms: row.get(3) })
        })
        .await
    }

    pub(super) async fn outages(
        &self,
        filter: OutageFilter,
        skip: usize,
        limit: usize,
    ) -> Result<OutagePage, StoreError> {
        self.read(async |client| {
            let values = Asked::of(&filter);
            let count = format!("SELECT count(*) FROM outages WHERE {ASKED}");
            let total: i64 = client.query_one(&count, &values.list()).await.map_err(refused)?.get(0);
            let page = format!(
                "SELECT outage FROM outages WHERE {ASKED} ORDER BY started_ms DESC, id DESC LIMIT {limit} OFFSET {skip}"
            );
            let texts = texts_of(client.query(&page, &values.list()).await.map_err(refused)?);
            Ok(OutagePage { outages: rows::list("outage", &texts)?, total: total.unsigned_abs() })
        })
        .await
    }

    pub(super) async fn outage_sums(&self, filter: OutageFilter) -> Result<BTreeMap<String, OutageSums>, StoreError> {
        self.read(async |client| {
            let sums = format!(
                "SELECT severity, count(*), count(*) FILTER (WHERE ended_ms IS NULL), coalesce(sum(ended_ms - started_ms
                     - coalesce((outage::json ->> 'maintenance_ms')::bigint, 0)), 0)::bigint
                 FROM outages WHERE {ASKED} GROUP BY severity"
            );
            let found = client.query(&sums, &Asked::of(&filter).list()).await.map_err(refused)?;
            let sums = found.iter().map(|row| {
                let (total, open): (i64, i64) = (row.get(1), row.get(2));
                let sums = OutageSums { total: total.unsigned_abs(), open: open.unsigned_abs(), closed_ms: row.get(3) };
                (row.get(0), sums)
            });
            Ok(sums.collect())
        })
        .await
    }

    pub(super) async fn outage_starts(&self, after: String, limit: i64) -> Result<Vec<(String, i64)>, StoreError> {
        self.read(async |client| {
            let sql = "SELECT id, started_ms FROM outages WHERE id > $1 ORDER BY id LIMIT $2";
            let rows = client.query(sql, &[&after, &limit]).await.map_err(refused)?;
            Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
        })
        .await
    }

    pub(super) async fn outage(&self, id: Uuid) -> Result<Option<Outage>, StoreError> {
        self.read(async |client| {
            let sql = "SELECT outage FROM outages WHERE id = $1";
            let found = texts_of(client.query(sql, &[&id.to_string()]).await.map_err(refused)?);
            found.first().map(|text| rows::parse("outage", text)).transpose()
        })
        .await
    }

    pub(super) async fn deliveries(&self, outages: Vec<String>) -> Result<Vec<Delivery>, StoreError> {
        self.read(async |client| {
            let sql = "SELECT delivery FROM deliveries WHERE outage_id = ANY($1) ORDER BY at_ms";
            rows::list("delivery", &texts_of(client.query(sql, &[&outages]).await.map_err(refused)?))
        })
        .await
    }

    pub(super) async fn alerts(&self, filter: AlertFilter, skip: usize, limit: usize) -> Result<AlertPage, StoreError> {
        let asked = rows::AskedAlerts::of(&filter)?;
        self.read(async |client| {
            const ASKED: &str = "($1::text IS NULL OR component = $1) AND ($2::text IS NULL OR severity = $2)
                AND ($3::text IS NULL OR kind = $3) AND ($4::text IS NULL OR status = $4)
                AND ($5::bigint IS NULL OR triggered_ms >= $5) AND ($6::bigint IS NULL OR triggered_ms <= $6)";
            let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                [&asked.component, &asked.severity, &asked.kind, &asked.status, &asked.from, &asked.to];
            let count = format!("SELECT count(*) FROM alerts WHERE {ASKED}");
            let total: i64 = client.query_one(&count, &values).await.map_err(refused)?.get(0);
            let page = format!(
                "SELECT alert FROM alerts WHERE {ASKED} ORDER BY triggered_ms DESC, id DESC LIMIT {limit} OFFSET {skip}"
            );
            let alerts = client.query(&page, &values).await.map_err(refused)?;
            Ok(AlertPage { alerts: rows::list("alert", &first_column(&alerts))?, total: total.unsigned_abs() })
        })
        .await
    }

    pub(super) async fn alert(&self, id: String) -> Result<Option<Alert>, StoreError> {
        self.read(async |client| {
            let sql = "SELECT alert FROM alerts WHERE id = $1";
            let found = client.query_opt(sql, &[&id]).await.map_err(refused)?;
            found.as_ref().map(|row| rows::parse("alert", row.get(0))).transpose()
        })
        .await
    }

    pub(super) async fn deliveries_about(&self, alerts: Vec<String>) -> Result<Vec<Delivery>, StoreError> {
        self.read(async |client| {
            let sql = "SELECT delivery FROM deliveries WHERE alert_id = ANY($1) ORDER BY at_ms";
            let found = client.query(sql, &[&alerts]).await.map_err(refused)?;
            rows::list("delivery", &first_column(&found))
        })
        .await
    }

    pub(super) async fn dead_letters(&self, skip: usize, limit: usize) -> Result<(Vec<Notification>, u64), StoreError> {
        self.read(async |client| {
            let count = "SELECT count(*) FROM outbox WHERE dead";
            let total: i64 = client.query_one(count, &[]).await.map_err(refused)?.get(0);
            let page =
                format!("SELECT notification FROM outbox WHERE dead ORDER BY position LIMIT {limit} OFFSET {skip}");
            let found = client.query(&page, &[]).await.map_err(refused)?;
            Ok((rows::list("notification", &first_column(&found))?, total.unsigned_abs()))
        })
        .await
    }

    pub(super) async fn events_after(&self, sequence: i64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.read(async |client| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let sql = "SELECT event FROM events WHERE sequence > $1 ORDER BY sequence LIMIT $2";
            let found = client.query(sql, &[&sequence, &limit]).await.map_err(refused)?;
            rows::list("event", &first_column(&found))
        })
        .await
    }

    pub(super) async fn facts(&self, kind: &'static str) -> Result<Vec<(String, i64, String)>, StoreError> {
        self.read(async |client| {
            let sql = "SELECT name, at_ms, value FROM facts WHERE kind = $1 ORDER BY at_ms, name";
            let found = client.query(sql, &[&kind]).await.map_err(refused)?;
            Ok(found.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
        })
        .await
    }

    pub(super) async fn fact(&self, kind: &'static str, name: &str) -> Result<Option<String>, StoreError> {
        self.read(async |client| {
            let sql = "SELECT value FROM facts WHERE kind = $1 AND name = $2";
            let found = client.query_opt(sql, &[&kind, &name]).await.map_err(refused)?;
            Ok(found.map(|row| row.get(0)))
        })
        .await
    }

    pub(super) async fn runs(&self, service: u64, from_ms: i64, to_ms: i64) -> Result<Vec<RunHead>, StoreError> {
        self.read(async |client| {
            let found = client
                .query(
                    "SELECT from_ms, to_ms, count FROM check_runs WHERE service = $1 AND from_ms <= $3
                     AND from_ms >= coalesce((SELECT max(from_ms) FROM check_runs WHERE service = $1 AND from_ms < $2), $2)
                     AND to_ms >= $2 ORDER BY from_ms DESC",
                    &[&service.cast_signed(), &from_ms, &to_ms],
                )
                .await
                .map_err(refused)?;
            let runs = found.iter().map(|row| RunHead {
                from_ms: row.get(0),
                to_ms: row.get(1),
                count: usize::try_from(row.get::<_, i32>(2)).unwrap_or(0),
            });
            Ok(runs.collect())
        })
        .await
    }

    pub(super) async fn run_blobs(
        &self,
        service: u64,
        first_ms: i64,
        last_ms: i64,
    ) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
        self.read(async |client| {
            let sql = "SELECT from_ms, checks FROM check_runs WHERE service = $1 AND from_ms BETWEEN $2 AND $3
                       ORDER BY from_ms";
            let found = client.query(sql, &[&service.cast_signed(), &first_ms, &last_ms]).await.map_err(refused)?;
            Ok(found.iter().map(|row| (row.get(0), row.get(1))).collect())
        })
        .await
    }

    pub(super) async fn minutes(&self, from_ms: i64, to_ms: i64, limit: usize) -> Result<Vec<Rollup>, StoreError> {
        self.read(async |client| {
            let sql = "SELECT rollup FROM fleet_minutes WHERE at_ms >= $1 AND at_ms <= $2 ORDER BY at_ms DESC LIMIT $3";
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut texts = texts_of(client.query(sql, &[&from_ms, &to_ms, &limit]).await.map_err(refused)?);
            texts.reverse();
            rows::list("roll-up", &texts)
        })
        .await
    }

    /// Makes the partitions of today and the days ahead, and drops those that are older than `before_ms`.
    async fn turn_partitions(client: &Client, now_ms: i64, before_ms: i64) -> Result<(), StoreError> {
        let today = now_ms.div_euclid(DAY_MS);
        for day in today - 1..=today + DAYS_AHEAD {
            let create = format!(
                "CREATE TABLE IF NOT EXISTS check_runs_d{day} PARTITION OF check_runs FOR VALUES FROM ({}) TO ({})",
                day * DAY_MS,
                (day + 1) * DAY_MS
            );
            // Refused where the partition for all other days holds rows of this one already: they stay there.
            if let Err(error) = client.batch_execute(&create).await {
                tracing::warn!(%error, day, "no partition for this day; its checks go to the common one");
            }
        }
        let partitions = client
            .query(
                "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
                 WHERE inhparent = 'check_runs'::regclass AND relname ~ '^check_runs_d[0-9]+$'",
                &[],
            )
            .await
            .map_err(refused)?;
        for name in partitions.iter().map(|row| row.get::<_, String>(0)) {
            let day: Option<i64> = name.strip_prefix("check_runs_d").and_then(|day| day.parse().ok());
            if day.is_some_and(|day| (day + 1) * DAY_MS <= before_ms) {
                client.batch_execute(&format!("DROP TABLE {name}")).await.map_err(refused)?;
            }
        }
        Ok(())
    }

    pub(super) async fn prepare(&self, now_ms: i64) -> Result<(), StoreError> {
        self.call(async |client| Self::turn_partitions(client, now_ms, i64::MIN).await).await
    }

    pub(super) async fn clean_up(&self, retention: Retention) -> Result<bool, StoreError> {
        self.call(async |client| {
            let checks_before = retention.checks_before.timestamp_millis();
            Self::turn_partitions(client, retention.now.timestamp_millis(), checks_before).await?;
            let log = "DELETE FROM check_log WHERE mark IN
                 (SELECT mark FROM check_log WHERE to_ms < $1 AND mark <= $2 LIMIT $3)";
            let log_before = retention.log_before.timestamp_millis();
            let mut deleted =
                client.execute(log, &[&log_before, &retention.log_through, &PAGE]).await.map_err(refused)?;
            for (statement, before) in [
                (
                    "DELETE FROM check_runs_other WHERE ctid IN
                         (SELECT ctid FROM check_runs_other WHERE to_ms < $1 LIMIT $2)",
                    checks_before,
                ),
                (
                    "DELETE FROM fleet_minutes WHERE at_ms IN (SELECT at_ms FROM fleet_minutes WHERE at_ms < $1 LIMIT $2)",
                    checks_before,
                ),
                (
                    // The newest stays: numbers go on from it.
                    "DELETE FROM events WHERE sequence IN (SELECT sequence FROM events
                         WHERE at_ms < $1 AND sequence < (SELECT max(sequence) FROM events) LIMIT $2)",
                    checks_before,
                ),
                (
                    "DELETE FROM facts WHERE kind = 'seen' AND name IN
                         (SELECT name FROM facts WHERE kind = 'seen' AND at_ms < $1 LIMIT $2)",
                    checks_before,
                ),
            ] {
                deleted += client.execute(statement, &[&before, &PAGE]).await.map_err(refused)?;
            }
            if let Some(before) = retention.outages_before {
                let before = before.timestamp_millis();
                for statement in [
                    "DELETE FROM facts WHERE kind = 'remedy' AND name IN
                         (SELECT name FROM facts WHERE kind = 'remedy' AND at_ms < $1 LIMIT $2)",
                    "DELETE FROM outages WHERE id IN (SELECT id FROM outages WHERE ended_ms < $1 LIMIT $2)",
                    "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE resolved_ms < $1 LIMIT $2)",
                    "DELETE FROM windows WHERE id IN (SELECT id FROM windows WHERE end_ms < $1 LIMIT $2)",
                    "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries WHERE at_ms < $1 LIMIT $2)",
                ] {
                    deleted += client.execute(statement, &[&before, &PAGE]).await.map_err(refused)?;
                }
            }
            Ok(deleted > 0)
        })
        .await
    }
}

/// What an [`OutageFilter`] asks for; an absent value asks for nothing.
const ASKED: &str = "($1::text IS NULL OR service = $1) AND ($2::text IS NULL OR severity = $2)
    AND ($3::bigint IS NULL OR started_ms >= $3) AND ($4::bigint IS NULL OR started_ms <= $4)
    AND ($5::boolean IS NULL OR (ended_ms IS NULL) = $5)";

/// The values of [`ASKED`].
struct Asked {
    service: Option<String>,
    severity: Option<String>,
    from: Option<i64>,
    to: Option<i64>,
    open: Option<bool>,
}

impl Asked {
    fn of(filter: &OutageFilter) -> Self {
        Self {
            service: filter.service.as_ref().map(key),
            severity: filter.severity.map(|severity| severity.as_str().to_owned()),
            from: filter.from.map(|at| at.timestamp_millis()),
            to: filter.to.map(|at| at.timestamp_millis()),
            open: filter.open,
        }
    }

    fn list(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 5] {
        [&self.service, &self.severity, &self.from, &self.to, &self.open]
    }
}

/// The first column of every row.
fn texts_of(rows: Vec<tokio_postgres::Row>) -> Vec<String> {
    rows.iter().map(|row| row.get(0)).collect()
}

async fn write(transaction: &tokio_postgres::Transaction<'_>, batch: &Batch) -> Result<(), StoreError> {
    if !batch.erased.is_empty() {
        let names: Vec<String> = batch.erased.iter().map(key).collect();
        let services: Vec<i64> = batch.erased.iter().map(|name| name_hash(name).cast_signed()).collect();
        transaction.execute("DELETE FROM outages WHERE service = ANY($1)", &[&names]).await.map_err(refused)?;
        for table in ["check_runs", "run_marks"] {
            let statement = format!("DELETE FROM {table} WHERE service = ANY($1)");
            transaction.execute(&statement, &[&services]).await.map_err(refused)?;
        }
    }
    if !batch.unregistered.is_empty() {
        let names: Vec<String> = batch.unregistered.iter().map(key).collect();
        transaction.execute("DELETE FROM registrations WHERE name = ANY($1)", &[&names]).await.map_err(refused)?;
    }
    if !batch.registrations.is_empty() {
        let names: Vec<String> = batch.registrations.keys().map(key).collect();
        let list: Vec<_> = batch.registrations.values().collect();
        transaction
            .execute(
                "INSERT INTO registrations (name, registration) SELECT * FROM unnest($1::text[], $2::text[])
                 ON CONFLICT (name) DO UPDATE SET registration = excluded.registration",
                &[&names, &texts("registration", &list)?],
            )
            .await
            .map_err(refused)?;
    }
    if !batch.windows_removed.is_empty() {
        let ids: Vec<String> = batch.windows_removed.iter().map(Uuid::to_string).collect();
        transaction.execute("DELETE FROM windows WHERE id = ANY($1)", &[&ids]).await.map_err(refused)?;
    }
    for (id, (window, hidden)) in &batch.windows {
        transaction
            .execute(
                "INSERT INTO windows (id, end_ms, hidden, maintenance) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (id) DO UPDATE SET end_ms = excluded.end_ms, hidden = excluded.hidden,
                     maintenance = excluded.maintenance",
                &[&id.to_string(), &window.end.timestamp_millis(), hidden, &json("maintenance window", window)?],
            )
            .await
            .map_err(refused)?;
    }
    if !batch.runs.is_empty() {
        // The newest of runs that begin together: one statement must not touch a row twice.
        let runs: BTreeMap<(u64, i64), &CheckRun> =
            batch.runs.iter().map(|run| ((run.service, run.from_ms), run)).collect();
        let list: Vec<&CheckRun> = runs.into_values().collect();
        transaction
            .execute(
                "INSERT INTO check_runs (service, from_ms, to_ms, count, checks)
                 SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::integer[], $5::bytea[])
                 ON CONFLICT (service, from_ms) DO UPDATE SET to_ms = excluded.to_ms, count = excluded.count,
                     checks = excluded.checks",
                &[
                    &column(&list, |run| run.service.cast_signed()),
                    &column(&list, |run| run.from_ms),
                    &column(&list, |run| run.to_ms),
                    &column(&list, |run| i32::try_from(run.count).unwrap_or(i32::MAX)),
                    &column(&list, |run| run.blob.as_slice()),
                ],
            )
            .await
            .map_err(refused)?;
        transaction
            .execute(
                "INSERT INTO run_marks (service, kept_ms)
                 SELECT service, max(kept_ms) FROM unnest($1::bigint[], $2::bigint[]) AS kept (service, kept_ms) GROUP BY service
                 ON CONFLICT (service) DO UPDATE SET kept_ms = greatest(run_marks.kept_ms, excluded.kept_ms)",
                &[&column(&list, |run| run.service.cast_signed()), &column(&list, |run| run.to_ms)],
            )
            .await
            .map_err(refused)?;
    }
    for minute in &batch.minutes {
        transaction
            .execute(
                "INSERT INTO fleet_minutes (at_ms, rollup) VALUES ($1, $2)
                 ON CONFLICT (at_ms) DO UPDATE SET rollup = excluded.rollup",
                &[&minute.at_ms, &json("roll-up", minute)?],
            )
            .await
            .map_err(refused)?;
    }
    if !batch.deliveries.is_empty() {
        let list = &batch.deliveries;
        transaction
            .execute(
                "INSERT INTO deliveries (id, outage_id, at_ms, delivery, alert_id)
                 SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[])
                 ON CONFLICT (id) DO NOTHING",
                &[
                    &column(list, |delivery| delivery.id.clone()),
                    &column(list, |delivery| delivery.outage_id.map(|id| id.to_string())),
                    &column(list, |delivery| delivery.delivered_at.timestamp_millis()),
                    &texts("delivery", list)?,
                    &column(list, |delivery| delivery.alert_id.as_str()),
                ],
            )
            .await
            .map_err(refused)?;
    }
    if !batch.removed.is_empty() {
        let names: Vec<String> = batch.removed.iter().map(key).collect();
        for table in ["service_state", "service_history"] {
            let statement = format!("DELETE FROM {table} WHERE name = ANY($1)");
            transaction.execute(&statement, &[&names]).await.map_err(refused)?;
        }
    }
    if !batch.states.is_empty() {
        let mut columns: (Vec<String>, Vec<String>) = Default::default();
        for (name, state) in &batch.states {
            columns.0.push(key(name));
            columns.1.push(json("state", state)?);
        }
        transaction
            .execute(
                "INSERT INTO service_state (name, state) SELECT * FROM unnest($1::text[], $2::text[])
                 ON CONFLICT (name) DO UPDATE SET state = excluded.state",
                &[&columns.0, &columns.1],
            )
            .await
            .map_err(refused)?;
    }
    if !batch.histories.is_empty() {
        let names: Vec<String> = batch.histories.iter().map(|(name, _, _)| key(name)).collect();
        let rolled: Vec<i64> = batch.histories.iter().map(|(_, _, rolled)| *rolled).collect();
        let texts: Vec<&str> = batch.histories.iter().map(|(_, text, _)| text.as_str()).collect();
        transaction
            .execute(
                "INSERT INTO service_history (name, rolled_ms, history)
                 SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[])
                 ON CONFLICT (name) DO UPDATE SET rolled_ms = excluded.rolled_ms, history = excluded.history",
                &[&names, &rolled, &texts],
            )
            .await
            .map_err(refused)?;
    }
    if !batch.outages.is_empty() {
        let list: Vec<_> = batch.outages.values().collect();
        transaction
            .execute(
                "INSERT INTO outages (id, service, started_ms, ended_ms, critical, outage, severity)
                 SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::boolean[], $6::text[], $7::text[])
                 ON CONFLICT (id) DO UPDATE SET ended_ms = excluded.ended_ms, outage = excluded.outage",
                &[
                    &column(&list, |outage| outage.id.to_string()),
                    &column(&list, |outage| key(&outage.service)),
                    &column(&list, |outage| outage.started.timestamp_millis()),
                    &column(&list, |outage| outage.ended.map(|at| at.timestamp_millis())),
                    &column(&list, |outage| outage.critical),
                    &texts("outage", &list)?,
                    &column(&list, |outage| outage.severity.as_str()),
                ],
            )
            .await
            .map_err(refused)?;
    }
    if !batch.alerts.is_empty() {
        let list: Vec<_> = batch.alerts.values().collect();
        let components = column(&list, |alert| &alert.component);
        let components: Vec<String> = texts("component", &components)?;
        let sequences = column(&list, |alert| i64::try_from(alert.sequence).unwrap_or(i64::MAX));
        let status = |alert: &&Alert| if alert.is_living() { "active" } else { "resolved" };
        transaction
            .execute(
                "INSERT INTO alerts (id, component, status, triggered_ms, resolved_ms, sequence, alert, kind, severity)
                 SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
                     $7::text[], $8::text[], $9::text[])
                 ON CONFLICT (id) DO UPDATE SET status = excluded.status, resolved_ms = excluded.resolved_ms,
                     sequence = excluded.sequence, alert = excluded.alert, severity = excluded.severity",
                &[
                    &column(&list, |alert| alert.id.clone()),
                    &components,
                    &column(&list, status),
                    &column(&list, |alert| alert.triggered_at.timestamp_millis()),
                    &column(&list, |alert| alert.resolved_at.map(|at| at.timestamp_millis())),
                    &sequences,
                    &texts("alert", &list)?,
                    &column(&list, |alert| alert.kind.as_str()),
                    &column(&list, |alert| alert.severity.as_str()),
                ],
            )
            .await
            .map_err(refused)?;
        transaction
            .execute(
                "INSERT INTO sequences (component, sequence)
                 SELECT component, max(sequence) FROM unnest($1::text[], $2::bigint[]) AS told (component, sequence)
                     GROUP BY component
                 ON CONFLICT (component) DO UPDATE SET sequence = greatest(sequences.sequence, excluded.sequence)",
                &[&components, &sequences],
            )
            .await
            .map_err(refused)?;
    }
    if !batch.owed.is_empty() {
        // The order of the outbox is that of the list; one statement must not touch a row twice, so the newest counts.
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        let mut owed: Vec<&Notification> = Vec::with_capacity(batch.owed.len());
        for row in &batch.owed {
            match places.get(row.id.as_str()).and_then(|place| owed.get_mut(*place)) {
                Some(known) => *known = row,
                None => {
                    places.insert(&row.id, owed.len());
                    owed.push(row);
                }
            }
        }
        transaction
            .execute(
                "INSERT INTO outbox (id, notification) SELECT * FROM unnest($1::text[], $2::text[])
                 ON CONFLICT (id) DO UPDATE SET notification = excluded.notification",
                &[&column(&owed, |row| row.id.clone()), &texts("notification", &owed)?],
            )
            .await
            .map_err(refused)?;
    }
    if !batch.settled.is_empty() {
        transaction.execute("DELETE FROM outbox WHERE id = ANY($1)", &[&batch.settled]).await.map_err(refused)?;
    }
    if !batch.dead.is_empty() {
        transaction
            .execute("UPDATE outbox SET dead = true WHERE id = ANY($1)", &[&batch.dead])
            .await
            .map_err(refused)?;
    }
    if !batch.revived.is_empty() {
        let sql = "UPDATE outbox SET dead = false WHERE id = ANY($1)";
        transaction.execute(sql, &[&batch.revived]).await.map_err(refused)?;
    }
    for fact in &batch.facts {
        let kind = fact.kind.as_str();
        match &fact.value {
            Some(value) => {
                let sql = "INSERT INTO facts (kind, name, at_ms, value) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (kind, name) DO UPDATE SET at_ms = excluded.at_ms, value = excluded.value";
                transaction.execute(sql, &[&kind, &fact.name, &fact.at_ms, value]).await
            }
            None => transaction.execute("DELETE FROM facts WHERE kind = $1 AND name = $2", &[&kind, &fact.name]).await,
        }
        .map_err(refused)?;
    }
    if !batch.events.is_empty() {
        transaction
            .execute(
                "INSERT INTO events (sequence, at_ms, event, kind)
                 SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[]) ON CONFLICT (sequence) DO NOTHING",
                &[
                    &column(&batch.events, |event| event.sequence),
                    &column(&batch.events, |event| event.at.timestamp_millis()),
                    &texts("event", &batch.events)?,
                    &column(&batch.events, |event| event.kind.as_str()),
                ],
            )
            .await
            .map_err(refused)?;
        let snapshots = batch.events.iter().filter(|event| event.kind == EventKind::SnapshotUpdated);
        if let Some(newest) = snapshots.map(|event| event.sequence).max() {
            // A picture of the whole fleet is large, and only the newest is of use.
            let sql = "DELETE FROM events WHERE kind = $1 AND sequence < $2";
            let kind = EventKind::SnapshotUpdated.as_str();
            transaction.execute(sql, &[&kind, &newest]).await.map_err(refused)?;
        }
    }
    if !batch.checks.is_empty() {
        let list = &batch.checks;
        transaction
            .execute(
                "INSERT INTO check_log (mark, from_ms, to_ms, count, checks)
                 SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::integer[], $5::bytea[])
                 ON CONFLICT (mark) DO NOTHING",
                &[
                    &column(list, |checks| checks.mark),
                    &column(list, |checks| checks.from_ms),
                    &column(list, |checks| checks.to_ms),
                    &column(list, |checks| i32::try_from(checks.count).unwrap_or(i32::MAX)),
                    &column(list, |checks| checks.blob.as_slice()),
                ],
            )
            .await
            .map_err(refused)?;
    }
    Ok(())
}

/// One column of many rows.
fn column<'a, T, C>(rows: &'a [T], value: impl Fn(&'a T) -> C) -> Vec<C> {
    rows.iter().map(value).collect()
}

fn first_column(rows: &[tokio_postgres::Row]) -> Vec<String> {
    rows.iter().map(|row| row.get(0)).collect()
}

/// Many rows as JSON.
fn texts<T: serde::Serialize>(what: &'static str, rows: &[T]) -> Result<Vec<String>, StoreError> {
    rows.iter().map(|row| json(what, row)).collect()
}

async fn raw(client: &Client, since: Since) -> Result<Raw, tokio_postgres::Error> {
    let list = async |sql: &str, values: &[&(dyn tokio_postgres::types::ToSql + Sync)]| {
        let rows = client.query(sql, values).await?;
        Ok::<Vec<String>, tokio_postgres::Error>(rows.iter().map(|row| row.get(0)).collect())
    };
    let mut events = list("SELECT event FROM events ORDER BY sequence DESC LIMIT $1", &[&(RECENT as i64)]).await?;
    events.reverse();
    let states = client.query("SELECT name, state FROM service_state", &[]).await?;
    let histories = client.query("SELECT name, history, rolled_ms FROM service_history", &[]).await?;
    let sequences = client.query("SELECT component, sequence FROM sequences", &[]).await?;
    let log_mark = client.query_one("SELECT coalesce(max(mark), 0) FROM check_log", &[]).await?.get(0);
    let windows = client.query("SELECT maintenance, hidden FROM windows ORDER BY id", &[]).await?;
    let run_marks = client.query("SELECT service, kept_ms FROM run_marks", &[]).await?;
    Ok(Raw {
        log_mark,
        registrations: list("SELECT registration FROM registrations", &[]).await?,
        windows: windows.iter().map(|row| (row.get(0), row.get(1))).collect(),
        run_marks: run_marks.iter().map(|row| (row.get(0), row.get(1))).collect(),
        states: states.iter().map(|row| (row.get(0), row.get(1))).collect(),
        histories: histories.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect(),
        living: list("SELECT alert FROM alerts WHERE status = 'active' ORDER BY triggered_ms", &[]).await?,
        recent: list(
            "SELECT alert FROM alerts WHERE status = 'resolved' AND resolved_ms >= $1 ORDER BY resolved_ms",
            &[&since.alerts.timestamp_millis()],
        )
        .await?,
        sequences: sequences.iter().map(|row| (row.get(0), row.get(1))).collect(),
        outages: list(
            "SELECT outage FROM outages AS o WHERE ended_ms IS NULL OR ended_ms > $1 OR started_ms =
                 (SELECT max(started_ms) FROM outages WHERE service = o.service) ORDER BY started_ms",
            &[&since.outages.timestamp_millis()],
        )
        .await?,
        last_incident: list("SELECT outage FROM outages WHERE critical ORDER BY started_ms DESC LIMIT 1", &[])
            .await?
            .pop(),
        owed: list("SELECT notification FROM outbox WHERE NOT dead ORDER BY position", &[]).await?,
        events,
    })
}

fn is_tls(error: &tokio_postgres::Error) -> bool {
    // The crate names its kinds in the text only.
    error.to_string().contains("TLS")
}

/// The server's own words where it had some: the crate's say no more than that there was an error.
fn refused(error: tokio_postgres::Error) -> StoreError {
    let words = error.as_db_error().map(|told| told.message().to_owned());
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    match words.or(cause) {
        Some(words) => StoreError::Unavailable(format!("PostgreSQL: {words}").into()),
        None => StoreError::Unavailable(error.into()),
    }
}
