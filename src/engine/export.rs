//! Brings checks, outages and maintenance windows to Elasticsearch (CONTRACT.md 17.2): a projection of the records that
//! can be repeated at any time. What is confirmed document by document is settled, everything else stays owed.
//!
//! Checks are read from the check log, behind a cursor that moves only past pages that are settled; the log keeps what is
//! not. A change of an outage is owed by a row of its own, written with the change. Windows are compared with what was
//! sent of them. Probing never notices: nobody waits for this part, and it writes its own rows.
//!
//! Why not on the calendar: a round may take longer than its period, and one that fails is tried again sooner.

mod lanes;
mod sent;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::lanes::Work;
use self::sent::Sent;
use super::commit::Transition;
use super::{Engine, held};
use crate::domain::check::{Check, check_id};
use crate::domain::outage::Outage;
use crate::domain::time::{from_ms, span};
use crate::export::documents::{Index, Maker};
use crate::export::{Elasticsearch, ExportError};
use crate::store::records::{Batch, Fact, FactKind, Retention};
use crate::store::{StoreError, Timings};

/// First and longest pause after a round that failed: our choice.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What a stop waits for the last round: our choice.
const LAST_ROUND: Duration = Duration::from_secs(5);
/// Refused documents that are kept: our choice, some 10 MB. Beyond it the oldest are forgotten, and counted.
const MOST_REFUSED: usize = 10_000;
/// Late by this many intervals is worth a word in `/health`: our choice.
const LATE_INTERVALS: u32 = 3;
/// And by no less than this: our choice, a minute.
const LATE_AT_LEAST: Duration = Duration::from_secs(60);
/// Name of the cursor among the marks.
const CURSOR: &str = "export.cursor";
/// Outages that are owed in one go when the export is first switched on.
const PAGE: usize = 500;

/// A version of an outage that is to be exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwedOutage {
    pub outage: Uuid,
    /// Unix ms; 0: what is to be sent is in the records.
    pub started_ms: i64,
    pub version: i64,
}

impl OwedOutage {
    fn name(outage: Uuid, version: i64) -> String {
        format!("{outage}/{version}")
    }

    pub(super) fn fact(&self) -> Fact {
        Fact {
            kind: FactKind::Owed,
            name: Self::name(self.outage, self.version),
            at_ms: self.version,
            value: Some(self.started_ms.to_string()),
        }
    }
}

/// What is owed of one outage.
#[derive(Debug, Default, Clone)]
struct Owed {
    started_ms: i64,
    versions: Vec<i64>,
}

/// A document the server will not have.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Refusal {
    pub index: String,
    pub status: u16,
    pub error: String,
    pub delete: bool,
    pub document: Option<String>,
}

/// A refused document as it is shown.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub id: String,
    pub at: DateTime<Utc>,
    pub refusal: Refusal,
}

/// How far the export of checks has got, as it is stored.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Cursor {
    mark: i64,
    /// Time of the first check that was exported, unix ms; 0 before that.
    began_ms: i64,
}

/// What `/health` says of the export.
#[derive(Debug, Clone)]
pub struct ExportHealth {
    /// `off`, `pending`, `connected` or `unavailable`.
    pub state: &'static str,
    /// Age of the oldest record not sent.
    pub lag: Option<Duration>,
    pub dead_letters: usize,
    pub problem: Option<String>,
}

/// What came of the latest round.
#[derive(Debug, Clone, Default)]
enum Latest {
    #[default]
    None,
    Done,
    Failed(String),
}

/// The export, and what it owes.
#[derive(Debug)]
pub struct Exporter {
    target: Option<Elasticsearch>,
    /// Number of the newest version of an outage.
    version: AtomicI64,
    owed: Mutex<BTreeMap<Uuid, Owed>>,
    /// Outages whose change is being committed.
    coming: Mutex<BTreeSet<Uuid>>,
    /// What was there before the export was switched on is owed.
    begun: AtomicBool,
    /// What the log holds up to this mark is settled.
    cursor: AtomicI64,
    /// Time of the oldest check that is not, unix ms.
    oldest_ms: AtomicI64,
    sent: Mutex<Sent>,
    latest: Mutex<Latest>,
    /// Ids of refused documents that are to be sent again.
    again: Mutex<BTreeSet<String>>,
    wake: Notify,
    /// Checks in the log that are not settled.
    waiting: AtomicI64,
    /// Of bulk requests.
    pub timings: Timings,
    work: tokio::sync::Mutex<Work>,
    /// The log is to be looked at: more may wait in it than may.
    is_crowded: AtomicBool,
}

