//! Records in an embedded SQLite file: the default, in this process, on a thread of its own.
//!
//! WAL with `synchronous=FULL` on the only writer: a commit survives a power cut. Why not NORMAL for routine checks on a
//! second connection: they are one small row a second, so one sync a second is all they cost.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::rows::{self, Raw, json, key};
use super::{
    AlertFilter, AlertPage, Batch, LogPage, OutageFilter, OutagePage, OutageSums, Overrun, PAGE, Restored, Retention,
    RunHead, Since,
};
use crate::domain::alert::Alert;
use crate::domain::check::name_hash;
use crate::domain::event::{Event, EventKind, RECENT};
use crate::domain::notification::{Delivery, Notification};
use crate::domain::outage::Outage;
use crate::domain::rollup::Rollup;
use crate::store::StoreError;
use crate::store::Timings;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A handle to the thread that owns the database.
#[derive(Debug, Clone)]
pub struct Sqlite {
    jobs: std::sync::mpsc::Sender<Job>,
    /// A second connection, so that long reads hold up no commit; the same one for a database in memory.
    reads: std::sync::mpsc::Sender<Job>,
    in_memory: bool,
    pub(super) timings: Arc<Timings>,
    /// Held for as long as the store is used: nobody else may write to the file.
    _lock: Option<Arc<File>>,
}

/// Schema versions, oldest first; each is applied once, in one transaction with its number.
const MIGRATIONS: [&str; 3] = [
    include_str!("migrations/sqlite_1.sql"),
    include_str!("migrations/sqlite_2.sql"),
    include_str!("migrations/sqlite_3.sql"),
];

impl Sqlite {
    pub(super) async fn open(path: Option<PathBuf>) -> Result<Self, StoreError> {
        let lock = path.as_deref().map(take_hold).transpose()?;
        let jobs = thread("records", path.clone()).await?;
        let reads = match &path {
            Some(_) => thread("records-reader", path.clone()).await?,
            None => jobs.clone(),
        };
        Ok(Self { jobs, reads, in_memory: path.is_none(), timings: Arc::default(), _lock: lock.map(Arc::new) })
    }

    pub(super) fn in_memory(&self) -> bool {
        self.in_memory
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.timings.time(on(&self.jobs, work)).await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.timings.time(on(&self.reads, work)).await
    }

