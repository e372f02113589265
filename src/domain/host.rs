//! The machine, or container, we run in: what a sample of it says, when a resource counts as critical, and what a minute
//! keeps of it (CONTRACT.md 9.2, 10.4). Pure: `host` samples, the engine asks.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::alert::Component;
use super::status::Status;

/// Samples in a row that settle whether a resource is critical: CONTRACT.md 10.4.
const SETTLING: u32 = 2;
/// Minutes that wait to be kept: our choice, an hour.
const MINUTES_KEPT: usize = 60;
const MINUTE_MS: i64 = 60_000;

/// How often we look, and above which percentages a resource is critical: section `[host]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostPolicy {
    pub interval: Duration,
    pub cpu_percent: f64,
    pub memory_percent: f64,
    pub disk_percent: f64,
}

impl Default for HostPolicy {
    /// The values of `config/default.toml`.
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), cpu_percent: 90.0, memory_percent: 85.0, disk_percent: 90.0 }
    }
}

impl HostPolicy {
    pub fn limit(&self, resource: Resource) -> f64 {
        match resource {
            Resource::Cpu => self.cpu_percent,
            Resource::Memory => self.memory_percent,
            Resource::Disk => self.disk_percent,
        }
    }
}

/// What can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Cpu,
    Memory,
    Disk,
}

impl Resource {
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Memory, Self::Disk];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }

    /// What its alerts are about.
    pub fn component(self) -> Component {
        match self {
            Self::Cpu => Component::HostCpu,
            Self::Memory => Component::HostMemory,
            Self::Disk => Component::HostDisk,
        }
    }
}

/// One value of the whole machine, and of our container where that has a limit of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sides<T> {
    pub host: T,
    pub container: Option<T>,
}

impl<T> Sides<T> {
    /// The one we run in: what is judged.
    pub fn ours(&self) -> &T {
        self.container.as_ref().unwrap_or(&self.host)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cpu {
    /// Of all cores, or of what the container may use.
    pub usage_percent: f64,
    pub cores: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Memory {
    pub total_bytes: u64,
    /// What cannot be had back at once: caches are free.
    pub used_bytes: u64,
    pub swap_total_bytes: u64,
    pub swap_used_bytes: u64,
}

impl Memory {
    pub fn available_bytes(&self) -> u64 {
        self.total_bytes.saturating_sub(self.used_bytes)
    }

    pub fn usage_percent(&self) -> f64 {
        percent(self.used_bytes, self.total_bytes)
    }

    pub fn swap_usage_percent(&self) -> f64 {
        percent(self.swap_used_bytes, self.swap_total_bytes)
    }
}

/// One file system on a device of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Disk {
    pub mount: String,
    pub total_bytes: u64,
    /// What is reserved for the system counts as used: nobody else can have it.
    pub used_bytes: u64,
    /// It cannot fill up.
    pub read_only: bool,
}

impl Disk {
    pub fn usage_percent(&self) -> f64 {
        percent(self.used_bytes, self.total_bytes)
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// File systems, and bytes a second to and from their devices.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Disks {
    pub disks: Vec<Disk>,
    pub read_rate: f64,
    pub write_rate: f64,
}

/// Bytes since it came up, and bytes a second.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub tx_bytes: u64,
    pub rx_rate: f64,
    pub tx_rate: f64,
}

/// What the kernel tells at once, unlike its disks, which may keep us waiting.
#[derive(Debug, Clone, PartialEq)]
pub struct Vitals {
    pub cpu: Sides<Cpu>,
    /// Over 1, 5 and 15 minutes; always the machine's.
    pub load_average: [f64; 3],
    pub memory: Sides<Memory>,
    pub interfaces: Vec<Interface>,
    /// TCP sockets in use, listeners among them.
    pub connections: u64,
    pub uptime: Duration,
}

/// What this process uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessUse {
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    /// Of all its threads since it started.
    pub cpu: Duration,
    pub open_files: u64,
    pub most_open_files: Option<u64>,
    /// Unix seconds.
    pub started: f64,
}

/// One look; a part that did not answer in time is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSample {
    pub at: DateTime<Utc>,
    pub vitals: Option<Vitals>,
    pub disks: Option<Disks>,
}

impl HostSample {
    /// In percent; the fullest disk counts for all.
    pub fn usage(&self, resource: Resource) -> Option<f64> {
        let vitals = self.vitals.as_ref();
        match resource {
            Resource::Cpu => vitals.map(|vitals| vitals.cpu.ours().usage_percent),
            Resource::Memory => vitals.map(|vitals| vitals.memory.ours().usage_percent()),
            Resource::Disk => {
                let writable = self.disks.iter().flat_map(|seen| &seen.disks).filter(|disk| !disk.read_only);
                writable.map(Disk::usage_percent).reduce(f64::max)
            }
        }
    }

