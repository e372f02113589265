//! Keeps an eye on the machine, or container, we run in: samples it on a beat of its own, follows its limits, and gathers
//! its minutes. Checks and requests never wait for it; a part of it that does not answer is said to be silent.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Engine, held};
use crate::domain::host::{HostMeans, HostMinutes, HostSample, HostWatch, Judged, Resource};
use crate::domain::time::Stamp;
use crate::host::Sampler;

/// Between looks at whether the interval has been changed: our choice.
const BEAT: Duration = Duration::from_secs(1);

/// The host as it was seen last.
#[derive(Debug, Clone, Default)]
pub struct HostView {
    /// `None` before the first sample.
    pub sample: Option<HostSample>,
    watch: HostWatch,
    /// Since when the vitals, and the disks, have not answered.
    silent: [Option<DateTime<Utc>>; 2],
}

impl HostView {
    /// Whether a resource is critical by the latest samples.
    pub fn judged(&self, resource: Resource) -> Judged {
        self.watch.judged(resource)
    }

    /// What could not be seen for more than one sample, as sentences.
    pub fn problems(&self) -> Vec<String> {
        let at = self.sample.as_ref().map(|sample| sample.at);
        let silent = ["host", "disks of the host"].iter().zip(self.silent);
        let lasting = silent.filter_map(|(part, since)| Some((part, since.filter(|since| at > Some(*since))?)));
        lasting.map(|(part, since)| format!("{part} not readable since {}", Stamp(since))).collect()
    }

    /// What another sample makes of it.
    fn after(&self, sample: HostSample, policy: &crate::domain::host::HostPolicy) -> Self {
        let mut watch = self.watch;
        watch.take(&sample, policy);
        let answered = [sample.vitals.is_some(), sample.disks.is_some()];
        let silent =
            std::array::from_fn(|part| if answered[part] { None } else { self.silent[part].or(Some(sample.at)) });
        Self { sample: Some(sample), watch, silent }
    }
}

/// The latest view, and the minutes that wait to be kept.
#[derive(Debug, Default)]
pub struct Host {
    view: ArcSwap<HostView>,
    minutes: Mutex<HostMinutes>,
}

impl Host {
    pub(super) fn take_minutes(&self, now: DateTime<Utc>) -> Vec<(i64, HostMeans)> {
        held(&self.minutes).take(now.timestamp_millis())
    }
}

impl Engine {
    /// The host as it was seen last.
    pub fn host(&self) -> Arc<HostView> {
        self.host.view.load_full()
    }

    /// Samples the host, unless checking is paused.
    pub(super) async fn watch_host(&self, stop: &CancellationToken) {
        let mut sampler = Sampler::default();
        let mut due = Instant::now();
        loop {
            if Instant::now() >= due && !self.is_paused() {
                let began = Instant::now();
                let sample = sampler.sample(self.clock.now()).await;
                if !self.is_paused() {
                    self.take_host(sample);
                }
                due = began + self.config().host.interval;
            }
            // Looked at again soon: the interval may become shorter, and the pause may end, while we wait.
            let now = Instant::now();
            due = due.min(now + self.config().host.interval);
            let wait = if self.is_paused() { BEAT } else { due.saturating_duration_since(now).min(BEAT) };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Everything after a look. Tests come in here, with a sample of their own making.
    pub fn take_host(&self, sample: HostSample) {
        held(&self.host.minutes).record(&sample);
        let before = self.host();
        let after = before.after(sample, &self.config().host);
        for resource in Resource::ALL {
            match (before.judged(resource), after.judged(resource)) {
                (Judged::NotYet | Judged::Normal, Judged::Critical(percent)) => {
                    tracing::warn!(
                        resource = resource.as_str(),
                        percent,
                        "{} of the host is critical",
                        resource.as_str()
                    );
                }
                (Judged::Critical(_), Judged::Normal) => {
                    tracing::info!(
                        resource = resource.as_str(),
                        "{} of the host is below its limit",
                        resource.as_str()
                    );
                }
                _ => {}
            }
        }
        let problems = after.problems();
        if problems != before.problems() {
            match problems.as_slice() {
                [] => tracing::info!("the host is readable again"),
                some => tracing::warn!("{}", some.join("; ")),
            }
        }
        self.host.view.store(Arc::new(after));
        self.live.moved();
    }
}