    pub(super) async fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.call(move |connection| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(refused)?;
            write(&transaction, &batch)?;
            transaction.commit().map_err(refused)
        })
        .await
    }

    pub(super) async fn close(&self) {
        let folded = self.call(|connection| {
            let fold = "PRAGMA wal_checkpoint(TRUNCATE)";
            connection.query_row(fold, [], |_| Ok(())).map_err(refused)
        });
        if let Err(error) = folded.await {
            tracing::debug!(%error, "the write-ahead log stays beside the file");
        }
    }

    pub(super) async fn restore(&self, since: Since) -> Result<Restored, StoreError> {
        let raw = self.call(move |connection| raw(connection, since).map_err(refused)).await?;
        raw.read()
    }

    pub(super) async fn check_log(&self, since_ms: i64, after: i64, blobs: i64) -> Result<LogPage, StoreError> {
        self.read(move |connection| {
            let mut query = connection
                .prepare_cached(
                    "SELECT mark, from_ms, checks FROM check_log WHERE mark > ?1 AND to_ms > ?2 ORDER BY mark LIMIT ?3",
                )
                .map_err(refused)?;
            let blobs = query
                .query_map(params![after, since_ms, blobs], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .map_err(refused)?
                .collect::<Result<Vec<(i64, i64, Vec<u8>)>, _>>()
                .map_err(refused)?;
            let next = blobs.last().map(|(mark, _, _)| *mark);
            let checks = blobs.iter().flat_map(|(mark, from_ms, blob)| rows::decode(*mark, *from_ms, blob)).collect();
            Ok(LogPage { checks, next })
        })
        .await
    }

    pub(super) async fn log_overrun(&self, after: i64, bytes: i64, since_ms: i64) -> Result<Overrun, StoreError> {
        self.read(move |connection| {
            // Lengths are in the rows' heads: the blobs themselves are not read.
            let sql = "SELECT coalesce(max(mark), 0), coalesce(sum(count), 0), coalesce(min(from_ms), 0),
                     coalesce(max(to_ms), 0)
                 FROM (SELECT mark, from_ms, to_ms, count, sum(length(checks)) OVER (ORDER BY mark DESC) AS newer
                     FROM check_log WHERE mark > ?1)
                 WHERE newer > ?2 OR to_ms < ?3";
            let overrun = connection.query_row(sql, [after, bytes, since_ms], |row| {
                let checks = row.get::<_, i64>(1)?.unsigned_abs();
                Ok(Overrun { through: row.get(0)?, checks, from_ms: row.get(2)?, to_ms: row.get(3)? })
            });
            overrun.map_err(refused)
        })
        .await
    }

    pub(super) async fn outages(
        &self,
        filter: OutageFilter,
        skip: usize,
        limit: usize,
    ) -> Result<OutagePage, StoreError> {
        self.read(move |connection| {
            let (condition, values) = condition(&filter);
            let values = rusqlite::params_from_iter(values.iter());
            let count = format!("SELECT count(*) FROM outages WHERE {condition}");
            let total: i64 = connection.query_row(&count, values.clone(), |row| row.get(0)).map_err(refused)?;
            let page = format!(
                "SELECT outage FROM outages WHERE {condition} ORDER BY started_ms DESC, id DESC LIMIT {limit} OFFSET {skip}"
            );
            let texts = texts(connection, &page, values).map_err(refused)?;
            Ok(OutagePage { outages: rows::list("outage", &texts)?, total: total.unsigned_abs() })
        })
        .await
    }

    pub(super) async fn outage_sums(&self, filter: OutageFilter) -> Result<BTreeMap<String, OutageSums>, StoreError> {
        self.read(move |connection| {
            let (condition, values) = condition(&filter);
            let sums = format!(
                "SELECT severity, count(*), sum(ended_ms IS NULL), coalesce(sum(ended_ms - started_ms
                     - coalesce(json_extract(outage, '$.maintenance_ms'), 0)), 0)
                 FROM outages WHERE {condition} GROUP BY severity"
            );
            let mut query = connection.prepare_cached(&sums).map_err(refused)?;
            query
                .query_map(rusqlite::params_from_iter(values.iter()), |row| {
                    let (total, open): (i64, i64) = (row.get(1)?, row.get(2)?);
                    let sums =
                        OutageSums { total: total.unsigned_abs(), open: open.unsigned_abs(), closed_ms: row.get(3)? };
                    Ok((row.get(0)?, sums))
                })
                .and_then(Iterator::collect)
                .map_err(refused)
        })
        .await
    }

    pub(super) async fn outage_starts(&self, after: String, limit: i64) -> Result<Vec<(String, i64)>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT id, started_ms FROM outages WHERE id > ?1 ORDER BY id LIMIT ?2";
            let mut query = connection.prepare_cached(sql).map_err(refused)?;
            let rows = query.query_map(params![after, limit], |row| Ok((row.get(0)?, row.get(1)?)));
            rows.and_then(Iterator::collect).map_err(refused)
        })
        .await
    }

    pub(super) async fn outage(&self, id: Uuid) -> Result<Option<Outage>, StoreError> {
        self.read(move |connection| {
            let found: Option<String> = connection
                .query_row("SELECT outage FROM outages WHERE id = ?1", [id.to_string()], |row| row.get(0))
                .optional()
                .map_err(refused)?;
            found.map(|text| rows::parse("outage", &text)).transpose()
        })
        .await
    }

    pub(super) async fn deliveries(&self, outages: Vec<String>) -> Result<Vec<Delivery>, StoreError> {
        self.read(move |connection| {
            let list = json("outage ids", &outages)?;
            let texts = texts(
                connection,
                "SELECT delivery FROM deliveries WHERE outage_id IN (SELECT value FROM json_each(?1)) ORDER BY at_ms",
                [list],
            )
            .map_err(refused)?;
            rows::list("delivery", &texts)
        })
        .await
    }

    pub(super) async fn alerts(&self, filter: AlertFilter, skip: usize, limit: usize) -> Result<AlertPage, StoreError> {
        self.read(move |connection| {
            let asked = rows::AskedAlerts::of(&filter)?;
            let values = params![asked.component, asked.severity, asked.kind, asked.status, asked.from, asked.to];
            let asked = "(?1 IS NULL OR component = ?1) AND (?2 IS NULL OR severity = ?2) AND (?3 IS NULL OR kind = ?3)
                AND (?4 IS NULL OR status = ?4) AND (?5 IS NULL OR triggered_ms >= ?5)
                AND (?6 IS NULL OR triggered_ms <= ?6)";
            let count = format!("SELECT count(*) FROM alerts WHERE {asked}");
            let total: i64 = connection.query_row(&count, values, |row| row.get(0)).map_err(refused)?;
            let page = format!(
                "SELECT alert FROM alerts WHERE {asked} ORDER BY triggered_ms DESC, id DESC LIMIT {limit} OFFSET {skip}"
            );
            let texts = texts(connection, &page, values).map_err(refused)?;
            Ok(AlertPage { alerts: rows::list("alert", &texts)?, total: total.unsigned_abs() })
        })
        .await
    }

    pub(super) async fn alert(&self, id: String) -> Result<Option<Alert>, StoreError> {
        self.read(move |connection| {
            let found = texts(connection, "SELECT alert FROM alerts WHERE id = ?1", [&id]).map_err(refused)?;
            found.first().map(|text| rows::parse("alert", text)).transpose()
        })
        .await
    }

    pub(super) async fn deliveries_about(&self, alerts: Vec<String>) -> Result<Vec<Delivery>, StoreError> {
        self.read(move |connection| {
            let list = json("alert ids", &alerts)?;
            let sql =
                "SELECT delivery FROM deliveries WHERE alert_id IN (SELECT value FROM json_each(?1)) ORDER BY at_ms";
            rows::list("delivery", &texts(connection, sql, [list]).map_err(refused)?)
        })
        .await
    }

    pub(super) async fn dead_letters(&self, skip: usize, limit: usize) -> Result<(Vec<Notification>, u64), StoreError> {
        self.read(move |connection| {
            let count = "SELECT count(*) FROM outbox WHERE dead";
            let total: i64 = connection.query_row(count, [], |row| row.get(0)).map_err(refused)?;
            let page =
                format!("SELECT notification FROM outbox WHERE dead ORDER BY position LIMIT {limit} OFFSET {skip}");
            let texts = texts(connection, &page, []).map_err(refused)?;
            Ok((rows::list("notification", &texts)?, total.unsigned_abs()))
        })
        .await
    }

    pub(super) async fn events_after(&self, sequence: i64, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.read(move |connection| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let sql = "SELECT event FROM events WHERE sequence > ?1 ORDER BY sequence LIMIT ?2";
            rows::list("event", &texts(connection, sql, params![sequence, limit]).map_err(refused)?)
        })
        .await
    }

    pub(super) async fn facts(&self, kind: &'static str) -> Result<Vec<(String, i64, String)>, StoreError> {
        self.read(move |connection| {
            let mut query = connection
                .prepare_cached("SELECT name, at_ms, value FROM facts WHERE kind = ?1 ORDER BY at_ms, name")
                .map_err(refused)?;
            query
                .query_map([kind], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .and_then(Iterator::collect)
                .map_err(refused)
        })
        .await
    }

    pub(super) async fn fact(&self, kind: &'static str, name: String) -> Result<Option<String>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT value FROM facts WHERE kind = ?1 AND name = ?2";
            connection.query_row(sql, params![kind, name], |row| row.get(0)).optional().map_err(refused)
        })
        .await
    }

    pub(super) async fn runs(&self, service: u64, from_ms: i64, to_ms: i64) -> Result<Vec<RunHead>, StoreError> {
        self.read(move |connection| {
            // A run that began before the range may reach into it: the one before the first is looked at too.
            let mut query = connection
                .prepare_cached(
                    "SELECT from_ms, to_ms, count FROM check_runs WHERE service = ?1 AND from_ms <= ?3
                     AND from_ms >= coalesce((SELECT max(from_ms) FROM check_runs WHERE service = ?1 AND from_ms < ?2), ?2)
                     AND to_ms >= ?2 ORDER BY from_ms DESC",
                )
                .map_err(refused)?;
            query
                .query_map(params![service.cast_signed(), from_ms, to_ms], |row| {
                    let count: i64 = row.get(2)?;
                    Ok(RunHead {
                        from_ms: row.get(0)?,
                        to_ms: row.get(1)?,
                        count: usize::try_from(count).unwrap_or(0),
                    })
                })
                .and_then(Iterator::collect)
                .map_err(refused)
        })
        .await
    }

    pub(super) async fn run_blobs(
        &self,
        service: u64,
        first_ms: i64,
        last_ms: i64,
    ) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
        self.read(move |connection| {
            let mut query = connection
                .prepare_cached(
                    "SELECT from_ms, checks FROM check_runs WHERE service = ?1 AND from_ms BETWEEN ?2 AND ?3
                     ORDER BY from_ms",
                )
                .map_err(refused)?;
            query
                .query_map(params![service.cast_signed(), first_ms, last_ms], |row| Ok((row.get(0)?, row.get(1)?)))
                .and_then(Iterator::collect)
                .map_err(refused)
        })
        .await
    }

    pub(super) async fn minutes(&self, from_ms: i64, to_ms: i64, limit: usize) -> Result<Vec<Rollup>, StoreError> {
        self.read(move |connection| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let mut texts = texts(
                connection,
                "SELECT rollup FROM fleet_minutes WHERE at_ms >= ?1 AND at_ms <= ?2 ORDER BY at_ms DESC LIMIT ?3",
                params![from_ms, to_ms, limit],
            )
            .map_err(refused)?;
            texts.reverse();
            rows::list("roll-up", &texts)
        })
        .await
    }

    pub(super) async fn clean_up(&self, retention: Retention) -> Result<bool, StoreError> {
        self.call(move |connection| {
            let log = "DELETE FROM check_log WHERE mark IN
                 (SELECT mark FROM check_log WHERE to_ms < ?1 AND mark <= ?2 LIMIT ?3)";
            let asked = params![retention.log_before.timestamp_millis(), retention.log_through, PAGE];
            let mut deleted = connection.execute(log, asked).map_err(refused)?;
            let checks_before = retention.checks_before.timestamp_millis();
            for (statement, before) in [
                (
                    // Written in order of time, give or take a day: the first are the oldest.
                    "DELETE FROM check_runs WHERE to_ms < ?1 AND place IN
                         (SELECT place FROM check_runs ORDER BY place LIMIT ?2)",
                    checks_before,
                ),
                (
                    "DELETE FROM fleet_minutes WHERE at_ms IN (SELECT at_ms FROM fleet_minutes WHERE at_ms < ?1 LIMIT ?2)",
                    checks_before,
                ),
                (
                    // The newest stays: numbers go on from it.
                    "DELETE FROM events WHERE sequence IN (SELECT sequence FROM events
                         WHERE at_ms < ?1 AND sequence < (SELECT max(sequence) FROM events) LIMIT ?2)",
                    checks_before,
                ),
                (
                    "DELETE FROM facts WHERE kind = 'seen' AND name IN
                         (SELECT name FROM facts WHERE kind = 'seen' AND at_ms < ?1 LIMIT ?2)",
                    checks_before,
                ),
            ] {
                deleted += connection.execute(statement, params![before, PAGE]).map_err(refused)?;
            }
            if let Some(before) = retention.outages_before {
                let before = before.timestamp_millis();
                for statement in [
                    "DELETE FROM facts WHERE kind = 'remedy' AND name IN
                         (SELECT name FROM facts WHERE kind = 'remedy' AND at_ms < ?1 LIMIT ?2)",
                    "DELETE FROM outages WHERE id IN (SELECT id FROM outages WHERE ended_ms < ?1 LIMIT ?2)",
                    "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE resolved_ms < ?1 LIMIT ?2)",
                    "DELETE FROM windows WHERE id IN (SELECT id FROM windows WHERE end_ms < ?1 LIMIT ?2)",
                    "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries WHERE at_ms < ?1 LIMIT ?2)",
                ] {
                    deleted += connection.execute(statement, params![before, PAGE]).map_err(refused)?;
                }
            }
            if deleted == 0 {
                // Stepped to its end: one step gives back one page.
                let mut vacuum = connection.prepare("PRAGMA incremental_vacuum(2000)").map_err(refused)?;
                let mut pages = vacuum.query([]).map_err(refused)?;
                while pages.next().map_err(refused)?.is_some() {}
                connection.execute_batch("PRAGMA optimize").map_err(refused)?;
            }
            Ok(deleted > 0)
        })
        .await
    }
}

