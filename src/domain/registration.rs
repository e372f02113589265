//! A registration over the API: a definition in either spelling, made canonical, kept as JSON, changed field by field.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::observation::clean;
use super::service::{Service, ServiceName, Source};
use super::spec::{Defaults, Problem, Problems, ServiceSpec};

/// The path a registration came in on: its defaults differ (CONTRACT.md 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// `/services`, source 003.
    Services,
    /// `/health/services`, source 002.
    Health,
}

/// A registered service as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// In canonical spelling, `name` included.
    pub definition: Map<String, Value>,
    pub door: Door,
    pub created: DateTime<Utc>,
    pub updated: DateTime<Utc>,
    /// Rises with each change.
    pub version: u64,
}

/// Other spellings of a field, and what a value in them is multiplied by: CONTRACT.md 5.1.
const SPELLINGS: [(&str, &str, f64); 11] = [
    ("health_check_url", "url", 0.0),
    ("critical_service", "critical", 0.0),
    ("dependencies", "depends_on", 0.0),
    ("check_interval", "check_interval_ms", 1000.0),
    ("check_interval_seconds", "check_interval_ms", 1000.0),
    ("timeout", "timeout_ms", 1000.0),
    ("timeout_seconds", "timeout_ms", 1000.0),
    ("service_name", "id", 0.0),
    ("custom_response_time_threshold", "thresholds.response_time_critical_ms", 0.0),
    ("custom_error_rate_threshold", "thresholds.error_rate_critical", 0.0),
    ("escalate_after_failures", "thresholds.consecutive_failures_critical", 0.0),
];

/// Fields of the record that a client may send back, and that say nothing new.
const READ_ONLY: [&str; 9] = [
    "created_at",
    "updated_at",
    "current_status",
    "source",
    "in_maintenance",
    "message",
    "status",
    "flapping",
    "version",
];

/// Most fields of one body: our choice, more than there are.
const MOST_FIELDS: usize = 128;

/// Fields that are tables.
const TABLES: [&str; 12] = [
    "thresholds",
    "headers",
    "expected_headers",
    "tcp",
    "udp",
    "dns",
    "tls",
    "icmp",
    "redis",
    "postgres",
    "filesystem",
    "grpc",
];

/// A body in canonical spelling.
#[derive(Debug, Clone, Default)]
pub struct Given {
    fields: Map<String, Value>,
    /// Canonical name, and the one that was sent.
    sent: Vec<(String, String)>,
}

impl Given {
    /// Makes `body` canonical.
    ///
    /// # Errors
    /// Two spellings of one field with different values; a field that cannot be written.
    pub fn read(body: Map<String, Value>) -> Result<Self, Vec<Problem>> {
        let mut given = Self::default();
        let mut problems = Vec::new();
        let mut refuse = |field: &str, message: &str| {
            problems.push(Problem { field: clean(field), message: message.to_owned() });
        };
        if body.len() > MOST_FIELDS {
            refuse("body", &format!("must be at most {MOST_FIELDS} fields"));
            return Err(problems);
        }
        let full_url = |value: &Value| value.as_str().is_some_and(|text| text.contains("://"));
        let has_id = body.contains_key("id") || body.contains_key("service_name");
        let by_address = body.contains_key("health_check_url") || body.get("health_endpoint").is_some_and(full_url);
        for (field, value) in body {
            if READ_ONLY.contains(&field.as_str()) {
                refuse(&field, "cannot be written");
                continue;
            }
            let (canonical, value) = match field.as_str() {
                "name" if !has_id && by_address => ("id".to_owned(), value),
                "name" => ("display_name".to_owned(), value),
                "health_endpoint" if full_url(&value) => ("url".to_owned(), value),
                other => match SPELLINGS.iter().find(|(spelling, _, _)| *spelling == other) {
                    Some((_, canonical, factor)) if *factor != 0.0 => {
                        // A number beyond all bounds stays one, for the rule about bounds to refuse.
                        let ms = value.as_f64().map(|seconds| Value::from((seconds * factor).clamp(-1e300, 1e300)));
                        ((*canonical).to_owned(), ms.unwrap_or(value))
                    }
                    Some((_, canonical, _)) => ((*canonical).to_owned(), value),
                    None => (field.clone(), value),
                },
            };
            if value.is_null() && !is_known(&canonical) {
                refuse(&field, "is not a field of a service");
                continue;
            }
            if value.is_null() && SPELLINGS.iter().any(|(spelling, _, factor)| *spelling == field && *factor != 0.0) {
                given.put(&canonical, Value::Null);
                given.sent.push((canonical, field));
                continue;
            }
            let before = if field == "thresholds" {
                given.merge_thresholds(&value)
            } else {
                given.put(&canonical, value.clone())
            };
            if before.is_some_and(|before| !same(&before, &value)) {
                let other = given.sent_as(&canonical);
                refuse(&field, &format!("disagrees with {other}"));
            }
            given.sent.push((canonical, field));
        }
        if problems.is_empty() { Ok(given) } else { Err(problems) }
    }

