//! Calendar work on tokio-cron-scheduler (DESIGN.md D4): roll-up each minute, retention, the hourly warning about a
//! published key. In UTC, idempotent, one run of a job at a time.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Mutex;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use super::Engine;
use super::commit::Transition;
use crate::store::records::Retention;

/// Each service's history is saved once an hour, a sixtieth of them each minute: DESIGN.md section 3. What came after is
/// read back from the check log.
const SAVE_GROUPS: usize = 60;
/// Services saved in one transaction: our choice, about half a megabyte.
const SAVED_TOGETHER: usize = 100;
/// Between pieces of a clean-up: our choice, so that it never delays a commit for long.
const CLEAN_UP_PAUSE: Duration = Duration::from_millis(20);

/// Starts the calendar. It ends with the process.
///
/// # Errors
/// The scheduler refused a job.
pub async fn start(engine: &Arc<Engine>, published_key: bool) -> Result<JobScheduler, JobSchedulerError> {
    let calendar = JobScheduler::new().await?;
    let minute = Arc::new(Mutex::new(()));
    add(&calendar, "0 * * * * *", engine, minute, |engine| async move { engine.roll_up().await }).await?;
    // Looked at each minute, done when the interval has passed: the period is the operator's, in seconds.
    let cleaned = Arc::new(Mutex::new(engine.clock.now()));
    let last = cleaned.clone();
    add(&calendar, "30 * * * * *", engine, Arc::default(), move |engine| {
        let last = last.clone();
        async move {
            let mut last = last.lock().await;
            let now = engine.clock.now();
            if crate::domain::time::span(*last, now) >= engine.config().store.cleanup_interval {
                *last = now;
                engine.clean_up().await;
            }
        }
    })
    .await?;
    if published_key {
        add(&calendar, "0 0 * * * *", engine, Arc::default(), |_| async {
            tracing::warn!("{}", crate::engine::PUBLISHED_KEY_WARNING);
        })
        .await?;
    }
    calendar.start().await?;
    Ok(calendar)
}

async fn add<F>(
    calendar: &JobScheduler,
    cron: &str,
    engine: &Arc<Engine>,
    turn: Arc<Mutex<()>>,
    work: impl Fn(Arc<Engine>) -> F + Clone + Send + Sync + 'static,
) -> Result<(), JobSchedulerError>
where
    F: Future<Output = ()> + Send + 'static,
{
    let engine = engine.clone();
    let job = Job::new_async(cron, move |_, _| {
        let (engine, turn, work) = (engine.clone(), turn.clone(), work.clone());
        Box::pin(async move {
            // The crate starts a job again while it still runs.
            if let Ok(_turn) = turn.try_lock() {
                let counters = engine.counters.clone();
                if tokio::spawn(work(engine)).await.is_err() {
                    counters.panic("housekeeping");
                }
            }
        })
    })?;
    calendar.add(job).await.map(|_| ())
}

impl Engine {
    /// Saves the history of a sixtieth of the services, and writes the rolling metrics to Redis.
    pub async fn roll_up(&self) {
        let now = self.clock.now();
        let minute = usize::try_from(now.timestamp() / 60).unwrap_or(0) % SAVE_GROUPS;
        self.save_histories(|place| place % SAVE_GROUPS == minute).await;
        if minute == 0 {
            if let Err(error) = self.records.prepare(now).await {
                tracing::warn!(%error, "no room made for the days ahead");
            }
            // The log is a journal, large and soon of no use: it is not left to the interval of other old data.
            let log_only = Retention {
                now,
                log_before: super::keeper::log_before(now),
                log_through: i64::MAX,
                checks_before: DateTime::UNIX_EPOCH,
                outages_before: None,
            };
            self.give_up(log_only).await;
        }
        if let Err(error) = self.mirror.put_metrics(self).await {
            tracing::debug!(%error, "metrics not written to Redis");
        }
    }

    /// Saves the history of the services whose place in the registry is `chosen`.
    pub async fn save_histories(&self, chosen: impl Fn(usize) -> bool) {
        if !self.config().store.persist_checks {
            return;
        }
        let roster = self.live.roster();
        let places: Vec<usize> = (0..roster.watched.len()).filter(|place| chosen(*place)).collect();
        for places in places.chunks(SAVED_TOGETHER) {
            let mut transition = Transition::default();
            for watched in places.iter().filter_map(|place| roster.watched.get(*place)) {
                self.keep_old(watched);
                let name = watched.service().name.clone();
                let inner = watched.lock();
                let Some(last) = inner.state.last_check else { continue };
                let history = inner.history.clone();
                drop(inner);
                match serde_json::to_string(&history) {
                    Ok(json) => {
                        transition.beside.histories.push((name, json, last.timestamp_millis()));
                        transition.saved.push(watched.clone());
                    }
                    Err(error) => tracing::error!(service.name = %name, %error, "history cannot be saved"),
                }
            }
            let _ = self.commit.transition(transition).await;
            super::make_way().await;
        }
    }

    /// Gives up what is older than retention allows, in pieces.
    pub async fn clean_up(&self) {
        let now: DateTime<Utc> = self.clock.now();
        let store = &self.config().store;
        let retention = Retention {
            now,
            log_before: super::keeper::log_before(now),
            log_through: i64::MAX,
            checks_before: now - store.check_retention,
            outages_before: store.outage_retention.map(|kept| now - kept),
        };
        if let Some(before) = retention.outages_before {
            self.forget_windows(before);
        }
        self.give_up(retention).await;
    }

    async fn give_up(&self, retention: Retention) {
        let retention = self.log_may_go(retention).await;
        loop {
            match self.records.clean_up(retention).await {
                Ok(true) => tokio::time::sleep(CLEAN_UP_PAUSE).await,
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(%error, "clean-up of old records put off");
                    return;
                }
            }
        }
    }
}
