//! What this process uses of the machine, as `/proc` tells it.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::domain::host::ProcessUse;

/// What `/proc` counts in a second: USER_HZ, which is the same for programs whatever the kernel itself counts in.
const TICKS: f64 = 100.0;

/// Blocking: reads a few small files, and the list of open ones. `None` where the system does not tell.
pub fn usage() -> Option<ProcessUse> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let nanos = u32::try_from(cpu.tv_nsec).unwrap_or(0);
    Some(ProcessUse {
        resident_bytes: bytes(&status, "VmRSS:")?,
        virtual_bytes: bytes(&status, "VmSize:")?,
        cpu: Duration::new(u64::try_from(cpu.tv_sec).unwrap_or(0), nanos),
        // The list itself is open while it is read.
        open_files: (std::fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1),
        most_open_files: getrlimit(Resource::Nofile).current,
        started: started()?,
    })
}

/// A line of `/proc/self/status` in kilobytes, as bytes.
fn bytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The start of the machine, and from there that of the process: the same however often it is asked for.
fn started() -> Option<f64> {
    let machine = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: f64 = machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let own = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program may hold spaces and brackets; the start is the twentieth field after it.
    let ticks: f64 = own.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    Some(boot + ticks / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_knows_what_it_uses() {
        let (first, second) = (usage().unwrap(), usage().unwrap());
        assert!(first.resident_bytes > 1024 * 1024 && first.virtual_bytes >= first.resident_bytes, "{first:?}");
        assert!(first.open_files >= 3 && second.cpu >= first.cpu, "{first:?} {second:?}");
        assert_eq!(first.started, second.started);
        assert!(first.started > 1.0e9, "{first:?}");
    }
}