    /// Thresholds that came under names of their own stand beside those of the table.
    fn merge_thresholds(&mut self, value: &Value) -> Option<Value> {
        let (Some(known), Value::Object(table)) =
            (self.fields.get_mut("thresholds").and_then(Value::as_object_mut), value)
        else {
            return self.put("thresholds", value.clone());
        };
        for (field, value) in table {
            match known.get(field) {
                Some(before) if !same(before, value) => return Some(before.clone()),
                _ => known.insert(field.clone(), value.clone()),
            };
        }
        None
    }

    fn put(&mut self, canonical: &str, value: Value) -> Option<Value> {
        match canonical.split_once('.') {
            None => self.fields.insert(canonical.to_owned(), value),
            Some((table, field)) => {
                let table = self.fields.entry(table).or_insert_with(|| Value::Object(Map::new()));
                table.as_object_mut()?.insert(field.to_owned(), value)
            }
        }
    }

    /// The name the client used for a field.
    pub fn sent_as(&self, canonical: &str) -> String {
        let base = canonical.strip_suffix("_ms").unwrap_or(canonical);
        let is_it = |known: &str| known == canonical || known.strip_suffix("_ms").unwrap_or(known) == base;
        let sent = self.sent.iter().find(|(known, _)| is_it(known) || (canonical == "name" && known == "id"));
        sent.map_or_else(|| canonical.to_owned(), |(_, sent)| sent.clone())
    }

    /// The service that is meant, if the body says so.
    pub fn id(&self) -> Option<&Value> {
        self.fields.get("id")
    }

    pub fn sends(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// Puts these fields over `definition`: `null` takes one away, tables are replaced as they are sent.
    fn over(&self, definition: &mut Map<String, Value>) {
        for (field, value) in self.fields.iter().filter(|(field, _)| *field != "id") {
            let twin = match field.as_str() {
                "expected_status_code" => Some("expected_status_codes"),
                "expected_status_codes" => Some("expected_status_code"),
                "retries" => Some("retry_on_failure"),
                "retry_on_failure" => Some("retries"),
                _ => None,
            };
            if let Some(twin) = twin.filter(|twin| !self.fields.contains_key(*twin)) {
                definition.remove(twin);
            }
            match (definition.get_mut(field), value) {
                (_, Value::Null) => {
                    definition.remove(field);
                }
                (Some(Value::Object(known)), Value::Object(more)) if field == "thresholds" => {
                    known.extend(more.clone());
                    known.retain(|_, value| !value.is_null());
                }
                _ => {
                    definition.insert(field.clone(), value.clone());
                }
            }
        }
    }
}

/// Whether a definition has a field of this name: the definition itself is asked.
fn is_known(canonical: &str) -> bool {
    let field = canonical.split('.').next().unwrap_or_default();
    let asked = Map::from_iter([(field.to_owned(), Value::Null)]);
    let refusal = serde_json::from_value::<ServiceSpec>(Value::Object(asked)).err();
    field == "id" || refusal.is_none_or(|error| !error.to_string().starts_with("unknown field"))
}

/// Equal values; whole numbers equal their decimal form.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| (a - b).abs() < 1e-6)
}

impl Registration {
    /// A new registration of what `given` says.
    ///
    /// # Errors
    /// No name, or a name that is no text.
    pub fn new(given: &Given, door: Door, now: DateTime<Utc>) -> Result<Self, Vec<Problem>> {
        let mut definition = Map::new();
        match given.id() {
            Some(Value::String(name)) => definition.insert("name".to_owned(), Value::from(name.clone())),
            other => {
                let message = if other.is_none() { "is required" } else { "must be a text" };
                return Err(vec![Problem { field: given.sent_as("id"), message: message.to_owned() }]);
            }
        };
        given.over(&mut definition);
        let version = now.timestamp_millis().max(1).cast_unsigned();
        Ok(Self { definition, door, created: now, updated: now, version })
    }

