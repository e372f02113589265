//! The lanes of a round: outages, maintenance windows, what was refused and is to be tried again, and checks. Each makes
//! documents of what is owed, sends them, and settles what the far side said of them.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Cursor, Exporter, Latest, MOST_REFUSED, Owed, OwedOutage, Refusal, cursor_fact, forgotten, sent};
use crate::domain::check::LoggedCheck;
use crate::domain::maintenance::MaintenanceWindow;
use crate::domain::service::{Service, ServiceName};
use crate::engine::{Engine, held};
use crate::export::documents::{self, Action, Document, Index, Maker};
use crate::export::{Elasticsearch, ExportError, Fate};
use crate::store::StoreError;
use crate::store::records::{Batch, Fact, FactKind};

/// Requests under way at once: our choice.
const IN_FLIGHT: usize = 4;
/// Seconds of checks in one page: our choice, some 10,000 checks of 20,000 services.
const PAGE_BLOBS: i64 = 8;
/// Outages in one page: our choice.
const PAGE_OUTAGES: usize = 200;

/// What the rounds know of one another.
#[derive(Debug, Default)]
pub(super) struct Work {
    prepared: bool,
    /// Checks that were read and are not settled.
    pub page: Option<Page>,
    /// What was sent of each window.
    pub windows: BTreeMap<Uuid, Shown>,
    /// Services by the hash of their names, with those that went since the log was last read to its end.
    services: HashMap<u64, Arc<Service>>,
    /// The same at the time before that: their last checks may have been on their way.
    before: HashMap<u64, Arc<Service>>,
}

impl Work {
    fn service(&self, hash: u64) -> Option<&Arc<Service>> {
        self.services.get(&hash).or_else(|| self.before.get(&hash))
    }
}

/// What was sent of a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shown {
    print: u64,
    services: Vec<ServiceName>,
}

/// A stretch of the check log on its way.
#[derive(Debug)]
pub(super) struct Page {
    /// Mark of its end.
    next: i64,
    first_ms: i64,
    last_ms: i64,
    checks: usize,
    /// The newest check of each service.
    newest: HashMap<u64, i64>,
    /// Documents not yet settled.
    documents: Vec<Document>,
    refused: Vec<(Document, u16, String)>,
    /// Checks of services nobody knows any more.
    unknown: u64,
}

/// What the far side said of some documents.
#[derive(Debug, Default)]
struct Told {
    settled: Vec<Document>,
    refused: Vec<(Document, u16, String)>,
    left: Vec<Document>,
    /// Why some are left.
    error: Option<ExportError>,
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> Self {
        Self::new(error.to_string())
    }
}

impl Engine {
    pub(super) async fn everything(
        &self,
        target: &Elasticsearch,
        work: &mut Work,
        maker: &Maker,
        batch: usize,
    ) -> Result<(), ExportError> {
        let roster = self.live.roster();
        work.services.extend(roster.watched.iter().map(|watched| (watched.hash, watched.service())));
        self.begin_export().await?;
        if !work.prepared {
            target.prepare().await?;
            work.prepared = true;
        }
        // A lane that is held up does not hold up the others, once the server is known.
        let outages = self.export_outages(target, maker, batch).await;
        let windows = self.export_windows(target, work, batch).await;
        let again = self.export_refused(target, batch).await;
        self.export_checks(target, work, maker, batch).await.and(outages).and(windows).and(again)
    }

    /// Sends documents, several requests at a time.
    async fn send(&self, target: &Elasticsearch, documents: Vec<Document>, batch: usize) -> Told {
        let mut told = Told::default();
        let mut requests = stream::iter(chunked(documents, batch))
            .map(async |part| {
                let fates = self.exporter.timings.time(target.bulk(&part)).await;
                (part, fates)
            })
            .buffer_unordered(IN_FLIGHT);
        while let Some((part, fates)) = requests.next().await {
            match fates {
                Ok(fates) => {
                    for (document, fate) in part.into_iter().zip(fates) {
                        match fate {
                            Fate::Accepted => told.settled.push(document),
                            Fate::Refused { status, error } => told.refused.push((document, status, error)),
                            Fate::Later(why) => {
                                told.error.get_or_insert_with(|| ExportError::new(format!("not taken yet: {why}")));
                                told.left.push(document);
                            }
                        }
                    }
                }
                Err(error) => {
                    told.left.extend(part);
                    told.error.get_or_insert(error);
                }
            }
        }
        let of = |documents: &[Document], index: Index| {
            documents.iter().filter(|document| Index::of(&document.index) == index).count()
        };
        for index in [Index::Status, Index::Outage, Index::Maintenance] {
            self.count_exported(index, "accepted", of(&told.settled, index));
            self.count_exported(index, "retried", of(&told.left, index));
        }
        told
    }

