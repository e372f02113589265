//! Which way imports point, who may read the clock, and how a file begins: held here, changed here with a reason.

use std::path::{Path, PathBuf};

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The part of the crate a file belongs to, its code without tests, and its path.
fn parts() -> Vec<(String, String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let parts = sources(&root).into_iter().map(|path| {
        let inside = path.strip_prefix(&root).unwrap().display().to_string();
        let part = inside.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
        (part, code, inside)
    });
    parts.collect()
}

#[test]
fn imports_point_down() {
    let below = |part: &str| -> &[&str] {
        match part {
            "domain" => &["domain"],
            // The host is looked at as targets are probed, and an action carried out as a message is sent: beside them.
            "clock" | "events" | "export" | "host" | "notify" | "probes" | "remedy" | "store" => &["domain"],
            "engine" => {
                &["probes", "host", "remedy", "store", "export", "notify", "events", "clock", "domain", "engine"]
            }
            "api" => &["engine", "store", "events", "clock", "domain", "api"],
            _ => &[
                "api",
                "engine",
                "probes",
                "remedy",
                "host",
                "store",
                "export",
                "notify",
                "events",
                "clock",
                "domain",
                "config",
                "telemetry",
                "app",
                "admin",
                "systemd",
                "watchdog",
                "demo",
                "cli",
            ],
        }
    };
    for (part, code, file) in parts() {
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for after in line.split("crate::").skip(1) {
                let target: String = after.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                let allowed = target == part || below(&part).contains(&target.as_str()) || target.is_empty();
                assert!(allowed, "{file} imports {target}: {line}");
            }
        }
    }
}

#[test]
fn the_domain_is_pure() {
    for (part, code, file) in parts().iter().filter(|(part, _, _)| part == "domain") {
        for forbidden in ["tokio", "std::net::Tcp", "std::fs", "Instant::now", "SystemTime", "async fn", ".await"] {
            assert!(!code.contains(forbidden), "{file} ({part}) uses {forbidden}");
        }
    }
}

#[test]
fn only_the_clock_reads_the_wall_clock() {
    for (part, code, file) in parts() {
        assert!(part == "clock" || !code.contains("Utc::now"), "{file} calls Utc::now");
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (_, code, file) in parts() {
        assert!(code.starts_with("//!"), "{file} does not open with its duty");
    }
}
