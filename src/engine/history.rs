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
        let (kept_ms, mut newest) = {
            let inner = watched.lock();
            let newest: Vec<Check> = inner.history.newest().collect();
            (inner.history.kept_ms(), newest)
        };
        newest.retain(|check| check.at_ms > kept_ms && (from_ms..=to_ms).contains(&check.at_ms));
        let mut page = CheckPage { total: newest.len(), checks: newest.into_iter().skip(skip).take(limit).collect() };
        let mut to_skip = skip.saturating_sub(page.total);
        let until_ms = to_ms.min(kept_ms);
        for run in self.records.runs(watched.hash, from_ms, until_ms).await? {
            let inside = run.from_ms >= from_ms && run.to_ms <= until_ms;
            let wanted = page.checks.len() < limit;
            // A run that is wholly skipped, or wholly behind the page, need not be unpacked.
            if inside && (!wanted || run.count <= to_skip) {
                page.total += run.count;
                to_skip = to_skip.saturating_sub(run.count);
                continue;
            }
            let checks = unpacked(run.from_ms, &run.blob);
            let matching: Vec<Check> =
                checks.into_iter().rev().filter(|check| (from_ms..=until_ms).contains(&check.at_ms)).collect();
            page.total += matching.len();
            let passed = to_skip.min(matching.len());
            to_skip -= passed;
            page.checks.extend(matching.into_iter().skip(passed).take(limit - page.checks.len()));
        }
        Ok(page)
    }

    /// Every check from `from` to `to`, oldest first, and the one before them.
    async fn checks(
        &self,
        watched: &Watched,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Vec<Check>, StoreError> {
        let (kept_ms, mut newest) = {
            let inner = watched.lock();
            let newest: Vec<Check> = inner.history.newest().collect();
            (inner.history.kept_ms(), newest)
        };
        newest.retain(|check| check.at_ms > kept_ms);
        let hold = watched.service().hold();
        let runs = self.records.runs(watched.hash, (from - hold).timestamp_millis(), to.timestamp_millis()).await?;
        let mut checks: Vec<Check> = Vec::with_capacity(runs.iter().map(|run| run.count).sum::<usize>() + newest.len());
        for run in runs.iter().rev() {
            checks.extend(unpacked(run.from_ms, &run.blob).into_iter().filter(|check| check.at_ms <= kept_ms));
        }
        checks.extend(newest.into_iter().rev());
        checks.retain(|check| check.at_ms <= to.timestamp_millis());
        Ok(checks)
    }

    /// The roll-ups of one service, oldest first.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn roll_ups(
        &self,
        watched: &Watched,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
        resolution: Resolution,
    ) -> Result<Vec<Rollup>, StoreError> {
        let checks = self.checks(watched, from, to).await?;
        let windows = self.windows.spans_of(&watched.service(), from, to);
        let line = Line { checks: &checks, hold_ms: hold_ms(watched), windows: &windows };
        Ok(rollup::roll_up(line, from.timestamp_millis(), to.timestamp_millis(), resolution))
    }

    /// What the time from `from` to `to` consisted of.
    ///
    /// # Errors
    /// The records cannot be read.
    pub async fn parts_between(
        &self,
        watched: &Watched,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Parts, StoreError> {
        let checks = self.checks(watched, from, to).await?;
        let windows = self.windows.spans_of(&watched.service(), from, to);
        let line = Line { checks: &checks, hold_ms: hold_ms(watched), windows: &windows };
        Ok(rollup::parts(line, from.timestamp_millis(), to.timestamp_millis()))
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

fn hold_ms(watched: &Watched) -> i64 {
    i64::try_from(watched.service().hold().as_millis()).unwrap_or(i64::MAX)
}

fn unpacked(from_ms: i64, blob: &[u8]) -> Vec<Check> {
    CheckRun::decode(from_ms, blob).unwrap_or_else(|| {
        tracing::warn!(from_ms, "a run of the check history is unreadable and was left out");
        Vec::new()
    })
}
