//! Looks at the machine, or container, we run in, through sysinfo, `/proc` and the control group. Blocking work, on threads
//! of its own (`lane`): the disks on one of theirs, because a file system may hang. It judges nothing.

mod cgroup;
mod lane;
pub mod process;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, Networks, System};
use tokio::sync::oneshot;

use self::lane::Lane;
use crate::domain::host::{Cpu, Disk, Disks, HostSample, Interface, Memory, Sides, Vitals};

/// Longest wait for one look: our choice, half of the shortest interval there is.
const LOOK_LIMIT: Duration = Duration::from_millis(500);
/// File systems and interfaces shown at most: our choice; a host of containers has thousands of each.
const MOST_SHOWN: usize = 128;

/// Samples the host, one look at a time.
pub struct Sampler {
    vitals: Lane<Vitals>,
    disks: Lane<Disks>,
}

impl Default for Sampler {
    fn default() -> Self {
        Self { vitals: Lane::new("host-vitals", watch_vitals), disks: Lane::new("host-disks", watch_disks) }
    }
}

impl Sampler {
    /// One look, at `at`; what does not answer in time is left out.
    pub async fn sample(&mut self, at: DateTime<Utc>) -> HostSample {
        let (vitals, disks) = tokio::join!(self.vitals.look(LOOK_LIMIT), self.disks.look(LOOK_LIMIT));
        HostSample { at, vitals, disks }
    }
}

fn watch_vitals(asks: Receiver<oneshot::Sender<Vitals>>) {
    let (Ok(mut system), Ok(mut networks)) = (System::new(), Networks::new_with_refreshed_list()) else {
        tracing::warn!("the host cannot be sampled: the system does not tell");
        return;
    };
    // Usage is the difference of two looks: the second must not come too early.
    system.refresh_cpu_usage();
    let mut before = container();
    let mut last = Instant::now();
    std::thread::sleep(MINIMUM_CPU_UPDATE_INTERVAL);
    for ask in asks {
        system.refresh_cpu_usage();
        system.refresh_memory();
        networks.refresh(true);
        let limits = container();
        let elapsed = std::mem::replace(&mut last, Instant::now()).elapsed();
        let cores = system.cpus().len() as f64;
        let cpu = Sides {
            host: Cpu { usage_percent: f64::from(system.global_cpu_usage()).clamp(0.0, 100.0), cores },
            container: limits.cpu.zip(before.cpu).and_then(|(now, before)| share(now, before, elapsed, cores)),
        };
        let host = Memory {
            total_bytes: system.total_memory(),
            used_bytes: system.total_memory().saturating_sub(system.available_memory()),
            swap_total_bytes: system.total_swap(),
            swap_used_bytes: system.used_swap(),
        };
        let container = limits.memory.and_then(|limit| contained(limit, &host));
        before = limits;
        let load = System::load_average().map_or([0.0; 3], |load| [load.one, load.five, load.fifteen]);
        // Nobody may be waiting any more.
        let _ = ask.send(Vitals {
            cpu,
            load_average: load,
            memory: Sides { host, container },
            interfaces: interfaces(&networks, elapsed),
            connections: ["/proc/net/sockstat", "/proc/net/sockstat6"].into_iter().map(sockets).sum(),
            uptime: Duration::from_secs(System::uptime().unwrap_or(0)),
        });
    }
}

fn container() -> cgroup::Limits {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cgroup::read(Path::new("/sys/fs/cgroup"), &own)
}

/// What of a quota was used between two looks; a quota beyond the machine is none.
fn share(now: cgroup::CpuQuota, before: cgroup::CpuQuota, elapsed: Duration, cores: f64) -> Option<Cpu> {
    let spent = now.used_us.saturating_sub(before.used_us) as f64;
    let allowed = now.cores * elapsed.as_micros() as f64;
    let usage_percent = if allowed > 0.0 { (100.0 * spent / allowed).min(100.0) } else { 0.0 };
    (now.cores < cores).then_some(Cpu { usage_percent, cores: now.cores })
}

/// The memory of a container; a limit beyond the machine is none.
fn contained(limit: cgroup::MemoryLimit, host: &Memory) -> Option<Memory> {
    (limit.limit_bytes < host.total_bytes).then(|| Memory {
        total_bytes: limit.limit_bytes,
        used_bytes: limit.used_bytes.min(limit.limit_bytes),
        swap_total_bytes: limit.swap_limit_bytes.unwrap_or(u64::MAX).min(host.swap_total_bytes),
        swap_used_bytes: limit.swap_used_bytes.unwrap_or(host.swap_used_bytes),
    })
}

fn per_second(bytes: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() { 0.0 } else { bytes as f64 / elapsed.as_secs_f64() }
}

fn interfaces(networks: &Networks, elapsed: Duration) -> Vec<Interface> {
    let seen = networks.iter().map(|(name, data)| Interface {
        name: name.to_string_lossy().into_owned(),
        rx_bytes: data.total_received(),
        tx_bytes: data.total_transmitted(),
        rx_rate: per_second(data.received(), elapsed),
        tx_rate: per_second(data.transmitted(), elapsed),
    });
    let mut interfaces: Vec<Interface> = seen.collect();
    interfaces.sort_by(|a, b| a.name.cmp(&b.name));
    interfaces.truncate(MOST_SHOWN);
    interfaces
}