    /// The same registration with the fields of `given` changed.
    pub fn changed(&self, given: &Given, now: DateTime<Utc>) -> Self {
        let mut next = self.clone();
        given.over(&mut next.definition);
        if next.definition != self.definition {
            next.updated = now;
            next.version = (self.version + 1).max(now.timestamp_millis().max(1).cast_unsigned());
        }
        next
    }

    /// The service this defines.
    ///
    /// # Errors
    /// Every rule that is broken, by canonical field.
    pub fn service(&self, defaults: &Defaults) -> Result<Service, Vec<Problem>> {
        let own = &defaults.registered;
        let (interval, timeout) = match self.door {
            Door::Services => (std::time::Duration::from_secs(60), own.timeout),
            Door::Health => (std::time::Duration::from_secs(30), defaults.timeout),
        };
        let defaults = Defaults { interval: own.interval.unwrap_or(interval), timeout, ..defaults.clone() };
        let shapeless = self.misshapen();
        if !shapeless.is_empty() {
            return Err(shapeless);
        }
        let spec: ServiceSpec = serde_path_to_error::deserialize(Value::Object(self.definition.clone()))
            .map_err(|error| vec![unreadable(&error)])?;
        let service = spec.into_service(&defaults, Source::Api)?;
        Ok(service.dated(self.created, self.updated, self.version))
    }

    /// Tables that are none: serde would take a list for one, field by field.
    fn misshapen(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        for table in TABLES {
            if self.definition.get(table).is_some_and(|value| !value.is_object()) {
                problems.add(table, "must be a table of fields");
            }
        }
        let list = |field: &str| self.definition.get(field).and_then(Value::as_array).into_iter().flatten();
        if list("depends_on").any(Value::is_array) {
            problems.add("depends_on", "must be names, or tables of name, hold_alerts and degrade");
        }
        for condition in list("expected_json") {
            match condition.as_object() {
                None => problems.add("expected_json", "must be tables of path, op and value"),
                Some(table) if !table.contains_key("value") && table.get("op").is_none_or(|op| op != "exists") => {
                    problems.add("expected_json", "needs a value for every op but exists");
                }
                Some(_) => {}
            }
        }
        problems.0
    }

    /// The name it registers, if it is one.
    pub fn name(&self) -> Option<ServiceName> {
        ServiceName::new(self.definition.get("name")?.as_str()?).ok()
    }
}

