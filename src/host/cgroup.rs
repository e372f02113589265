//! Limits of our control group, version 2 or 1: a container's share of the machine, and what of it is used. sysinfo knows
//! nothing of CPU quotas (its issue 207), hence our own reader.

use std::path::{Path, PathBuf};

/// A quota of CPU time, and what was used of it so far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuQuota {
    pub cores: f64,
    pub used_us: u64,
}

/// A limit of memory; `swap_*`: `None` where the group has no limit of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MemoryLimit {
    pub limit_bytes: u64,
    pub used_bytes: u64,
    pub swap_limit_bytes: Option<u64>,
    pub swap_used_bytes: Option<u64>,
}

/// The limits we are under; `None`: the machine is the limit.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    pub cpu: Option<CpuQuota>,
    pub memory: Option<MemoryLimit>,
}

/// Reads the limits under `root` (`/sys/fs/cgroup`) for the groups that `own` (`/proc/self/cgroup`) names. A limit may
/// stand on any group above ours: the tightest one counts, with the usage of its group.
pub fn read(root: &Path, own: &str) -> Limits {
    let unified = groups(root, path_of(own, ""));
    let older = |controller: &str| groups(&root.join(controller), path_of(own, controller));
    let (with_cpu, with_memory) = (older("cpu"), older("memory"));
    let quotas = unified.iter().filter_map(|group| quota_v2(group));
    let quotas = quotas.chain(with_cpu.iter().filter_map(|group| quota_v1(group, root)));
    let limits = unified.iter().filter_map(|group| memory_v2(group));
    let limits = limits.chain(with_memory.iter().filter_map(|group| memory_v1(group)));
    Limits {
        cpu: quotas.min_by(|a, b| a.cores.total_cmp(&b.cores)),
        memory: limits.min_by_key(|limit| limit.limit_bytes),
    }
}

/// The path of our group: `0::/path` in version 2 (`controller` empty), `4:cpu,cpuacct:/path` in version 1.
fn path_of<'a>(own: &'a str, controller: &str) -> &'a str {
    let lines = own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let found = lines.into_iter().find(|(controllers, _)| controllers.split(',').any(|known| known == controller));
    found.map_or("/", |(_, path)| path)
}

/// Our group and those above it, up to the mount. In a container the path may be the machine's and not be there.
fn groups(mount: &Path, path: &str) -> Vec<PathBuf> {
    let inside = mount.join(path.trim_start_matches('/'));
    inside.ancestors().take_while(|group| group.starts_with(mount)).map(Path::to_path_buf).collect()
}

fn text(group: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(group.join(file)).ok()
}

fn number(group: &Path, file: &str) -> Option<u64> {
    text(group, file)?.trim().parse().ok()
}

