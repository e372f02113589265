//! Maintenance windows: times in which checks go on and alerts stay quiet (CONTRACT.md 9.8 and 12). Says which windows
//! are in force when, and for whom. What follows from it for outages, alerts and numbers is left to those modules.
//!
//! Instants count by their whole millisecond, here as on the wire: a window in force until 10:00:00.000 still is at
//! 10:00:00.0009. Both ends of a stretch of time are included.

mod rhythm;
pub mod spec;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::rhythm::Rhythm;
use super::observation::{is_label, is_prose};
use super::service::{Service, ServiceName};
use super::spec::is_category;

/// Longest description, name and author: CONTRACT.md 9.8.
const DESCRIPTION_CHARS: usize = 2_000;
const NAME_CHARS: usize = 200;
const AUTHOR_CHARS: usize = 100;

/// Most services one window names: our choice, as many as are watched at most in one place.
const MOST_SERVICES: usize = 1_000;

/// Most tags and most categories one window names: our choice, as many tags as a service has at most.
const MOST_LABELS: usize = 32;

/// How far beyond the time asked about a stretch is followed to its true ends, a leap year: our choice.
const REACH: TimeDelta = TimeDelta::days(366);

/// Most stretches of one window in one answer: our choice, 138 days of every other minute, in 2.4 MB.
const MOST_SPANS: usize = 100_000;

/// How long [`Calendar::at`] may be believed at most: our choice.
const BELIEVED: TimeDelta = TimeDelta::days(1);

/// The unit in which instants are told apart.
const INSTANT: TimeDelta = TimeDelta::milliseconds(1);

/// A rule that a window breaks: the field as the client knows it, and the rule, as a sentence without a subject.
pub type Broken = (&'static str, String);

/// A window as it is kept and shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MaintenanceWindow {
    pub id: Uuid,
    pub name: Option<String>,
    pub description: Option<String>,
    pub created_by: Option<String>,
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
    pub scope: Scope,
    pub recurrence: Option<Recurrence>,
    pub source: WindowSource,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// When it was changed after it had begun: before that it was as a window of the past remembers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_in_force: Option<DateTime<Utc>>,
}

/// Where a window was defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WindowSource {
    File,
    Api,
}

/// Whom a window covers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Scope {
    pub services: Vec<ServiceName>,
    pub tags: Vec<String>,
    pub categories: Vec<String>,
    /// Set only when the client named nothing: a window whose services were all deleted covers none.
    pub everyone: bool,
}

/// In force for `duration_minutes` from each cron time between the window's start and end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recurrence {
    /// Six fields, or five without seconds, on the clock on the wall of `timezone`. A time that a clock change skips
    /// moves to the first instant after what is skipped; a time that comes twice counts the first time only.
    pub cron: String,
    pub duration_minutes: u32,
    /// An IANA name.
    pub timezone: String,
}

/// A stretch of time, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

impl Span {
    /// Whether `at`, counted by its whole millisecond, is in it.
    pub fn contains(&self, at: DateTime<Utc>) -> bool {
        let at = whole(at);
        self.from <= at && at <= self.to
    }

    /// The part that lies in [from, to].
    fn clipped(self, from: DateTime<Utc>, to: DateTime<Utc>) -> Option<Self> {
        let part = Self { from: self.from.max(from), to: self.to.min(to) };
        (part.from <= part.to).then_some(part)
    }
}

impl Scope {
    /// Whether a service is named, tagged or of a category listed; any when nothing is listed and everyone is meant.
    pub fn covers(&self, name: &ServiceName, category: &str, tags: &[String]) -> bool {
        let Self { services, tags: covered, categories, everyone } = self;
        let named_nothing = services.is_empty() && covered.is_empty() && categories.is_empty();
        (*everyone && named_nothing)
            || services.contains(name)
            || categories.iter().any(|covered| covered == category)
            || tags.iter().any(|tag| covered.contains(tag))
    }

    fn covers_service(&self, service: &Service) -> bool {
        self.covers(&service.name, &service.category, &service.tags)
    }
}