/// Opens the database on a thread of its own.
async fn thread(name: &str, path: Option<PathBuf>) -> Result<std::sync::mpsc::Sender<Job>, StoreError> {
    let (jobs, inbox) = std::sync::mpsc::channel::<Job>();
    let (opened, ready) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || match connect(path.as_deref()) {
            Ok(mut connection) => {
                let _ = opened.send(Ok(()));
                for job in inbox {
                    job(&mut connection);
                }
            }
            Err(error) => {
                let _ = opened.send(Err(error));
            }
        })
        .map_err(|error| StoreError::Unavailable(error.into()))?;
    ready.await.map_err(|error| StoreError::Unavailable(error.into()))??;
    Ok(jobs)
}

/// Does `work` on the thread that reads `jobs`.
async fn on<T: Send + 'static>(
    jobs: &std::sync::mpsc::Sender<Job>,
    work: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let (answer, result) = oneshot::channel();
    let job: Job = Box::new(move |connection| {
        let _ = answer.send(work(connection));
    });
    jobs.send(job).map_err(|_| StoreError::Unavailable("the records thread has ended".into()))?;
    result.await.map_err(|error| StoreError::Unavailable(error.into()))?
}

/// The first column of every row.
fn texts(connection: &Connection, sql: &str, values: impl rusqlite::Params) -> rusqlite::Result<Vec<String>> {
    connection.prepare_cached(sql)?.query_map(values, |row| row.get(0))?.collect()
}