    /// What was refused, as it is kept, and what is forgotten for it; and of what was taken, that it was refused before.
    fn letters(&self, refused: Vec<(Document, u16, String)>, settled: &[Document]) -> Vec<Fact> {
        if let Some((Document { index, id, .. }, status, error)) = refused.first() {
            let count = refused.len();
            tracing::error!(
                index,
                id,
                status,
                error,
                count,
                "Elasticsearch refuses {count} documents, one with: {error}"
            );
        }
        let now_ms = self.clock.now().timestamp_millis();
        let mut facts = Vec::new();
        let mut sent = held(&self.exporter.sent);
        for (document, status, error) in refused {
            let Document { index, id, action, body } = document;
            self.count_exported(Index::of(&index), "dead", 1);
            sent.refuse(&id, now_ms);
            let refusal = Refusal { index, status, error, delete: action == Action::Delete, document: body };
            let value = serde_json::to_string(&refusal).ok();
            facts.push(Fact { kind: FactKind::Refused, name: id, at_ms: now_ms, value });
        }
        let forgiven = settled.iter().filter(|document| sent.forgive(&document.id));
        facts.extend(forgiven.map(|document| forgotten(FactKind::Refused, &document.id)));
        let beyond = sent.beyond(MOST_REFUSED);
        for id in &beyond {
            if let Some(at_ms) = Uuid::parse_str(id).ok().and_then(time_of) {
                sent.lose(at_ms, at_ms);
            }
        }
        drop(sent);
        if !beyond.is_empty() {
            let count = beyond.len() as u64;
            tracing::error!("{count} refused documents are no longer kept: there are more than {MOST_REFUSED}");
            self.counters.export_dropped.fetch_add(count, Ordering::Relaxed);
            facts.extend(beyond.iter().map(|id| forgotten(FactKind::Refused, id)));
        }
        facts
    }

    async fn note(&self, facts: Vec<Fact>) -> Result<(), StoreError> {
        if facts.is_empty() {
            return Ok(());
        }
        self.records.write(Batch { facts, ..Batch::default() }).await
    }

