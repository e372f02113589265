//! Reads what was kept of a service's checks: those in memory and those in the check history, as one.

use chrono::{DateTime, Utc};

use super::Engine;
use super::live::Watched;
use crate::domain::check::{Check, CheckRun};
use crate::domain::rollup::{self, Line, Resolution, Rollup};
use crate::domain::window::Parts;
use crate::store::StoreError;

/// A page of checks, newest first, and how many match in all.
#[derive(Debug, Default)]
pub struct CheckPage {
    pub checks: Vec<Check>,
    pub total: usize,
}

/// Checks one answer is worked out from at most: our choice, a month at one every 3 s, some 50 MB.
const MOST_CHECKS: usize = 1_000_000;

/// Why there is no answer about the past.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the range holds more than {MOST_CHECKS} checks")]
    TooMany,
}

impl Engine {
    /// The checks from `from` to `to`, both included.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn checks_page(
        &self,
        watched: &Watched,
        (from, to): (DateTime<Utc>, DateTime<Utc>),
        skip: usize,
        limit: usize,
    ) -> Result<CheckPage, StoreError> {
        let (from_ms, to_ms) = (from.timestamp_millis(), to.timestamp_millis());
        // The store is asked for what is older than the oldest that memory alone has: nothing is told twice.
        let mut newest = watched.lock().history.unkept();
        let kept_ms = newest.iter().map(|check| check.at_ms).min().map_or(i64::MAX, |oldest| oldest - 1);
        newest.reverse();
        newest.retain(|check| (from_ms..=to_ms).contains(&check.at_ms));
        let mut page = CheckPage { total: newest.len(), checks: newest.into_iter().skip(skip).take(limit).collect() };
        let until_ms = to_ms.min(kept_ms);
        let heads = self.records.runs(watched.hash, from_ms, until_ms).await?;
        // Runs wholly inside the range need only be counted; those at its ends, and those on the page, are unpacked.
        let mut to_skip = skip.saturating_sub(page.total);
        let ends: Vec<i64> = heads
            .iter()
            .filter(|head| head.from_ms < from_ms || head.to_ms > until_ms)
            .map(|head| head.from_ms)
            .collect();
        let mut unpacked_runs: std::collections::HashMap<i64, Vec<Check>> = std::collections::HashMap::new();
        for end in &ends {
            for (from_ms, blob) in self.records.run_blobs(watched.hash, *end, *end).await? {
                unpacked_runs.insert(from_ms, unpacked(from_ms, &blob));
            }
        }
        let counted = |head: &crate::store::records::RunHead| match unpacked_runs.get(&head.from_ms) {
            Some(checks) => checks.iter().filter(|check| (from_ms..=until_ms).contains(&check.at_ms)).count(),
            None => head.count,
        };
        let counts: Vec<usize> = heads.iter().map(counted).collect();
        page.total += counts.iter().sum::<usize>();
        for (head, count) in heads.iter().zip(counts) {
            if to_skip >= count {
                to_skip -= count;
                continue;
            }
            if page.checks.len() == limit {
                break;
            }
            let checks = match unpacked_runs.remove(&head.from_ms) {
                Some(checks) => checks,
                None => {
                    let blobs = self.records.run_blobs(watched.hash, head.from_ms, head.from_ms).await?;
                    blobs.iter().flat_map(|(from_ms, blob)| unpacked(*from_ms, blob)).collect()
                }
            };
            let matching = checks.into_iter().rev().filter(|check| (from_ms..=until_ms).contains(&check.at_ms));
            let room = limit - page.checks.len();
            page.checks.extend(matching.skip(to_skip).take(room));
            to_skip = 0;
        }
        Ok(page)
    }

    /// What the checks from `from` to `to`, with those whose verdict reaches into that time, come to. Worked out off the
    /// async threads: a month of one service is a few hundred thousand of them.
    async fn over<T: Send + 'static>(
        &self,
        watched: &Watched,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        work: impl FnOnce(Line<'_>) -> T + Send + 'static,
    ) -> Result<T, HistoryError> {
        let newest = watched.lock().history.unkept();
        let kept_ms = newest.iter().map(|check| check.at_ms).min().map_or(i64::MAX, |oldest| oldest - 1);
        let service = watched.service();
        let hold = service.hold();
        let to_ms = to.timestamp_millis();
        let heads = self.records.runs(watched.hash, (from - hold).timestamp_millis(), to_ms).await?;
        let count = heads.iter().map(|run| run.count).sum::<usize>() + newest.len();
        if count > MOST_CHECKS {
            return Err(HistoryError::TooMany);
        }
        let blobs = match (heads.first(), heads.last()) {
            (Some(last), Some(first)) => self.records.run_blobs(watched.hash, first.from_ms, last.from_ms).await?,
            _ => Vec::new(),
        };
        let windows = self.windows.spans_of(&service, from, to);
        let hold_ms = i64::try_from(hold.as_millis()).unwrap_or(i64::MAX);
        let worked = tokio::task::spawn_blocking(move || {
            let mut checks: Vec<Check> = Vec::with_capacity(count);
            for (from_ms, blob) in blobs {
                checks.extend(unpacked(from_ms, &blob).into_iter().filter(|check| check.at_ms <= kept_ms));
            }
            checks.extend(newest);
            checks.retain(|check| check.at_ms <= to_ms);
            work(Line { checks: &checks, hold_ms, windows: &windows })
        });
        worked.await.map_err(|error| HistoryError::Store(StoreError::Unavailable(error.into())))
    }

    /// The roll-ups of one service, oldest first.
    ///
    /// # Errors
    /// The records cannot be read, or the range holds too many checks.
    pub async fn roll_ups(
        &self,
        watched: &Watched,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        resolution: Resolution,
    ) -> Result<Vec<Rollup>, HistoryError> {
        let (from_ms, to_ms) = (from.timestamp_millis(), to.timestamp_millis());
        self.over(watched, from, to, move |line| rollup::roll_up(line, from_ms, to_ms, resolution)).await
    }

    /// What the time from `from` to `to` consisted of.
    ///
    /// # Errors
    /// The records cannot be read, or the range holds too many checks.
    pub async fn parts_between(
        &self,
        watched: &Watched,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Parts, HistoryError> {
        let (from_ms, to_ms) = (from.timestamp_millis(), to.timestamp_millis());
        self.over(watched, from, to, move |line| rollup::parts(line, from_ms, to_ms)).await
    }

    /// The roll-ups of the fleet, oldest first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn fleet_roll_ups(
        &self,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        resolution: Resolution,
        limit: usize,
    ) -> Result<Vec<Rollup>, StoreError> {
        let minutes_each = usize::try_from(resolution.ms() / Resolution::Minute.ms()).unwrap_or(1);
        let most = limit.saturating_mul(minutes_each);
        let minutes = self.records.minutes(from.timestamp_millis(), to.timestamp_millis(), most).await?;
        Ok(Rollup::coarser(&minutes, resolution))
    }
}

fn unpacked(from_ms: i64, blob: &[u8]) -> Vec<Check> {
    CheckRun::decode(from_ms, blob).unwrap_or_else(|| {
        tracing::warn!(from_ms, "a run of the check history is unreadable and was left out");
        Vec::new()
    })
}