/// A filter as SQL, with its values in order.
fn condition(filter: &OutageFilter) -> (String, Vec<rusqlite::types::Value>) {
    let mut parts = vec!["1".to_owned()];
    let mut values: Vec<rusqlite::types::Value> = Vec::new();
    let mut add = |part: &str, value: rusqlite::types::Value| {
        values.push(value);
        parts.push(format!("{part} ?{}", values.len()));
    };
    if let Some(service) = &filter.service {
        add("service =", key(service).into());
    }
    if let Some(severity) = filter.severity {
        add("severity =", severity.as_str().to_owned().into());
    }
    if let Some(from) = filter.from {
        add("started_ms >=", from.timestamp_millis().into());
    }
    if let Some(to) = filter.to {
        add("started_ms <=", to.timestamp_millis().into());
    }
    match filter.open {
        Some(true) => parts.push("ended_ms IS NULL".to_owned()),
        Some(false) => parts.push("ended_ms IS NOT NULL".to_owned()),
        None => {}
    }
    (parts.join(" AND "), values)
}

/// A lock beside the file that ends with the process, however it ends.
fn take_hold(path: &Path) -> Result<File, StoreError> {
    let unavailable =
        |error: std::io::Error| StoreError::Unavailable(format!("cannot open {}: {error}", path.display()).into());
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(unavailable)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = File::options().create(true).truncate(false).write(true).open(&name).map_err(unavailable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse { place: path.display().to_string() }),
        Err(std::fs::TryLockError::Error(error)) => Err(unavailable(error)),
    }
}