/// What serde refuses, by field.
fn unreadable(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let text = error.inner().to_string();
    let unknown = text.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let path = error.path().to_string();
    match unknown {
        Some(field) => {
            let table = path.rsplit_once('.').map(|(table, last)| if last == field { table } else { &path });
            let field = match table.or(Some(path.as_str()).filter(|path| *path != "." && *path != field)) {
                Some(table) => format!("{table}.{}", clean(field)),
                None => clean(field),
            };
            Problem { field, message: "is not a field of a service".to_owned() }
        }
        // The words of the parser repeat what was sent.
        None if ["headers", "body", "redis", "tcp", "udp", "url"]
            .contains(&path.split(['.', '[']).next().unwrap_or("")) =>
        {
            Problem { field: clean(&path), message: "has the wrong type".to_owned() }
        }
        None => Problem { field: clean(&path), message: clean(&text) },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::time::from_ms;
    use super::*;

    fn given(body: Value) -> Result<Given, Vec<Problem>> {
        let Value::Object(body) = body else { unreachable!() };
        Given::read(body)
    }

    fn register(body: Value) -> Result<Service, Vec<Problem>> {
        let given = given(body)?;
        Registration::new(&given, Door::Services, from_ms(1000))?.service(&Defaults::default())
    }

    #[test]
    fn both_spellings_define_the_same_service() {
        let of_003 = json!({"id": "auth", "url": "http://auth:8001/health", "timeout": 5, "check_interval": 30});
        let of_002 = json!({
            "service_name": "auth", "health_check_url": "http://auth:8001/health", "timeout_seconds": 5.0,
            "check_interval_seconds": 30,
        });
        let (a, b) = (register(of_003).unwrap(), register(of_002).unwrap());
        assert_eq!((a.fingerprint, a.url.as_str()), (b.fingerprint, "http://auth:8001/health"));
        let named = register(json!({"name": "auth", "health_endpoint": "http://auth:8001/health"})).unwrap();
        assert_eq!((named.name.as_str(), named.url.as_str()), ("auth", "http://auth:8001/health"));
        let shown = register(json!({"id": "auth", "name": "Auth Service", "url": "http://a/"})).unwrap();
        assert_eq!((shown.name.as_str(), shown.display_name.as_str()), ("auth", "Auth Service"));
        assert_eq!(shown.interval.as_secs(), 60);
    }

    #[test]
    fn what_is_wrong_is_told_by_field() {
        let check = |body: Value, field: &str| {
            let problems = register(body.clone()).map(|_| ()).unwrap_err();
            assert!(problems.iter().any(|problem| problem.field == field), "{body}: {problems:?}");
        };
        check(json!({"url": "http://a/"}), "id");
        check(json!({"id": 7, "url": "http://a/"}), "id");
        check(json!({"id": "a", "url": "http://a/", "timeout": 5, "timeout_ms": 6000}), "timeout_ms");
        check(json!({"id": "a", "url": "http://a/", "colour": 1}), "colour");
        check(json!({"id": "a", "url": "http://a/", "thresholds": {"colour": 1}}), "thresholds.colour");
        check(json!({"id": "a", "url": "http://a/", "retries": "many"}), "retries");
        check(json!({"id": "a", "url": "http://a/", "status": "healthy"}), "status");
        check(json!({"id": "a", "url": "http://a/", "timeout": 1e308}), "timeout");
        check(json!({"id": "a", "url": "http://u:p@a/"}), "url");
        check(json!({"id": "a", "url": "http://a/", "headers": {"Host": "b"}}), "headers");
        check(json!({"id": "a", "url": "tcp://a"}), "url");
        check(json!({"id": "a", "url": "a:1", "protocol": "smtp"}), "protocol");
        check(json!({"id": "a", "url": "redis://a", "protocol": "tcp"}), "protocol");
        check(json!({"id": "a", "url": "tcp://a:1", "redis": {}}), "redis");
        check(json!({"id": "a", "url": "tcp://a:1", "method": "POST"}), "method");
        check(json!({"id": "a", "protocol": "filesystem", "filesystem": {"paths": ["/etc"]}}), "filesystem.paths");
        check(
            json!({"id": "a", "protocol": "filesystem", "filesystem": {"paths": ["/tmp/../etc"]}}),
            "filesystem.paths",
        );
        check(json!({"id": "a", "url": "https://a", "tls": {"ca_file": "/etc/passwd"}}), "tls.ca_file");
        check(json!({"id": "a", "url": "http://a", "maintenance_windows": [1]}), "maintenance_windows");
        check(json!({"id": "a", "url": "http://a", "expected_json": [{"path": "x[", "op": "eq"}]}), "expected_json");
        check(json!({"id": "a", "url": "http://a", "depends_on_any": [["b"]]}), "depends_on_any");
    }

    #[test]
    fn hosts_that_hide_a_forbidden_address_are_refused() {
        let mut defaults = Defaults::default();
        defaults.registered.egress.development = false;
        let check = |url: &str, allowed: bool| {
            let given = given(json!({"id": "a", "url": url})).unwrap();
            let service = Registration::new(&given, Door::Services, from_ms(1)).unwrap().service(&defaults);
            assert_eq!(service.is_ok(), allowed, "{url}: {:?}", service.map(|service| service.url));
        };
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://017700000001/",
            "http://[::ffff:169.254.169.254]/",
            "http://169.254.169.254/latest/meta-data/",
            "http://metadata.google.internal/",
            "http://localhost:80/",
            "tcp://0x7f000001:22",
            "redis://2130706433",
            "icmp://10.0.0.1",
        ] {
            check(url, false);
        }
        check("http://example.com/", true);
        check("dns://localhost", true);
        check("tcp://8.8.8.8:53", true);
    }

    #[test]
    fn a_change_touches_only_what_is_sent() {
        let first = given(json!({
            "id": "auth", "url": "http://auth/", "timeout": 4, "expected_status_code": 204,
            "thresholds": {"response_time_warning_ms": 200},
        }));
        let first = Registration::new(&first.unwrap(), Door::Health, from_ms(1000)).unwrap();
        let patch = given(json!({"timeout_seconds": 3, "expected_status_codes": [200], "description": "x"})).unwrap();
        let next = first.changed(&patch, from_ms(2000));
        let service = next.service(&Defaults::default()).unwrap();
        assert_eq!((service.timeout.as_secs(), service.expected.codes.as_slice()), (3, [200].as_slice()));
        assert_eq!(service.limits.latency.warning_ms, 200);
        assert!(next.version > first.version && next.updated > first.updated);
        let cleared = next.changed(&given(json!({"description": null})).unwrap(), from_ms(3000));
        assert_eq!(cleared.service(&Defaults::default()).unwrap().description, None);
        assert_eq!(first.changed(&Given::default(), from_ms(9000)), first);
    }
}