/// The number behind `key` in a file of `key number` lines.
fn field(group: &Path, file: &str, key: &str) -> Option<u64> {
    let text = text(group, file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    value.trim().parse().ok()
}

fn quota_v2(group: &Path) -> Option<CpuQuota> {
    let max = text(group, "cpu.max")?;
    let mut words = max.split_whitespace().map(str::parse::<f64>);
    // The first word is "max" where there is no quota.
    let (quota, period) = (words.next()?.ok()?, words.next()?.ok()?);
    let used_us = field(group, "cpu.stat", "usage_usec")?;
    (quota > 0.0 && period > 0.0).then_some(CpuQuota { cores: quota / period, used_us })
}

fn quota_v1(group: &Path, root: &Path) -> Option<CpuQuota> {
    // -1 where there is no quota.
    let quota = number(group, "cpu.cfs_quota_us").filter(|quota| *quota > 0)?;
    let period = number(group, "cpu.cfs_period_us").filter(|period| *period > 0)?;
    // The same group under the controller that counts, which may be mounted by itself.
    let inside = group.strip_prefix(root.join("cpu")).unwrap_or(Path::new(""));
    let used_ns = number(&root.join("cpuacct").join(inside), "cpuacct.usage")?;
    Some(CpuQuota { cores: quota as f64 / period as f64, used_us: used_ns / 1000 })
}

fn memory_v2(group: &Path) -> Option<MemoryLimit> {
    let limit_bytes = number(group, "memory.max")?;
    let current = number(group, "memory.current")?;
    Some(MemoryLimit {
        limit_bytes,
        // Pages of files that nobody has touched lately are given up first: not in use.
        used_bytes: current.saturating_sub(field(group, "memory.stat", "inactive_file").unwrap_or(0)),
        swap_limit_bytes: number(group, "memory.swap.max"),
        swap_used_bytes: number(group, "memory.swap.current"),
    })
}

fn memory_v1(group: &Path) -> Option<MemoryLimit> {
    let limit_bytes = number(group, "memory.limit_in_bytes")?;
    let current = number(group, "memory.usage_in_bytes")?;
    Some(MemoryLimit {
        limit_bytes,
        used_bytes: current.saturating_sub(field(group, "memory.stat", "total_inactive_file").unwrap_or(0)),
        swap_limit_bytes: None,
        swap_used_bytes: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files under a folder of their own, and what is read from them.
    fn read_from(own: &str, files: &[(&str, &str)]) -> Limits {
        let folder = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        read(folder.path(), own)
    }

    const STAT: &str = "anon 100\nfile 300\ninactive_file 200\ninactive_file_x 1\n";

    #[test]
    fn a_container_of_version_2_has_quota_memory_and_swap() {
        let limits = read_from(
            "0::/\n",
            &[
                ("cpu.max", "50000 100000\n"),
                ("cpu.stat", "usage_usec 1234567\nuser_usec 1\n"),
                ("memory.max", "1000\n"),
                ("memory.current", "700\n"),
                ("memory.stat", STAT),
                ("memory.swap.max", "0\n"),
                ("memory.swap.current", "0\n"),
            ],
        );
        assert_eq!(limits.cpu, Some(CpuQuota { cores: 0.5, used_us: 1_234_567 }));
        let memory =
            MemoryLimit { limit_bytes: 1000, used_bytes: 500, swap_limit_bytes: Some(0), swap_used_bytes: Some(0) };
        assert_eq!(limits.memory, Some(memory));
    }

    #[test]
    fn without_a_limit_there_is_no_container() {
        let unlimited = [
            ("cpu.max", "max 100000\n"),
            ("cpu.stat", "usage_usec 1\n"),
            ("memory.max", "max\n"),
            ("memory.current", "7\n"),
        ];
        assert_eq!(read_from("0::/\n", &unlimited), Limits::default());
        assert_eq!(read_from("0::/\n", &[]), Limits::default());
        assert_eq!(read_from("", &[("cpu.max", "gibberish")]), Limits::default());
    }

    #[test]
    fn the_tightest_limit_above_us_counts_with_the_usage_of_its_group() {
        let files = [
            ("a.slice/cpu.max", "100000 100000"),
            ("a.slice/cpu.stat", "usage_usec 9"),
            ("a.slice/b.service/cpu.max", "200000 100000"),
            ("a.slice/b.service/cpu.stat", "usage_usec 5"),
            ("a.slice/memory.max", "5000"),
            ("a.slice/memory.current", "90"),
            ("a.slice/b.service/memory.max", "400"),
            ("a.slice/b.service/memory.current", "50"),
        ];
        let limits = read_from("0::/a.slice/b.service\n", &files);
        assert_eq!(limits.cpu, Some(CpuQuota { cores: 1.0, used_us: 9 }));
        assert_eq!(limits.memory.map(|memory| (memory.limit_bytes, memory.used_bytes)), Some((400, 50)));
    }

    #[test]
    fn the_machines_path_inside_a_container_leads_to_the_containers_files() {
        let files = [("memory.max", "400"), ("memory.current", "50")];
        let limits = read_from("0::/docker/0123456789\n", &files);
        assert_eq!(limits.memory.map(|memory| memory.limit_bytes), Some(400));
    }

    #[test]
    fn version_1_is_read_where_its_controllers_are() {
        let limits = read_from(
            "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n",
            &[
                ("cpu/job/cpu.cfs_quota_us", "150000"),
                ("cpu/job/cpu.cfs_period_us", "100000"),
                ("cpu/cpu.cfs_quota_us", "-1"),
                ("cpuacct/job/cpuacct.usage", "2000000"),
                ("memory/job/memory.limit_in_bytes", "1000"),
                ("memory/job/memory.usage_in_bytes", "900"),
                ("memory/job/memory.stat", "inactive_file 1\ntotal_inactive_file 300\n"),
                ("memory/memory.limit_in_bytes", "9223372036854771712"),
                ("memory/memory.usage_in_bytes", "999999"),
            ],
        );
        assert_eq!(limits.cpu, Some(CpuQuota { cores: 1.5, used_us: 2000 }));
        assert_eq!(limits.memory.map(|memory| (memory.limit_bytes, memory.used_bytes)), Some((1000, 600)));
    }
}