fn connect(path: Option<&Path>) -> Result<Connection, StoreError> {
    if let Some(path) = path {
        // Registrations may hold secrets: only the owner reads the records. SQLite's files beside it follow.
        match File::options().create_new(true).write(true).mode(0o600).open(path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Unavailable(format!("cannot open {}: {error}", path.display()).into()));
            }
            _ => {}
        }
    }
    let mut connection = match path {
        Some(path) => Connection::open(path),
        None => Connection::open_in_memory(),
    }
    .map_err(refused)?;
    connection
        .execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA busy_timeout = 5000; PRAGMA temp_store = MEMORY; PRAGMA journal_size_limit = 67108864;",
        )
        .map_err(refused)?;
    let known = MIGRATIONS.len() as i64;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(refused)?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for (version, migration) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        let transaction = connection.transaction().map_err(refused)?;
        transaction.execute_batch(migration).map_err(refused)?;
        transaction.pragma_update(None, "user_version", version).map_err(refused)?;
        transaction.commit().map_err(refused)?;
    }
    Ok(connection)
}

fn write(transaction: &Transaction<'_>, batch: &Batch) -> Result<(), StoreError> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| -> Result<(), StoreError> {
        transaction.prepare_cached(sql).and_then(|mut statement| statement.execute(values)).map_err(refused)?;
        Ok(())
    };
    for name in &batch.erased {
        let service = name_hash(name).cast_signed();
        run("DELETE FROM outages WHERE service = ?1", &[&key(name)])?;
        run("DELETE FROM check_runs WHERE service = ?1", &[&service])?;
        run("DELETE FROM run_marks WHERE service = ?1", &[&service])?;
    }
    for name in &batch.unregistered {
        run("DELETE FROM registrations WHERE name = ?1", &[&key(name)])?;
    }
    for (name, registration) in &batch.registrations {
        run(
            "INSERT OR REPLACE INTO registrations (name, registration) VALUES (?1, ?2)",
            &[&key(name), &json("registration", registration)?],
        )?;
    }
    for id in &batch.windows_removed {
        run("DELETE FROM windows WHERE id = ?1", &[&id.to_string()])?;
    }
    for (id, (window, hidden)) in &batch.windows {
        run(
            "INSERT OR REPLACE INTO windows (id, end_ms, hidden, maintenance) VALUES (?1, ?2, ?3, ?4)",
            &[&id.to_string(), &window.end.timestamp_millis(), hidden, &json("maintenance window", window)?],
        )?;
    }
    for checks in &batch.runs {
        let place = [&checks.service.cast_signed() as &dyn rusqlite::ToSql, &checks.from_ms];
        run("DELETE FROM check_runs WHERE service = ?1 AND from_ms = ?2", &place)?;
        run(
            "INSERT INTO check_runs (service, from_ms, to_ms, count, checks) VALUES (?1, ?2, ?3, ?4, ?5)",
            &[&checks.service.cast_signed(), &checks.from_ms, &checks.to_ms, &(checks.count as i64), &checks.blob],
        )?;
        run(
            "INSERT INTO run_marks (service, kept_ms) VALUES (?1, ?2)
             ON CONFLICT (service) DO UPDATE SET kept_ms = max(kept_ms, excluded.kept_ms)",
            &[&checks.service.cast_signed(), &checks.to_ms],
        )?;
    }
    for minute in &batch.minutes {
        run(
            "INSERT OR REPLACE INTO fleet_minutes (at_ms, rollup) VALUES (?1, ?2)",
            &[&minute.at_ms, &json("roll-up", minute)?],
        )?;
    }
    for delivery in &batch.deliveries {
        run(
            "INSERT OR IGNORE INTO deliveries (id, outage_id, at_ms, delivery, alert_id) VALUES (?1, ?2, ?3, ?4, ?5)",
            &[
                &delivery.id,
                &delivery.outage_id.map(|id| id.to_string()),
                &delivery.delivered_at.timestamp_millis(),
                &json("delivery", delivery)?,
                &delivery.alert_id,
            ],
        )?;
    }
    for name in &batch.removed {
        run("DELETE FROM service_state WHERE name = ?1", &[&key(name)])?;
        run("DELETE FROM service_history WHERE name = ?1", &[&key(name)])?;
    }
    for (name, state) in &batch.states {
        run(
            "INSERT OR REPLACE INTO service_state (name, state) VALUES (?1, ?2)",
            &[&key(name), &json("state", state)?],
        )?;
    }
    for (name, history, rolled_ms) in &batch.histories {
        run(
            "INSERT OR REPLACE INTO service_history (name, rolled_ms, history) VALUES (?1, ?2, ?3)",
            &[&key(name), rolled_ms, history],
        )?;
    }
    for outage in batch.outages.values() {
        run(
            "INSERT OR REPLACE INTO outages (id, service, started_ms, ended_ms, critical, outage, severity)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            &[
                &outage.id.to_string(),
                &key(&outage.service),
                &outage.started.timestamp_millis(),
                &outage.ended.map(|at| at.timestamp_millis()),
                &outage.critical,
                &json("outage", outage)?,
                &outage.severity.as_str(),
            ],
        )?;
    }
    for alert in batch.alerts.values() {
        let component = json("component", &alert.component)?;
        let sequence = i64::try_from(alert.sequence).unwrap_or(i64::MAX);
        run(
            "INSERT OR REPLACE INTO alerts
                 (id, component, status, triggered_ms, resolved_ms, sequence, alert, kind, severity)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            &[
                &alert.id,
                &component,
                &(if alert.is_living() { "active" } else { "resolved" }),
                &alert.triggered_at.timestamp_millis(),
                &alert.resolved_at.map(|at| at.timestamp_millis()),
                &sequence,
                &json("alert", alert)?,
                &alert.kind.as_str(),
                &alert.severity.as_str(),
            ],
        )?;
        run(
            "INSERT INTO sequences (component, sequence) VALUES (?1, ?2)
             ON CONFLICT (component) DO UPDATE SET sequence = max(sequence, excluded.sequence)",
            &[&component, &sequence],
        )?;
    }
    for notification in &batch.owed {
        run(
            "INSERT INTO outbox (id, notification) VALUES (?1, ?2)
             ON CONFLICT (id) DO UPDATE SET notification = excluded.notification",
            &[&notification.id, &json("notification", notification)?],
        )?;
    }
    for id in &batch.settled {
        run("DELETE FROM outbox WHERE id = ?1", &[id])?;
    }
    for id in &batch.dead {
        run("UPDATE outbox SET dead = 1 WHERE id = ?1", &[id])?;
    }
    for id in &batch.revived {
        run("UPDATE outbox SET dead = 0 WHERE id = ?1", &[id])?;
    }
    for fact in &batch.facts {
        let kind = fact.kind.as_str();
        match &fact.value {
            Some(value) => run(
                "INSERT OR REPLACE INTO facts (kind, name, at_ms, value) VALUES (?1, ?2, ?3, ?4)",
                &[&kind, &fact.name, &fact.at_ms, value],
            )?,
            None => run("DELETE FROM facts WHERE kind = ?1 AND name = ?2", &[&kind, &fact.name])?,
        }
    }
    for event in &batch.events {
        run(
            "INSERT OR REPLACE INTO events (sequence, at_ms, event, kind) VALUES (?1, ?2, ?3, ?4)",
            &[&event.sequence, &event.at.timestamp_millis(), &json("event", event)?, &event.kind.as_str()],
        )?;
        if event.kind == EventKind::SnapshotUpdated {
            // A picture of the whole fleet is large, and only the newest is of use.
            run("DELETE FROM events WHERE kind = ?1 AND sequence < ?2", &[&event.kind.as_str(), &event.sequence])?;
        }
    }
    for checks in &batch.checks {
        run(
            "INSERT OR IGNORE INTO check_log (mark, from_ms, to_ms, count, checks) VALUES (?1, ?2, ?3, ?4, ?5)",
            &[&checks.mark, &checks.from_ms, &checks.to_ms, &(checks.count as i64), &checks.blob],
        )?;
    }
    Ok(())
}