    /// Unhealthy when one of `resources` is above its limit, healthy when one was seen and none is.
    pub fn status(&self, resources: &[Resource], policy: &HostPolicy) -> Status {
        let seen = resources.iter().filter_map(|resource| Some(self.usage(*resource)? > policy.limit(*resource)));
        match seen.reduce(|a, b| a || b) {
            Some(true) => Status::Unhealthy,
            Some(false) => Status::Healthy,
            None => Status::Unknown,
        }
    }
}

/// Whether a resource is critical.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Judged {
    /// Too few samples since the start: nothing may begin or end because of it.
    #[default]
    NotYet,
    Normal,
    /// Its latest usage in percent.
    Critical(f64),
}

/// Follows every resource over the samples: two in a row above its limit make it critical, two at or under it end that.
/// What could not be seen changes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostWatch([Run; Resource::ALL.len()]);

/// Samples in a row on one side of the limit.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    above: bool,
    samples: u32,
    judged: Judged,
}

impl HostWatch {
    pub fn take(&mut self, sample: &HostSample, policy: &HostPolicy) {
        for resource in Resource::ALL {
            let Some(usage) = sample.usage(resource) else { continue };
            let run = &mut self.0[resource as usize];
            let above = usage > policy.limit(resource);
            run.samples = if above == run.above { run.samples.saturating_add(1) } else { 1 };
            run.above = above;
            run.judged = match run.judged {
                _ if run.samples >= SETTLING => {
                    if above {
                        Judged::Critical(usage)
                    } else {
                        Judged::Normal
                    }
                }
                // At or under its limit once: what is shown stays what was above it.
                Judged::Critical(_) if above => Judged::Critical(usage),
                unsettled => unsettled,
            };
        }
    }

    pub fn judged(&self, resource: Resource) -> Judged {
        self.0[resource as usize].judged
    }
}

/// Means over the samples of a minute, or of a longer stretch.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct HostMeans {
    samples: u32,
    pub cpu_percent: Option<f64>,
    pub memory_percent: Option<f64>,
    pub disk_percent: Option<f64>,
    pub load_average: Option<[f64; 3]>,
}

impl HostMeans {
    fn of(sample: &HostSample) -> Self {
        Self {
            samples: 1,
            cpu_percent: sample.usage(Resource::Cpu),
            memory_percent: sample.usage(Resource::Memory),
            disk_percent: sample.usage(Resource::Disk),
            load_average: sample.vitals.as_ref().map(|vitals| vitals.load_average),
        }
    }

    /// Adds another stretch, by the number of its samples; what only one of them knows stands.
    pub fn merge(&mut self, other: &Self) {
        let (a, b) = (f64::from(self.samples), f64::from(other.samples));
        let mean = |x: f64, y: f64| (x * a + y * b) / (a + b).max(1.0);
        let both = |x: Option<f64>, y: Option<f64>| x.zip(y).map_or(x.or(y), |(x, y)| Some(mean(x, y)));
        self.cpu_percent = both(self.cpu_percent, other.cpu_percent);
        self.memory_percent = both(self.memory_percent, other.memory_percent);
        self.disk_percent = both(self.disk_percent, other.disk_percent);
        self.load_average = match (self.load_average, other.load_average) {
            (Some(x), Some(y)) => Some(std::array::from_fn(|place| mean(x[place], y[place]))),
            (x, y) => x.or(y),
        };
        self.samples = self.samples.saturating_add(other.samples);
    }
}

/// The minutes that nobody has taken yet, by their beginning in unix ms.
#[derive(Debug, Default)]
pub struct HostMinutes(VecDeque<(i64, HostMeans)>);

impl HostMinutes {
    pub fn record(&mut self, sample: &HostSample) {
        let at_ms = sample.at.timestamp_millis().div_euclid(MINUTE_MS) * MINUTE_MS;
        match self.0.iter_mut().find(|(minute, _)| *minute == at_ms) {
            Some((_, means)) => means.merge(&HostMeans::of(sample)),
            None => {
                if self.0.len() == MINUTES_KEPT {
                    self.0.pop_front();
                }
                self.0.push_back((at_ms, HostMeans::of(sample)));
            }
        }
    }