impl MaintenanceWindow {
    /// Every rule that is broken, by the names that clients use: `recurrence.cron must be at most 100 characters`.
    pub fn check(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        let mut require = |holds: bool, field: &'static str, rule: String| {
            if !holds {
                broken.push((field, rule));
            }
        };
        require(whole(self.end) > whole(self.start), "end_time", "must be after start_time".to_owned());
        for (field, text, most) in [
            ("description", &self.description, DESCRIPTION_CHARS),
            ("name", &self.name, NAME_CHARS),
            ("created_by", &self.created_by, AUTHOR_CHARS),
        ] {
            let fits = text.as_ref().is_none_or(|text| is_prose(text, most));
            require(fits, field, format!("must be at most {most} characters, none of them a control character"));
        }
        let Scope { services, tags, categories, .. } = &self.scope;
        for (field, count, most) in [
            ("endpoint_ids", services.len(), MOST_SERVICES),
            ("tags", tags.len(), MOST_LABELS),
            ("categories", categories.len(), MOST_LABELS),
        ] {
            require(count <= most, field, format!("must be at most {most}"));
        }
        let are_tags = tags.iter().all(|tag| is_label(tag, 64));
        require(are_tags, "tags", "must be 1 to 64 characters each, none of them a control character".to_owned());
        let are_categories = categories.iter().all(|category| is_category(category));
        require(are_categories, "categories", "must be categories as services have them".to_owned());
        if let Some(Err(rules)) = self.recurrence.as_ref().map(Rhythm::new) {
            broken.extend(rules);
        }
        broken
    }

    /// The stretches of time in which it is in force and which touch [from, to], in order and apart from each other.
    ///
    /// They are not cut at `from` and `to`. An occurrence that begins between the window's start and end lasts its
    /// whole duration, but not beyond the end; one that begins before the start is none. Broken rules make a window
    /// that is never in force: rather an alert too many.
    ///
    /// The work is bounded. A stretch made of occurrences without a hole is followed for about a year before `from`
    /// and after `to`, and ends there if it is longer. Of a time asked about that is longer than ten years, what lies
    /// beyond is left out, and so is what follows the first 100,000 stretches.
    pub fn spans(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Span> {
        self.timetable().map(|timetable| timetable.spans(from, to)).unwrap_or_default()
    }

    /// Whether it is in force at `at`.
    pub fn is_in_force(&self, at: DateTime<Utc>) -> bool {
        self.spans(at, at).iter().any(|span| span.contains(at))
    }

    /// The next time after `after` that it comes into force, coming from a time in which it is not; `None` when that
    /// does not happen in ten years.
    pub fn next_start(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.timetable()?.next_start(after)
    }

    fn timetable(&self) -> Option<Timetable> {
        let rhythm = self.recurrence.as_ref().map(Rhythm::new).transpose().ok()?;
        Some(Timetable { start: whole(self.start), end: whole(self.end), rhythm })
    }
}

/// A window's times, read once.
#[derive(Debug)]
struct Timetable {
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    rhythm: Option<Rhythm>,
}

impl Timetable {
    fn spans(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Span> {
        let (from, to) = (whole(from), whole(to));
        if from > to || self.start > self.end || from > self.end || to < self.start {
            return Vec::new();
        }
        let Some(rhythm) = &self.rhythm else {
            return vec![Span { from: self.start, to: self.end }];
        };
        let mut back = (rhythm.length() * 2).max(TimeDelta::days(1));
        loop {
            let since = self.look_from(from, back);
            // What begins before `since` has ended a length later, so what begins later than that has its true start.
            let is_whole = |first: &Span| first.from > since + rhythm.length();
            if since == self.start || back >= REACH || self.walk(rhythm, since, from, from).first().is_none_or(is_whole)
            {
                return self.walk(rhythm, since, from, to);
            }
            back = (back * 2).min(REACH);
        }
    }

    /// The stretches that touch [from, to], made of occurrences since about `since`.
    fn walk(&self, rhythm: &Rhythm, since: DateTime<Utc>, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        'days: for day in rhythm.days(self.start, since).take_while(|day| day.begins <= self.end) {
            let goes_on = spans.last().is_some_and(|last| day.begins <= last.to) && day.begins - to <= REACH;
            if day.begins > to && !goes_on {
                break;
            }
            for run in day.runs {
                let apart = spans.last().is_none_or(|last| last.to < run.from);
                if run.from > self.end || apart && (run.from > to || spans.len() >= MOST_SPANS) {
                    break 'days;
                }
                if apart && spans.last().is_some_and(|last| last.to < from) {
                    spans.clear();
                }
                join(&mut spans, Span { from: run.from, to: run.to.min(self.end) });
            }
        }
        spans.retain(|span| span.from <= to && from <= span.to);
        spans
    }

    fn next_start(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let after = whole(after);
        let Some(rhythm) = &self.rhythm else {
            return (after < self.start && self.start <= self.end).then_some(self.start);
        };
        let mut in_force_until = None;
        let days = rhythm.days(self.start, self.look_from(after, rhythm.length()));
        for run in days.take_while(|day| day.begins <= self.end).flat_map(|day| day.runs) {
            if run.from > after && in_force_until.is_none_or(|until| until < run.from) {
                return (run.from <= self.end).then_some(run.from);
            }
            in_force_until = in_force_until.max(Some(run.to));
        }
        None
    }

