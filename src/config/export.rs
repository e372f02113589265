//! Section `[elasticsearch]`: what is exported, where to, and as whom.

use std::fs::File;
use std::io::Read;

use chrono::format::{Item, StrftimeItems};
use url::Url;

use super::reader::{Reader, Unit};
use crate::export::{Elasticsearch, ExportConfig, Login};
use crate::store::StoreConfig;

const SECTION: &str = "elasticsearch";
/// Characters no name of an index may hold: Elasticsearch, "Create index".
const NOT_IN_INDICES: [char; 12] = ['\\', '/', '*', '?', '"', '<', '>', '|', ' ', ',', '#', ':'];
const MEGABYTE: u64 = 1 << 20;
/// Of a file of certificates: our choice, twice what the bundle of a system takes.
const MOST_BUNDLE: u64 = MEGABYTE;
/// Days between which names of indices must differ: the next one, and those of the same day a month and a year on.
const APART: [i64; 4] = [1, 31, 365, 366];

/// The settings; `None`: the export is off. What is wrong is told in either case.
pub(super) fn read(r: &mut Reader, store: &StoreConfig) -> Option<ExportConfig> {
    let enabled = r.boolean(SECTION, "elasticsearch_enabled");
    let hosts = hosts(r);
    let login = login(r);
    let config = ExportConfig {
        hosts,
        login,
        verify: r.boolean(SECTION, "elasticsearch_verify_certs"),
        authorities: authorities(r),
        timeout: r.duration(SECTION, "elasticsearch_timeout_ms", Unit::Milliseconds, 100),
        interval: r.duration(SECTION, "elasticsearch_sync_interval", Unit::Seconds, 100),
        batch: r.number(SECTION, "elasticsearch_sync_batch_size", 1..=10_000) as usize,
        date_format: date_format(r),
        shards: r.number(SECTION, "elasticsearch_number_of_shards", 1..=1024),
        replicas: r.number(SECTION, "elasticsearch_number_of_replicas", 0..=100),
        retention_days: (store.check_retention.as_secs() / 86_400).max(1),
        backlog_bytes: r.number(SECTION, "elasticsearch_backlog_mb", 1..=1_000_000) * MEGABYTE,
    };
    if !enabled {
        return None;
    }
    if !store.persist_checks {
        r.refuse(SECTION, "elasticsearch_enabled", "needs the check history: set ENABLE_METRICS_PERSISTENCE=true");
    }
    if config.hosts.is_empty() && r.list(SECTION, "elasticsearch_hosts").is_empty() {
        r.refuse(SECTION, "elasticsearch_hosts", "must name a server, such as http://localhost:9200");
    }
    if let Err(error) = Elasticsearch::new(config.clone()) {
        r.refuse(SECTION, "elasticsearch_enabled", &format!("cannot be: {error}"));
    }
    Some(config)
}

fn hosts(r: &mut Reader) -> Vec<Url> {
    let mut hosts = Vec::new();
    for given in r.list(SECTION, "elasticsearch_hosts") {
        let url = Url::parse(&given).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        match url {
            Some(url) if !url.username().is_empty() || url.password().is_some() => r.refuse(
                SECTION,
                "elasticsearch_hosts",
                "must not hold a user: use ELASTICSEARCH_USERNAME and ELASTICSEARCH_PASSWORD",
            ),
            Some(url) if url.query().is_some() || url.fragment().is_some() => {
                r.refuse(SECTION, "elasticsearch_hosts", "must not hold a query or fragment");
            }
            Some(mut url) => {
                // What is joined to it comes after its path, not in place of it.
                if !url.path().ends_with('/') {
                    url.set_path(&format!("{}/", url.path()));
                }
                hosts.push(url);
            }
            None => {
                r.refuse(SECTION, "elasticsearch_hosts", "must be http or https addresses, as http://localhost:9200");
            }
        }
    }
    hosts
}

fn login(r: &mut Reader) -> Login {
    let name = r.text(SECTION, "elasticsearch_username");
    let password = r.text(SECTION, "elasticsearch_password");
    let key = r.text(SECTION, "elasticsearch_api_key");
    match (name.is_empty(), password.is_empty(), key.is_empty()) {
        (true, true, true) => Login::Nobody,
        (true, true, false) => Login::ApiKey(key.into()),
        (false, false, true) => Login::User { name, password: password.into() },
        (_, _, false) => {
            r.refuse(SECTION, "elasticsearch_api_key", "cannot be beside a user and password: set one of the two");
            Login::Nobody
        }
        _ => {
            r.refuse(SECTION, "elasticsearch_password", "and elasticsearch_username must be set together");
            Login::Nobody
        }
    }
}

fn authorities(r: &mut Reader) -> Vec<u8> {
    let path = r.text(SECTION, "elasticsearch_ca_file");
    if path.is_empty() {
        return Vec::new();
    }
    let mut bundle = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(MOST_BUNDLE + 1).read_to_end(&mut bundle));
    match read {
        Ok(bytes) if bytes as u64 > MOST_BUNDLE => {
            r.refuse(SECTION, "elasticsearch_ca_file", &format!("is larger than {MOST_BUNDLE} bytes: {path}"));
        }
        Ok(_) => return bundle,
        Err(error) => r.refuse(SECTION, "elasticsearch_ca_file", &format!("cannot be read: {path}: {error}")),
    }
    Vec::new()
}

/// strftime whose dates may be part of the name of an index.
fn date_format(r: &mut Reader) -> String {
    let format = r.text(SECTION, "elasticsearch_index_date_format");
    let items: Vec<Item<'_>> = StrftimeItems::new(&format).collect();
    if items.is_empty() || items.contains(&Item::Error) {
        r.refuse(SECTION, "elasticsearch_index_date_format", "must be a strftime format, such as %Y.%m.%d");
        return String::new();
    }
    // A time with a zone is all a check has: a format that asks for more would fail later.
    let shown = chrono::DateTime::UNIX_EPOCH.format_with_items(items.iter()).to_string();
    let is_bad = |c: char| NOT_IN_INDICES.contains(&c) || c.is_uppercase() || c.is_control();
    if shown.is_empty() || shown.len() > 100 || shown.contains(is_bad) {
        let rule = "must make names an index may have: lower case, without spaces, slashes and the like";
        r.refuse(SECTION, "elasticsearch_index_date_format", rule);
        return format;
    }
    let first = chrono::DateTime::UNIX_EPOCH;
    let named = |at: chrono::DateTime<chrono::Utc>| at.format_with_items(items.iter()).to_string();
    if APART.into_iter().any(|days| named(first + chrono::TimeDelta::days(days)) == shown) {
        let rule = "must give each day a name of its own, as %Y.%m.%d does: old indices are deleted whole";
        r.refuse(SECTION, "elasticsearch_index_date_format", rule);
    }
    format
}