    async fn export_outages(&self, target: &Elasticsearch, maker: &Maker, batch: usize) -> Result<(), ExportError> {
        loop {
            // What is told from memory is not in the records yet.
            if self.commit.trouble().is_some() {
                return Ok(());
            }
            let owed = self.exporter.first_owed(PAGE_OUTAGES);
            if owed.is_empty() {
                return Ok(());
            }
            let told = match self.records.deliveries(owed.iter().map(|(id, _)| *id).collect()).await {
                Err(StoreError::Corrupt { what, .. }) => {
                    tracing::error!("a {what} is unreadable: outages are exported without who was told");
                    Vec::new()
                }
                told => told?,
            };
            let living = self.live.alerts();
            let mut documents = Vec::new();
            for (id, owed) in &owed {
                match self.records.outage(*id).await {
                    Ok(Some(outage)) => {
                        let about: Vec<_> = told.iter().filter(|told| told.outage_id == Some(*id)).cloned().collect();
                        let watched = self.live.find(&outage.service);
                        let service = watched.as_ref().map(|watched| watched.service());
                        let alert = living.iter().find(|alert| alert.outage_id == Some(*id));
                        let alert = alert.map(|alert| alert.id.as_str());
                        documents.push(maker.outage(&outage, service.as_deref(), &about, alert));
                    }
                    Ok(None) if owed.started_ms > 0 => {
                        documents.push(maker.no_outage(*id, crate::domain::time::from_ms(owed.started_ms)));
                    }
                    Ok(None) => {}
                    Err(StoreError::Corrupt { .. }) => {
                        tracing::error!(outage.id = %id, "an outage is unreadable and is not exported");
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            let told = self.send(target, documents, batch).await;
            let left: HashSet<&str> = told.left.iter().map(|document| document.id.as_str()).collect();
            let done: Vec<&(Uuid, Owed)> =
                owed.iter().filter(|(id, _)| !left.contains(id.to_string().as_str())).collect();
            let paid = done.iter().flat_map(|(id, owed)| {
                owed.versions.iter().map(|version| forgotten(FactKind::Owed, &OwedOutage::name(*id, *version)))
            });
            let mut facts: Vec<Fact> = paid.collect();
            facts.extend(self.letters(told.refused, &told.settled));
            self.note(facts).await?;
            for (id, owed) in done {
                self.exporter.pay(*id, &owed.versions);
            }
            if let Some(error) = told.error {
                return Err(error);
            }
        }
    }

    async fn export_windows(&self, target: &Elasticsearch, work: &mut Work, batch: usize) -> Result<(), ExportError> {
        let now = self.clock.now();
        let windows = self.windows.shown();
        let present: HashSet<Uuid> = windows.iter().map(|window| window.id).collect();
        let gone: Vec<Uuid> = work.windows.keys().filter(|id| !present.contains(id)).copied().collect();
        let roster = self.live.roster();
        let services: Arc<[Arc<Service>]> = roster.watched.iter().map(|watched| watched.service()).collect();
        for id in gone {
            let Some(known) = work.windows.get(&id) else { continue };
            let documents = known.services.iter().map(|service| documents::no_window(id, service)).collect();
            self.send_window(target, work, id, documents, None, batch).await?;
        }
        for window in windows {
            let known = work.windows.get(&window.id).cloned();
            let (id, services) = (window.id, services.clone());
            // A fleet times ten thousand windows is no work for the threads that probe.
            let planned = tokio::task::spawn_blocking(move || plan(&window, &services, known.as_ref(), now));
            let planned = planned.await.map_err(|error| ExportError::new(error.to_string()))?;
            if let Some((documents, shown)) = planned {
                self.send_window(target, work, id, documents, Some(shown), batch).await?;
            }
        }
        Ok(())
    }

    async fn send_window(
        &self,
        target: &Elasticsearch,
        work: &mut Work,
        id: Uuid,
        documents: Vec<Document>,
        shown: Option<Shown>,
        batch: usize,
    ) -> Result<(), ExportError> {
        let at_ms = self.clock.now().timestamp_millis();
        let exported = |shown: Option<&Shown>| {
            let value = shown.and_then(|shown| serde_json::to_string(shown).ok());
            Fact { kind: FactKind::Exported, name: id.to_string(), at_ms, value }
        };
        // Before anything is sent it is noted what may be there afterwards: nothing is left there for ever.
        if let Some(next) = &shown {
            let mut services = work.windows.get(&id).map(|known| known.services.clone()).unwrap_or_default();
            let known: HashSet<ServiceName> = services.iter().cloned().collect();
            services.extend(next.services.iter().filter(|name| !known.contains(*name)).cloned());
            let begun = Shown { print: 0, services };
            self.note(vec![exported(Some(&begun))]).await?;
            work.windows.insert(id, begun);
        }
        let told = self.send(target, documents, batch).await;
        let mut facts = self.letters(told.refused, &told.settled);
        if told.error.is_none() {
            facts.push(exported(shown.as_ref()));
        }
        self.note(facts).await?;
        if let Some(error) = told.error {
            return Err(error);
        }
        match shown {
            Some(shown) => work.windows.insert(id, shown),
            None => work.windows.remove(&id),
        };
        Ok(())
    }

    /// Sends again what was refused, where it was asked for.
    async fn export_refused(&self, target: &Elasticsearch, batch: usize) -> Result<(), ExportError> {
        let ids = std::mem::take(&mut *held(&self.exporter.again));
        if ids.is_empty() {
            return Ok(());
        }
        let letters = match self.refused_documents().await {
            Ok(letters) => letters,
            Err(error) => {
                *held(&self.exporter.again) = ids;
                return Err(error.into());
            }
        };
        let wanted: HashSet<&String> = ids.iter().collect();
        let documents = letters.into_iter().filter(|letter| wanted.contains(&letter.id)).map(|letter| {
            let action = match Index::of(&letter.refusal.index) {
                _ if letter.refusal.delete => Action::Delete,
                Index::Status => Action::Create,
                Index::Outage | Index::Maintenance => Action::Index,
            };
            Document { index: letter.refusal.index, id: letter.id, action, body: letter.refusal.document }
        });
        let documents = documents.collect();
        // A round that is given up forgets nothing that was asked for.
        held(&self.exporter.again).extend(ids.iter().cloned());
        let told = self.send(target, documents, batch).await;
        let left: HashSet<&String> = told.left.iter().map(|document| &document.id).collect();
        held(&self.exporter.again).retain(|id| !wanted.contains(id) || left.contains(id));
        let facts = self.letters(told.refused, &told.settled);
        self.note(facts).await?;
        told.error.map_or(Ok(()), Err)
    }

    async fn export_checks(
        &self,
        target: &Elasticsearch,
        work: &mut Work,
        maker: &Maker,
        batch: usize,
    ) -> Result<(), ExportError> {
        // What comes while the round lasts is for the next.
        let last = self.commit.newest_mark();
        loop {
            // Taken out, and put back only as what is left of it: a round that is given up while documents are under
            // way leaves no page behind, and the next begins at the cursor.
            let mut page = match work.page.take() {
                Some(page) => page,
                None => match self.next_page(work, maker).await? {
                    Some(page) => page,
                    None => return Ok(()),
                },
            };
            let told = self.send(target, std::mem::take(&mut page.documents), batch).await;
            page.refused.extend(told.refused);
            if let Some(error) = told.error {
                page.documents = told.left;
                work.page = Some(page);
                return Err(error);
            }
            if page.unknown > 0 {
                tracing::warn!("{} checks are of services that are gone, and are not exported", page.unknown);
                self.counters.export_dropped.fetch_add(page.unknown, Ordering::Relaxed);
            }
            let letters = self.letters(page.refused, &told.settled);
            {
                let mut sent = held(&self.exporter.sent);
                if page.unknown > 0 {
                    sent.lose(page.first_ms, page.last_ms);
                }
                sent.settle(page.newest, page.first_ms);
            }
            self.settle_page(page.next, letters).await?;
            self.exporter.note_latest(Latest::Done);
            if self.exporter.is_crowded.load(Ordering::Relaxed) {
                self.give_up_backlog(target).await;
            }
            self.exporter.waiting.fetch_sub(i64::try_from(page.checks).unwrap_or(0), Ordering::Relaxed);
            if page.next >= last {
                return Ok(());
            }
        }
    }

    /// The log is settled up to `mark`.
    pub(super) async fn settle_page(&self, mark: i64, mut facts: Vec<Fact>) -> Result<(), StoreError> {
        let now = self.clock.now();
        let exporter = &self.exporter;
        let (began_ms, gaps) = {
            let sent = held(&exporter.sent);
            (sent.began_ms, sent.gaps())
        };
        facts.push(cursor_fact(Cursor { mark, began_ms }, now));
        if let Some(gaps) = gaps {
            let at_ms = now.timestamp_millis();
            facts.push(Fact { kind: FactKind::Mark, name: sent::GAPS.to_owned(), at_ms, value: Some(gaps) });
        }
        self.note(facts).await?;
        exporter.cursor.store(mark, Ordering::Relaxed);
        exporter.oldest_ms.store(now.timestamp_millis(), Ordering::Relaxed);
        Ok(())
    }

    /// The next stretch of the log as documents; `None` at its end.
    async fn next_page(&self, work: &mut Work, maker: &Maker) -> Result<Option<Page>, ExportError> {
        let after = self.exporter.cursor.load(Ordering::Relaxed);
        let log = self.records.check_log(i64::MIN, after, PAGE_BLOBS).await?;
        let Some(next) = log.next else {
            let unwritten = self.commit.depth();
            self.exporter.waiting.store(i64::try_from(unwritten).unwrap_or(0), Ordering::Relaxed);
            self.exporter.oldest_ms.store(self.clock.now().timestamp_millis(), Ordering::Relaxed);
            if self.commit.trouble().is_none() {
                // The log is at its end: who went before the last time it was is not in it any more.
                let roster = self.live.roster();
                let now = roster.watched.iter().map(|watched| (watched.hash, watched.service())).collect();
                work.before = std::mem::replace(&mut work.services, now);
            }
            return Ok(None);
        };
        let times = || log.checks.iter().map(|logged| logged.check.at_ms);
        let (first_ms, last_ms) = (times().min().unwrap_or(next / 1000), times().max().unwrap_or(next / 1000));
        self.exporter.oldest_ms.store(first_ms, Ordering::Relaxed);
        let concerned: HashSet<u64> = log.checks.iter().map(|logged| logged.service).collect();
        let known: HashMap<u64, Arc<Service>> =
            concerned.into_iter().filter_map(|hash| Some((hash, work.service(hash)?.clone()))).collect();
        let maker = maker.clone();
        let made = tokio::task::spawn_blocking(move || page_of(&log.checks, &known, &maker, (next, first_ms, last_ms)));
        made.await.map(Some).map_err(|error| ExportError::new(error.to_string()))
    }
}

impl Exporter {
    fn first_owed(&self, most: usize) -> Vec<(Uuid, Owed)> {
        held(&self.owed).iter().take(most).map(|(id, owed)| (*id, owed.clone())).collect()
    }

    /// These versions of an outage are with the far side.
    fn pay(&self, id: Uuid, versions: &[i64]) {
        let mut owed = held(&self.owed);
        if let Some(known) = owed.get_mut(&id) {
            known.versions.retain(|version| !versions.contains(version));
            if known.versions.is_empty() {
                owed.remove(&id);
            }
        }
    }
}

fn page_of(
    checks: &[LoggedCheck],
    services: &HashMap<u64, Arc<Service>>,
    maker: &Maker,
    (next, first_ms, last_ms): (i64, i64, i64),
) -> Page {
    let mut page = Page {
        next,
        first_ms,
        last_ms,
        checks: checks.len(),
        newest: HashMap::new(),
        documents: Vec::with_capacity(checks.len()),
        refused: Vec::new(),
        unknown: 0,
    };
    for logged in checks {
        let Some(service) = services.get(&logged.service) else {
            page.unknown += 1;
            continue;
        };
        // In the order of the log: a clock that was set back is no matter.
        page.newest.insert(logged.service, logged.check.at_ms);
        page.documents.push(maker.check(service, logged));
    }
    page
}

/// What is to be sent of a window, and what is shown of it then; nothing where that is so already.
fn plan(
    window: &MaintenanceWindow,
    services: &[Arc<Service>],
    known: Option<&Shown>,
    now: chrono::DateTime<chrono::Utc>,
) -> Option<(Vec<Document>, Shown)> {
    let covers = |service: &&Arc<Service>| window.scope.covers(&service.name, &service.category, &service.tags);
    let covered: Vec<&Arc<Service>> = services.iter().filter(covers).collect();
    let when = documents::shown_time(window, now);
    let mut print = DefaultHasher::new();
    (&window.description, &window.created_by, window.updated_at, when.from, when.to).hash(&mut print);
    covered.iter().for_each(|service| (&service.name, &service.display_name).hash(&mut print));
    let print = print.finish();
    if known.is_some_and(|known| known.print == print) {
        return None;
    }
    let names: Vec<ServiceName> = covered.iter().map(|service| service.name.clone()).collect();
    let still: HashSet<&ServiceName> = names.iter().collect();
    let left = known.iter().flat_map(|known| &known.services).filter(|name| !still.contains(name));
    let mut made: Vec<Document> = left.map(|name| documents::no_window(window.id, name)).collect();
    made.extend(covered.iter().map(|service| documents::window(window, when, service)));
    Some((made, Shown { print, services: names }))
}

fn chunked(documents: Vec<Document>, size: usize) -> Vec<Vec<Document>> {
    let mut documents = documents.into_iter();
    let next = || {
        let part: Vec<Document> = documents.by_ref().take(size.max(1)).collect();
        (!part.is_empty()).then_some(part)
    };
    std::iter::from_fn(next).collect()
}

/// The time an id of ours holds, unix ms.
fn time_of(id: Uuid) -> Option<i64> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    i64::try_from(seconds * 1000 + u64::from(nanos) / 1_000_000).ok()
}