impl Exporter {
    pub(super) fn new(target: Option<Elasticsearch>) -> Self {
        Self {
            target,
            version: AtomicI64::new(0),
            owed: Mutex::default(),
            coming: Mutex::default(),
            begun: AtomicBool::new(false),
            cursor: AtomicI64::new(0),
            oldest_ms: AtomicI64::new(0),
            sent: Mutex::default(),
            latest: Mutex::default(),
            again: Mutex::default(),
            wake: Notify::new(),
            waiting: AtomicI64::new(0),
            timings: Timings::default(),
            work: tokio::sync::Mutex::default(),
            is_crowded: AtomicBool::new(false),
        }
    }

    pub fn is_on(&self) -> bool {
        self.target.is_some()
    }

    /// A check is on its way into the log.
    pub(super) fn note_check(&self, service: u64, at_ms: i64) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        held(&self.sent).comes(service, at_ms);
    }

    /// Checks from `from_ms` to `to_ms` were given up before they came into the log.
    pub(super) fn lose(&self, from_ms: i64, to_ms: i64) {
        held(&self.sent).lose(from_ms, to_ms);
    }

    /// Checks and outages that are owed.
    pub fn depth(&self) -> usize {
        usize::try_from(self.waiting.load(Ordering::Relaxed)).unwrap_or(0) + held(&self.owed).len()
    }

    fn next_version(&self, now: DateTime<Utc>) -> i64 {
        let now_ms = now.timestamp_millis();
        let before = self.version.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(now_ms.max(last + 1)));
        before.map_or(now_ms, |last| now_ms.max(last + 1))
    }

    /// Notes with a transition which outages it changes, so that they are owed as it is committed.
    pub(super) fn note(&self, transition: &mut Transition, now: DateTime<Utc>) {
        if !self.is_on() {
            return;
        }
        let changed = transition.outages.iter().map(|outage| (outage.id, outage.started.timestamp_millis()));
        let told = transition.beside.deliveries.iter().filter_map(|delivery| Some((delivery.outage_id?, 0)));
        let changed: Vec<(Uuid, i64)> = changed.chain(told).collect();
        held(&self.coming).extend(changed.iter().map(|(outage, _)| *outage));
        for (outage, started_ms) in changed {
            if transition.exports.iter().all(|known| known.outage != outage) {
                transition.exports.push(OwedOutage { outage, started_ms, version: self.next_version(now) });
            }
        }
    }

    /// What is owed of an outage that is erased with its service.
    pub(super) fn erased(&self, outage: &Outage, now: DateTime<Utc>) -> Option<OwedOutage> {
        let started_ms = outage.started.timestamp_millis();
        self.is_on().then(|| OwedOutage { outage: outage.id, started_ms, version: self.next_version(now) })
    }

    /// What was committed is owed.
    pub(super) fn owe(&self, exports: &[OwedOutage]) {
        if exports.is_empty() {
            return;
        }
        let (mut owed, mut coming) = (held(&self.owed), held(&self.coming));
        for export in exports {
            coming.remove(&export.outage);
            let known = owed.entry(export.outage).or_default();
            known.started_ms = known.started_ms.max(export.started_ms);
            known.versions.push(export.version);
        }
    }

    /// There may be something to do: settings have changed, or something is to be sent again.
    pub(super) fn hurry(&self) {
        self.wake.notify_one();
    }

    /// Whether this check of a service is with the far side.
    pub fn has_sent_check(&self, service: u64, check: &Check) -> bool {
        self.is_on() && held(&self.sent).has_check(service, check.at_ms, &check_id(service, check))
    }

    /// Whether this outage, as it is now, is with the far side.
    pub fn has_sent_outage(&self, id: Uuid) -> bool {
        self.begun.load(Ordering::Relaxed)
            && !held(&self.coming).contains(&id)
            && !held(&self.owed).contains_key(&id)
            && !held(&self.sent).is_refused(&id.to_string())
    }

    fn note_latest(&self, latest: Latest) {
        let before = std::mem::replace(&mut *held(&self.latest), latest.clone());
        match (before, latest) {
            (Latest::Failed(_), Latest::Done) => tracing::info!("Elasticsearch takes documents again"),
            (Latest::None | Latest::Done, Latest::Failed(error)) => {
                tracing::warn!(%error, "documents wait for Elasticsearch");
            }
            _ => {}
        }
    }

    /// Age of the oldest record not sent; `newest`: the newest mark of the log.
    fn lag(&self, newest: i64, now: DateTime<Utc>) -> Duration {
        let checks = (newest > self.cursor.load(Ordering::Relaxed)).then(|| self.oldest_ms.load(Ordering::Relaxed));
        let outages = held(&self.owed).values().filter_map(|owed| owed.versions.first().copied()).min();
        let oldest = checks.into_iter().chain(outages).filter(|at| *at > 0).min();
        oldest.map_or(Duration::ZERO, |at| span(from_ms(at), now))
    }
}