/// TCP sockets in use, as the kernel counts them; none where it does not. Why not a count of its table of connections: to
/// print tens of thousands of them takes the kernel tenths of a second, and probes wait for it.
fn sockets(counts: &str) -> u64 {
    let text = std::fs::read_to_string(counts).unwrap_or_default();
    let in_use = text.lines().filter_map(|line| {
        let (protocol, rest) = line.split_once(": inuse ")?;
        let count = rest.split_whitespace().next()?.parse::<u64>().ok()?;
        matches!(protocol, "TCP" | "TCP6").then_some(count)
    });
    in_use.sum()
}

fn watch_disks(asks: Receiver<oneshot::Sender<Disks>>) {
    let Ok(mut listed) = sysinfo::Disks::new_with_refreshed_list() else {
        tracing::warn!("the disks cannot be sampled: the system does not tell");
        return;
    };
    let mut last = Instant::now();
    for ask in asks {
        listed.refresh(true);
        let elapsed = std::mem::replace(&mut last, Instant::now()).elapsed();
        let _ = ask.send(disks(&listed, elapsed));
    }
}

/// Each device once, under its first mount: in a container it is mounted for single files too.
fn disks(listed: &sysinfo::Disks, elapsed: Duration) -> Disks {
    let mut known: HashSet<(&OsStr, u64)> = HashSet::new();
    let mut seen = Disks::default();
    let (mut read, mut written) = (0, 0);
    for disk in listed.iter().filter(|disk| disk.total_space() > 0) {
        if !known.insert((disk.name(), disk.total_space())) {
            continue;
        }
        read += disk.usage().read_bytes;
        written += disk.usage().written_bytes;
        if seen.disks.len() < MOST_SHOWN {
            seen.disks.push(Disk {
                mount: disk.mount_point().to_string_lossy().into_owned(),
                total_bytes: disk.total_space(),
                used_bytes: disk.total_space().saturating_sub(disk.available_space()),
                read_only: disk.is_read_only(),
            });
        }
    }
    seen.read_rate = per_second(read, elapsed);
    seen.write_rate = per_second(written, elapsed);
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_machine_is_seen() {
        let mut sampler = Sampler::default();
        let at = DateTime::UNIX_EPOCH;
        // The first look waits for a difference; a busy machine may take longer than the limit.
        let seen = async {
            loop {
                let sample = sampler.sample(at).await;
                if sample.vitals.is_some() && sample.disks.is_some() {
                    return sample;
                }
            }
        };
        let sample = tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap();
        let vitals = sample.vitals.unwrap();
        let cpu = vitals.cpu.ours();
        assert!((0.0..=100.0).contains(&cpu.usage_percent) && cpu.cores > 0.0, "{cpu:?}");
        let memory = vitals.memory.ours();
        assert!(memory.used_bytes > 0 && memory.used_bytes < memory.total_bytes, "{memory:?}");
        assert!(vitals.uptime > Duration::ZERO);
        assert!(vitals.interfaces.iter().any(|interface| interface.name == "lo"), "{:?}", vitals.interfaces);
    }

    #[test]
    fn a_container_is_measured_by_its_own_limits() {
        let quota = |used_us| cgroup::CpuQuota { cores: 0.5, used_us };
        let second = Duration::from_secs(1);
        let check = |spent: u64, cores: f64, expected: Option<f64>| {
            let seen = share(quota(1_000_000 + spent), quota(1_000_000), second, cores);
            assert_eq!(seen.map(|cpu| cpu.usage_percent), expected, "{spent} of {cores}");
        };
        check(0, 2.0, Some(0.0));
        check(250_000, 2.0, Some(50.0));
        check(500_000, 2.0, Some(100.0));
        check(600_000, 2.0, Some(100.0));
        check(250_000, 0.5, None);

        let limit = cgroup::MemoryLimit {
            limit_bytes: 400,
            used_bytes: 100,
            swap_limit_bytes: None,
            swap_used_bytes: Some(10),
        };
        let host = Memory { total_bytes: 1000, used_bytes: 900, swap_total_bytes: 50, swap_used_bytes: 20 };
        let seen = contained(limit, &host).unwrap();
        assert_eq!((seen.usage_percent(), seen.swap_total_bytes, seen.swap_used_bytes), (25.0, 50, 10));
        assert_eq!(contained(limit, &Memory { total_bytes: 400, ..host }), None);
    }

    #[test]
    fn sockets_are_those_the_kernel_counts() {
        let folder = tempfile::tempdir().unwrap();
        let counts = folder.path().join("sockstat");
        std::fs::write(&counts, "sockets: used 64\nTCP: inuse 44 orphan 0 tw 51\nUDP: inuse 3 mem 0\n").unwrap();
        assert_eq!(sockets(counts.to_str().unwrap()), 44);
        std::fs::write(&counts, "TCP6: inuse 3\nUDP6: inuse 1\nFRAG6: inuse x\n").unwrap();
        assert_eq!(sockets(counts.to_str().unwrap()), 3);
        assert_eq!(sockets("/no/such/file"), 0);
    }
}