    /// The minutes that are over at `now_ms`, oldest first, each once.
    pub fn take(&mut self, now_ms: i64) -> Vec<(i64, HostMeans)> {
        let over = |(at_ms, _): &(i64, HostMeans)| at_ms + MINUTE_MS <= now_ms;
        let (done, rest): (Vec<_>, Vec<_>) = self.0.drain(..).partition(over);
        self.0 = rest.into();
        done
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::time::from_ms;
    use super::*;

    /// A machine of four cores and 1000 bytes with so much in use.
    pub(crate) fn sample(at_ms: i64, cpu: f64, memory: u64, disk: u64) -> HostSample {
        let cpu = Cpu { usage_percent: cpu, cores: 4.0 };
        let memory = Memory { total_bytes: 1000, used_bytes: memory, ..Memory::default() };
        let disk = Disk { mount: "/".to_owned(), total_bytes: 1000, used_bytes: disk, read_only: false };
        HostSample {
            at: from_ms(at_ms),
            vitals: Some(Vitals {
                cpu: Sides { host: cpu, container: None },
                load_average: [1.2, 1.1, 1.0],
                memory: Sides { host: memory, container: None },
                interfaces: Vec::new(),
                connections: 7,
                uptime: Duration::from_secs(86_400),
            }),
            disks: Some(Disks { disks: vec![disk], ..Disks::default() }),
        }
    }

    /// Usages of the CPU one after another, `None` for one that could not be seen, against a limit of 90.
    fn follow(usages: &[Option<f64>]) -> Judged {
        let mut watch = HostWatch::default();
        for usage in usages {
            let seen = sample(0, usage.unwrap_or_default(), 0, 0);
            let seen = HostSample { vitals: seen.vitals.filter(|_| usage.is_some()), ..seen };
            watch.take(&seen, &HostPolicy::default());
        }
        watch.judged(Resource::Cpu)
    }

    #[test]
    fn two_samples_above_the_limit_are_critical_and_two_at_it_end_that() {
        let (at, above, blind) = (Some(90.0), Some(90.1), None);
        let critical = Judged::Critical(90.1);
        let check = |usages: &[Option<f64>], judged: Judged| assert_eq!(follow(usages), judged, "{usages:?}");
        check(&[], Judged::NotYet);
        check(&[above], Judged::NotYet);
        check(&[at], Judged::NotYet);
        check(&[at, at], Judged::Normal);
        check(&[above, above], critical);
        check(&[at, at, above], Judged::Normal);
        check(&[above, at, above], Judged::NotYet);
        check(&[at, at, above, above], critical);
        check(&[above, above, at], critical);
        check(&[above, above, at, above], critical);
        check(&[above, above, at, at], Judged::Normal);
        check(&[above, blind, above], critical);
        check(&[above, above, blind, blind], critical);
    }

    #[test]
    fn each_resource_has_its_own_limit() {
        let mut watch = HostWatch::default();
        for _ in 0..2 {
            watch.take(&sample(0, 90.0, 851, 900), &HostPolicy::default());
        }
        let judged = Resource::ALL.map(|resource| watch.judged(resource));
        assert_eq!(judged, [Judged::Normal, Judged::Critical(85.1), Judged::Normal]);
        for _ in 0..2 {
            watch.take(&sample(0, 90.5, 850, 901), &HostPolicy::default());
        }
        let judged = Resource::ALL.map(|resource| watch.judged(resource));
        assert_eq!(judged, [Judged::Critical(90.5), Judged::Normal, Judged::Critical(90.1)]);
    }

    #[test]
    fn the_container_counts_where_it_has_a_limit_and_read_only_disks_never() {
        let mut seen = sample(0, 10.0, 100, 500);
        if let Some(vitals) = &mut seen.vitals {
            vitals.cpu.container = Some(Cpu { usage_percent: 95.0, cores: 0.5 });
        }
        if let Some(disks) = &mut seen.disks {
            let full = Disk { mount: "/ro".to_owned(), total_bytes: 10, used_bytes: 10, read_only: true };
            disks.disks.push(full);
        }
        let usages = Resource::ALL.map(|resource| seen.usage(resource));
        assert_eq!(usages, [Some(95.0), Some(10.0), Some(50.0)]);
        let blind = HostSample { vitals: None, disks: None, ..seen };
        assert_eq!(
            (blind.usage(Resource::Disk), blind.status(&Resource::ALL, &HostPolicy::default())),
            (None, Status::Unknown)
        );
    }

    #[test]
    fn one_resource_above_its_limit_is_enough() {
        let check = |cpu, memory, disk, expected| {
            let seen = sample(0, cpu, memory, disk);
            assert_eq!(seen.status(&Resource::ALL, &HostPolicy::default()), expected, "{cpu} {memory} {disk}");
        };
        check(90.0, 850, 900, Status::Healthy);
        check(90.1, 850, 900, Status::Unhealthy);
        check(90.0, 851, 900, Status::Unhealthy);
        check(90.0, 850, 901, Status::Unhealthy);
    }

    #[test]
    fn minutes_hold_means_and_are_taken_once_when_they_are_over() {
        let mut minutes = HostMinutes::default();
        for (at_ms, cpu) in [(0, 10.0), (30_000, 20.0), (59_999, 30.0), (60_000, 80.0)] {
            minutes.record(&sample(at_ms, cpu, 100, 500));
        }
        assert!(minutes.take(59_999).is_empty());
        let taken = minutes.take(60_000);
        assert_eq!(
            taken.iter().map(|(at_ms, means)| (*at_ms, means.cpu_percent)).collect::<Vec<_>>(),
            [(0, Some(20.0))]
        );
        let mut hour = taken[0].1;
        hour.merge(&minutes.take(120_000)[0].1);
        // Three samples and one: 10, 20, 30 and 80.
        assert_eq!((hour.cpu_percent, hour.disk_percent), (Some(35.0), Some(50.0)));
        assert!(minutes.take(i64::MAX / 2).is_empty());
    }
}