    /// `back` before `at`, but not before the window's start.
    fn look_from(&self, at: DateTime<Utc>, back: TimeDelta) -> DateTime<Utc> {
        at.checked_sub_signed(back).unwrap_or(DateTime::<Utc>::MIN_UTC).max(self.start)
    }
}

/// All windows, with their times read once.
#[derive(Debug, Default)]
pub struct Calendar {
    windows: Vec<Arc<MaintenanceWindow>>,
    /// Of the window at the same place; `None` for one that breaks rules.
    timetables: Vec<Option<Timetable>>,
}

/// The windows in force at one time, and the stretch of time [from, until) around it in which they are the same.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    pub windows: Vec<Arc<MaintenanceWindow>>,
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

impl InForce {
    /// A window that covers the service, the one that starts first if there are several.
    pub fn covers(&self, service: &Service) -> Option<&Arc<MaintenanceWindow>> {
        self.windows.iter().find(|window| window.scope.covers_service(service))
    }
}

impl Calendar {
    pub fn new(mut windows: Vec<Arc<MaintenanceWindow>>) -> Self {
        windows.sort_by_key(|window| (window.start, window.id));
        let timetables = windows.iter().map(|window| window.timetable()).collect();
        Self { windows, timetables }
    }

    /// All windows, by their start.
    pub fn windows(&self) -> &[Arc<MaintenanceWindow>] {
        &self.windows
    }

    pub fn find(&self, id: Uuid) -> Option<&Arc<MaintenanceWindow>> {
        self.windows.iter().find(|window| window.id == id)
    }

    /// What is in force at `now`, and how long that can be believed: a day at most.
    pub fn at(&self, now: DateTime<Utc>) -> InForce {
        let now = whole(now);
        let from = now.checked_sub_signed(BELIEVED).unwrap_or(DateTime::<Utc>::MIN_UTC);
        let until = now.checked_add_signed(BELIEVED).unwrap_or(DateTime::<Utc>::MAX_UTC);
        let mut found = InForce { windows: Vec::new(), from, until };
        for (window, timetable) in self.timed() {
            let spans = timetable.spans(from, until);
            if spans.iter().any(|span| span.contains(now)) {
                found.windows.push(Arc::clone(window));
            }
            for change in spans.iter().flat_map(|span| [span.from, just_after(span.to)]) {
                if change <= now {
                    found.from = found.from.max(change);
                } else {
                    found.until = found.until.min(change);
                }
            }
        }
        found
    }

    /// When the service is covered by any window, cut at `from` and `to`, in order and apart from each other; what was
    /// before a window was made is not in it. Bounded
    /// as [`MaintenanceWindow::spans`] is.
    pub fn spans_of(&self, service: &Service, from: DateTime<Utc>, to: DateTime<Utc>) -> Vec<Span> {
        let spans = self
            .timed()
            .filter(|(window, _)| window.scope.covers_service(service))
            .flat_map(|(window, timetable)| {
                // A window alters nothing from before it was made, or changed.
                let from = from.max(window.created_at).max(window.changed_in_force.unwrap_or(window.created_at));
                timetable.spans(from, to.max(from)).into_iter().filter_map(move |span| span.clipped(from, to))
            })
            .collect();
        union(spans)
    }

    fn timed(&self) -> impl Iterator<Item = (&Arc<MaintenanceWindow>, &Timetable)> {
        let timetables = self.timetables.iter().map(Option::as_ref);
        self.windows.iter().zip(timetables).filter_map(|(window, timetable)| Some((window, timetable?)))
    }
}

/// The same time in as few stretches as possible, in order: those that overlap or touch become one.
pub fn union(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by_key(|span| span.from);
    let mut joined = Vec::with_capacity(spans.len());
    for span in spans {
        join(&mut joined, span);
    }
    joined
}

/// Milliseconds from the beginning to the end of each stretch; time in several of them counts once.
pub fn covered_ms(spans: &[Span]) -> i64 {
    union(spans.to_vec()).iter().map(|span| (span.to - span.from).num_milliseconds()).sum()
}

/// Adds a stretch that begins no earlier than the last one.
fn join(spans: &mut Vec<Span>, next: Span) {
    match spans.last_mut() {
        Some(last) if next.from <= last.to => last.to = last.to.max(next.to),
        _ => spans.push(next),
    }
}

fn whole(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(3)
}

fn just_after(at: DateTime<Utc>) -> DateTime<Utc> {
    at.checked_add_signed(INSTANT).unwrap_or(DateTime::<Utc>::MAX_UTC)
}