fn raw(connection: &Connection, since: Since) -> rusqlite::Result<Raw> {
    let texts = |sql: &str, values: &[&dyn rusqlite::ToSql]| -> rusqlite::Result<Vec<String>> {
        connection.prepare(sql)?.query_map(values, |row| row.get(0))?.collect()
    };
    let mut events = texts("SELECT event FROM events ORDER BY sequence DESC LIMIT ?1", &[&(RECENT as i64)])?;
    events.reverse();
    let pairs = |sql: &str| -> rusqlite::Result<Vec<(i64, i64)>> {
        connection.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    Ok(Raw {
        registrations: texts("SELECT registration FROM registrations", &[])?,
        windows: connection
            .prepare("SELECT maintenance, hidden FROM windows ORDER BY id")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?,
        run_marks: pairs("SELECT service, kept_ms FROM run_marks")?,
        states: connection
            .prepare("SELECT name, state FROM service_state")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?,
        histories: connection
            .prepare("SELECT name, history, rolled_ms FROM service_history")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?,
        living: texts("SELECT alert FROM alerts WHERE status = 'active' ORDER BY triggered_ms", &[])?,
        recent: texts(
            "SELECT alert FROM alerts WHERE status = 'resolved' AND resolved_ms >= ?1 ORDER BY resolved_ms",
            &[&since.alerts.timestamp_millis()],
        )?,
        sequences: connection
            .prepare("SELECT component, sequence FROM sequences")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?,
        outages: texts(
            "SELECT outage FROM outages AS o WHERE ended_ms IS NULL OR ended_ms > ?1 OR started_ms =
                 (SELECT max(started_ms) FROM outages WHERE service = o.service) ORDER BY started_ms",
            &[&since.outages.timestamp_millis()],
        )?,
        last_incident: connection
            .query_row("SELECT outage FROM outages WHERE critical ORDER BY started_ms DESC LIMIT 1", [], |row| {
                row.get(0)
            })
            .optional()?,
        log_mark: connection.query_row("SELECT coalesce(max(mark), 0) FROM check_log", [], |row| row.get(0))?,
        owed: texts("SELECT notification FROM outbox WHERE dead = 0 ORDER BY position", &[])?,
        events,
    })
}

fn refused(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged(error.into()),
        _ => StoreError::Unavailable(error.into()),
    }
}