impl Engine {
    /// Takes up where the last run ended.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(super) async fn restore_export(&self) -> Result<(), StoreError> {
        let exporter = &self.exporter;
        if !exporter.is_on() {
            return Ok(());
        }
        for fact in self.records.facts(FactKind::Owed).await? {
            let started_ms = fact.value.as_deref().and_then(|value| value.parse().ok()).unwrap_or(0);
            if let Some(outage) = fact.name.split('/').next().and_then(|id| Uuid::parse_str(id).ok()) {
                exporter.owe(&[OwedOutage { outage, started_ms, version: fact.at_ms }]);
                exporter.version.fetch_max(fact.at_ms, Ordering::Relaxed);
            }
        }
        for fact in self.records.facts(FactKind::Refused).await? {
            held(&exporter.sent).refuse(&fact.name, fact.at_ms);
        }
        let mut work = exporter.work.lock().await;
        for fact in self.records.facts(FactKind::Exported).await? {
            let shown = fact.value.as_deref().and_then(|value| serde_json::from_str(value).ok());
            if let (Ok(id), Some(shown)) = (Uuid::parse_str(&fact.name), shown) {
                work.windows.insert(id, shown);
            }
        }
        let cursor = self.records.fact(FactKind::Mark, CURSOR).await?;
        if let Some(cursor) = cursor.as_deref().and_then(|text| serde_json::from_str::<Cursor>(text).ok()) {
            exporter.begun.store(true, Ordering::Relaxed);
            exporter.cursor.store(cursor.mark, Ordering::Relaxed);
            self.commit.log_from(cursor.mark);
            let left = self.records.log_overrun(cursor.mark, 0, i64::MIN).await?.checks;
            exporter.waiting.store(i64::try_from(left).unwrap_or(i64::MAX), Ordering::Relaxed);
            exporter.oldest_ms.store(cursor.mark / 1000, Ordering::Relaxed);
            held(&exporter.sent).resume(cursor.mark, cursor.began_ms, self.clock.now().timestamp_millis());
            if let Some(gaps) = self.records.fact(FactKind::Mark, sent::GAPS).await? {
                held(&exporter.sent).recall_gaps(&gaps);
            }
        }
        Ok(())
    }

    /// The first time every outage there is is owed, and what the log holds of checks.
    async fn begin_export(&self) -> Result<(), StoreError> {
        if self.exporter.begun.load(Ordering::Relaxed) {
            return Ok(());
        }
        let now = self.clock.now();
        let mut after = String::new();
        loop {
            let page = self.records.outage_starts(after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = last.to_string();
            let owed = |(outage, started_ms): &(Uuid, i64)| {
                let version = self.exporter.next_version(now);
                OwedOutage { outage: *outage, started_ms: *started_ms, version }
            };
            let owed: Vec<OwedOutage> = page.iter().map(owed).collect();
            let facts = owed.iter().map(OwedOutage::fact).collect();
            self.records.write(Batch { facts, ..Batch::default() }).await?;
            self.exporter.owe(&owed);
        }
        let begun = cursor_fact(Cursor { mark: 0, began_ms: 0 }, now);
        self.records.write(Batch { facts: vec![begun], ..Batch::default() }).await?;
        self.exporter.begun.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Where the export is off, what it owed is forgotten: switched on again it begins anew.
    async fn forget_export(&self) -> Result<(), StoreError> {
        if self.records.fact(FactKind::Mark, CURSOR).await?.is_none() {
            return Ok(());
        }
        let mut facts = vec![forgotten(FactKind::Mark, CURSOR), forgotten(FactKind::Mark, sent::GAPS)];
        for kind in [FactKind::Owed, FactKind::Exported] {
            let known = self.records.facts(kind).await?;
            facts.extend(known.into_iter().map(|fact| Fact { value: None, ..fact }));
        }
        self.records.write(Batch { facts, ..Batch::default() }).await
    }

    /// Exports until `stop`.
    pub(super) async fn export(&self, stop: &CancellationToken) {
        let Some(target) = &self.exporter.target else {
            if let Err(error) = self.forget_export().await {
                tracing::warn!(%error, "what was owed to Elasticsearch is not forgotten");
            }
            return;
        };
        let mut pause = FIRST_PAUSE;
        loop {
            let round = tokio::select! {
                () = stop.cancelled() => return,
                round = self.export_round(target) => round,
            };
            let wait = match round {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    self.config().export.as_ref().map_or(LONGEST_PAUSE, |config| config.interval)
                }
                Err(_) => {
                    let jitter = u64::from(self.clock.now().timestamp_subsec_millis());
                    let wait = pause + Duration::from_millis(jitter);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.exporter.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One round now: everything that is owed.
    ///
    /// # Errors
    /// Not everything was taken; it stays owed.
    pub async fn export_now(&self) -> Result<(), ExportError> {
        match &self.exporter.target {
            Some(target) => self.export_round(target).await,
            None => Ok(()),
        }
    }

    /// The last round, when everything that was checked is in the records.
    pub async fn export_last(&self) {
        if self.exporter.is_on() && tokio::time::timeout(LAST_ROUND, self.export_now()).await.is_err() {
            tracing::warn!("Elasticsearch is slow: what it has not taken stays owed");
        }
    }

    async fn export_round(&self, target: &Elasticsearch) -> Result<(), ExportError> {
        let mut work = self.exporter.work.lock().await;
        let config = self.config();
        let batch = config.export.as_ref().map_or(1, |export| export.batch);
        let maker = Maker { date_format: target.config().date_format.clone(), instance: config.instance.clone() };
        let round = self.everything(target, &mut work, &maker, batch).await;
        self.exporter.note_latest(match &round {
            Ok(()) => Latest::Done,
            Err(error) => Latest::Failed(error.to_string()),
        });
        if round.is_err() {
            self.counters.elasticsearch_errors.fetch_add(1, Ordering::Relaxed);
        }
        round
    }

    /// What Elasticsearch would not have, oldest first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn refused_documents(&self) -> Result<Vec<DeadLetter>, StoreError> {
        let facts = self.records.facts(FactKind::Refused).await?;
        let letters = facts.into_iter().filter_map(|fact| {
            let refusal = serde_json::from_str(fact.value.as_deref()?).ok()?;
            Some(DeadLetter { id: fact.name, at: from_ms(fact.at_ms), refusal })
        });
        Ok(letters.collect())
    }

    /// Has documents that were refused sent again: those named, or all. Answers how many.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn export_again(&self, ids: Option<&[String]>) -> Result<usize, StoreError> {
        let wanted: Option<HashSet<&String>> = ids.map(|ids| ids.iter().collect());
        let known = self.records.facts(FactKind::Refused).await?.into_iter().map(|fact| fact.name);
        let chosen: Vec<String> = known.filter(|id| wanted.as_ref().is_none_or(|ids| ids.contains(id))).collect();
        let count = chosen.len();
        held(&self.exporter.again).extend(chosen);
        self.exporter.hurry();
        Ok(count)
    }

    /// Which part of the check log may go: what is exported, and what is too much to wait for it.
    pub(super) async fn log_may_go(&self, retention: Retention) -> Retention {
        let exporter = &self.exporter;
        let Some(target) = &exporter.target else { return retention };
        let cursor = exporter.cursor.load(Ordering::Relaxed);
        let kept = Retention { log_through: cursor, ..retention };
        match exporter.work.try_lock() {
            Ok(mut work) => {
                if self.give_up_backlog(target).await {
                    work.page = None;
                }
            }
            // A round is under way: it looks itself, between two pages.
            Err(_) => exporter.is_crowded.store(true, Ordering::Relaxed),
        }
        Retention { log_through: exporter.cursor.load(Ordering::Relaxed), ..kept }
    }

    /// Gives up the oldest checks beyond what may wait; whether there were any. For whoever holds the work.
    async fn give_up_backlog(&self, target: &Elasticsearch) -> bool {
        let exporter = &self.exporter;
        exporter.is_crowded.store(false, Ordering::Relaxed);
        let cursor = exporter.cursor.load(Ordering::Relaxed);
        let since_ms = (self.clock.now() - self.config().store.check_retention).timestamp_millis();
        let overrun = match self.records.log_overrun(cursor, target.config().backlog_bytes, since_ms).await {
            Ok(overrun) if overrun.through > cursor => overrun,
            Ok(_) => return false,
            Err(error) => {
                tracing::debug!(%error, "the backlog was not looked at");
                return false;
            }
        };
        // Said too early is not wrong: what is given up is not there.
        held(&exporter.sent).lose(overrun.from_ms, overrun.to_ms);
        if let Err(error) = self.settle_page(overrun.through, Vec::new()).await {
            tracing::warn!(%error, "how far the export has got is not noted");
            return false;
        }
        let checks = overrun.checks;
        tracing::error!(checks, "{checks} checks were given up before Elasticsearch took them: the backlog is full");
        self.counters.export_dropped.fetch_add(checks, Ordering::Relaxed);
        exporter.waiting.fetch_sub(i64::try_from(checks).unwrap_or(0), Ordering::Relaxed);
        true
    }

    /// Age of the oldest record not sent; `None`: the export is off.
    pub fn export_lag(&self) -> Option<Duration> {
        self.exporter.is_on().then(|| self.exporter.lag(self.commit.newest_mark(), self.clock.now()))
    }

    /// How the export is.
    pub fn export_health(&self) -> ExportHealth {
        let exporter = &self.exporter;
        let Some(lag) = self.export_lag() else {
            return ExportHealth { state: "off", lag: None, dead_letters: 0, problem: None };
        };
        let latest = held(&exporter.latest).clone();
        let interval = self.config().export.as_ref().map_or(LONGEST_PAUSE, |export| export.interval);
        let (state, problem) = match latest {
            Latest::None => ("pending", None),
            Latest::Done => ("connected", None),
            Latest::Failed(error) => ("unavailable", Some(format!("documents wait for Elasticsearch: {error}"))),
        };
        let is_late = lag > (interval * LATE_INTERVALS).max(LATE_AT_LEAST);
        let late = is_late.then(|| format!("the export to Elasticsearch is {} seconds behind", lag.as_secs()));
        let dead_letters = held(&exporter.sent).refused();
        ExportHealth { state, lag: Some(lag), dead_letters, problem: problem.or(late) }
    }

    /// Counts what became of documents.
    fn count_exported(&self, index: Index, result: &'static str, count: usize) {
        if count > 0 {
            self.counters.exported(index.as_str(), result, count as u64);
        }
    }
}

fn forgotten(kind: FactKind, name: &str) -> Fact {
    Fact { kind, name: name.to_owned(), at_ms: 0, value: None }
}

fn cursor_fact(cursor: Cursor, now: DateTime<Utc>) -> Fact {
    let value = serde_json::to_string(&cursor).ok();
    Fact { kind: FactKind::Mark, name: CURSOR.to_owned(), at_ms: now.timestamp_millis(), value }
}
