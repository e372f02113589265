//! A maintenance window as it is asked for: in a request, or in the services file. Unknown fields and broken rules are
//! refused, all at once.

use chrono::{DateTime, NaiveDateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{MOST_SERVICES, MaintenanceWindow, Recurrence, Scope, WindowSource};
use crate::domain::observation::clean;
use crate::domain::service::ServiceName;
use crate::domain::spec::{MOST_TOLD, Problem};
use crate::domain::time::from_ms;

/// RFC 3339 with any offset; without one it is UTC (CONTRACT.md section 1).
pub fn instant(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    let with_offset = DateTime::parse_from_rfc3339(text).map(|at| at.with_timezone(&Utc));
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
    let at = with_offset.ok().or_else(|| {
        naive.iter().find_map(|format| NaiveDateTime::parse_from_str(text, format).ok()).map(|at| at.and_utc())
    })?;
    // Kept in whole milliseconds, within years that are shown with four digits.
    (1970..10_000).contains(&chrono::Datelike::year(&at)).then(|| from_ms(at.timestamp_millis()))
}

/// Reads fields one by one and collects what is wrong.
struct Reading<'a> {
    fields: &'a Map<String, Value>,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn refuse(&mut self, field: &str, message: impl Into<String>) {
        if self.problems.len() < MOST_TOLD {
            self.problems.push(Problem { field: field.to_owned(), message: message.into() });
        }
    }

    /// `None`: not sent.
    fn text(&mut self, field: &str) -> Option<Option<String>> {
        match self.fields.get(field)? {
            Value::Null => Some(None),
            Value::String(text) => Some(Some(text.clone())),
            _ => {
                self.refuse(field, "must be a text");
                None
            }
        }
    }

    fn instant(&mut self, field: &str) -> Option<DateTime<Utc>> {
        let text = self.text(field)?;
        let at = text.as_deref().and_then(instant);
        if at.is_none() {
            self.refuse(field, "must be a time such as 2026-01-31T10:30:00Z");
        }
        at
    }

    fn texts(&mut self, field: &str) -> Option<Vec<String>> {
        let list = match self.fields.get(field)? {
            Value::Null => return Some(Vec::new()),
            Value::Array(list) => list.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>(),
            _ => None,
        };
        if list.is_none() {
            self.refuse(field, "must be a list of texts");
        }
        list
    }
}

const FIELDS: [&str; 11] = [
    "id",
    "endpoint_ids",
    "affected_services",
    "tags",
    "categories",
    "start_time",
    "end_time",
    "name",
    "description",
    "created_by",
    "recurrence",
];

/// The window that `fields` ask for: a new one, or `base` with what is sent changed. `known` finds a service by name.
///
/// # Errors
/// Every rule that is broken.
pub fn window(
    fields: &Map<String, Value>,
    base: Option<&MaintenanceWindow>,
    source: WindowSource,
    known: impl Fn(&ServiceName) -> Option<ServiceName>,
    now: DateTime<Utc>,
) -> Result<MaintenanceWindow, Vec<Problem>> {
    let mut reading = Reading { fields, problems: Vec::new() };
    for field in fields.keys().filter(|field| !FIELDS.contains(&field.as_str())) {
        reading.refuse(&clean(field), "is not a field of a maintenance window");
    }
    if let Some(id) = fields.get("id")
        && base.is_none_or(|base| id.as_str() != Some(base.id.to_string().as_str()))
    {
        reading.refuse("id", "cannot be written");
    }
    let start = reading.instant("start_time").or(base.map(|base| base.start));
    let end = reading.instant("end_time").or(base.map(|base| base.end));
    for (field, at) in [("start_time", start), ("end_time", end)] {
        if at.is_none() && !fields.contains_key(field) {
            reading.refuse(field, "is required");
        }
    }
    let text = |given: Option<Option<String>>, before: Option<Option<String>>| given.or(before).flatten();
    let name = text(reading.text("name"), base.map(|base| base.name.clone()));
    let description = text(reading.text("description"), base.map(|base| base.description.clone()));
    let created_by = text(reading.text("created_by"), base.map(|base| base.created_by.clone()));
    let scope = scope(&mut reading, base, known);
    let recurrence = recurrence(&mut reading, base);
    let (Some(start), Some(end)) = (start, end) else { return Err(reading.problems) };
    let window = MaintenanceWindow {
        id: base.map_or_else(|| id_for(source, fields, now), |base| base.id),
        name,
        description,
        created_by,
        start,
        end,
        scope,
        recurrence,
        source,
        created_at: base.map_or(now, |base| base.created_at),
        updated_at: now,
        changed_in_force: base.filter(|base| base.start.min(start) < now).map(|_| now),
    };
    let told = |(field, message): (&str, String)| Problem { field: field.to_owned(), message };
    reading.problems.extend(window.check().into_iter().map(told));
    if reading.problems.is_empty() { Ok(window) } else { Err(reading.problems) }
}

/// A window of the file is the same window after each reading: its id is made of what it says.
fn id_for(source: WindowSource, fields: &Map<String, Value>, now: DateTime<Utc>) -> Uuid {
    match source {
        WindowSource::Api => {
            let ms = now.timestamp_millis().max(0).cast_unsigned();
            let random = Uuid::new_v4().into_bytes();
            let mut tail = [0; 10];
            tail.copy_from_slice(&random[..10]);
            uuid::Builder::from_unix_timestamp_millis(ms, &tail).into_uuid()
        }
        WindowSource::File => {
            let text = Value::Object(fields.clone()).to_string();
            let fold = |seed: u64| {
                text.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
            };
            let (high, low) = (fold(0xcbf2_9ce4_8422_2325), fold(0x9e37_79b9_7f4a_7c15));
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&high.to_be_bytes());
            bytes[8..].copy_from_slice(&low.to_be_bytes());
            uuid::Builder::from_custom_bytes(bytes).into_uuid()
        }
    }
}

fn scope(
    reading: &mut Reading<'_>,
    base: Option<&MaintenanceWindow>,
    known: impl Fn(&ServiceName) -> Option<ServiceName>,
) -> Scope {
    let before = base.map(|base| base.scope.clone()).unwrap_or_default();
    let ids = reading.texts("endpoint_ids");
    let listed = reading.text("affected_services").map(Option::unwrap_or_default).map(|text| {
        if !text.trim().is_empty() && text.split(',').all(|name| name.trim().is_empty()) {
            reading.refuse("affected_services", "names nobody: leave it out to cover everyone");
        }
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    });
    if let (Some(ids), Some(listed)) = (&ids, &listed)
        && ids != listed
    {
        reading.refuse("affected_services", "disagrees with endpoint_ids");
    }
    let field = if ids.is_some() { "endpoint_ids" } else { "affected_services" };
    let sent = ids.or(listed);
    let (tags, categories) = (reading.texts("tags"), reading.texts("categories"));
    let named_nobody = sent.as_ref().is_some_and(Vec::is_empty);
    let services = match sent {
        None => before.services,
        Some(names) => {
            let mut services: Vec<ServiceName> = Vec::new();
            if names.len() > MOST_SERVICES {
                reading.refuse(field, format!("must be at most {MOST_SERVICES}"));
            }
            for text in names.into_iter().take(MOST_SERVICES) {
                // One that was named before may be gone by now: it stays named.
                let found = ServiceName::new(&text).ok().and_then(|name| {
                    known(&name).or_else(|| before.services.iter().find(|kept| **kept == name).cloned())
                });
                match found {
                    Some(name) if services.contains(&name) => {}
                    Some(name) => services.push(name),
                    None => reading.refuse(field, format!("names {:?}, which is not a service", clean(&text))),
                }
            }
            services
        }
    };
    let (tags, categories) = (tags.unwrap_or(before.tags), categories.unwrap_or(before.categories));
    let nobody = services.is_empty() && tags.is_empty() && categories.is_empty();
    // Taking away the last tag must not cover everyone: that is said by naming nobody.
    let everyone = nobody && (base.is_none() || named_nobody || before.everyone);
    Scope { services, tags, categories, everyone }
}

fn recurrence(reading: &mut Reading<'_>, base: Option<&MaintenanceWindow>) -> Option<Recurrence> {
    let before = || base.and_then(|base| base.recurrence.clone());
    match reading.fields.get("recurrence") {
        None => before(),
        Some(Value::Null) => None,
        Some(given) if !given.is_object() => {
            reading.refuse("recurrence", "must be a table of cron, duration_minutes and timezone");
            None
        }
        Some(given) => match serde_path_to_error::deserialize::<_, Recurrence>(given.clone()) {
            Ok(recurrence) => Some(recurrence),
            Err(error) => {
                let path = error.path().to_string();
                let field = if path == "." { "recurrence".to_owned() } else { format!("recurrence.{}", clean(&path)) };
                reading.refuse(&field, clean(&error.inner().to_string()));
                None
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(fields: Value, base: Option<&MaintenanceWindow>) -> Result<MaintenanceWindow, Vec<Problem>> {
        let Value::Object(fields) = fields else { unreachable!() };
        let known = |name: &ServiceName| {
            (name.as_str().eq_ignore_ascii_case("auth")).then(|| ServiceName::new("auth").unwrap())
        };
        window(&fields, base, WindowSource::Api, known, from_ms(1_769_855_400_000))
    }

    #[test]
    fn what_is_wrong_is_told_by_field() {
        let check = |fields: Value, field: &str| {
            let problems = read(fields.clone(), None).unwrap_err();
            assert!(problems.iter().any(|problem| problem.field == field), "{fields}: {problems:?}");
        };
        let window = |more: Value| {
            let mut fields = json!({"start_time": "2026-02-01T00:00:00Z", "end_time": "2026-02-01T02:00:00Z"});
            fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fields
        };
        check(json!({}), "start_time");
        check(json!({"start_time": "2026-02-01T00:00:00Z"}), "end_time");
        check(window(json!({"start_time": "soon"})), "start_time");
        check(window(json!({"end_time": "2026-01-01T00:00:00Z"})), "end_time");
        check(window(json!({"endpoint_ids": ["gone"]})), "endpoint_ids");
        check(window(json!({"affected_services": "auth,gone"})), "affected_services");
        check(window(json!({"endpoint_ids": "auth"})), "endpoint_ids");
        check(window(json!({"colour": 1})), "colour");
        check(
            window(json!({"recurrence": {"cron": "0 0 3 * * Sun", "duration_minutes": 60, "timezone": "Mars/Base"}})),
            "recurrence.timezone",
        );
        check(
            window(json!({"recurrence": {"cron": "x", "duration_minutes": 60, "timezone": "UTC"}})),
            "recurrence.cron",
        );
        check(
            window(json!({"recurrence": {"cron": "0 0 3 * * Sun", "duration_minutes": -1, "timezone": "UTC"}})),
            "recurrence.duration_minutes",
        );
    }

    #[test]
    fn naming_nobody_means_everyone_and_a_change_touches_what_is_sent() {
        let fields = json!({"start_time": "2026-02-01T01:00:00+01:00", "end_time": "2026-02-01T02:00:00"});
        let all = read(fields, None).unwrap();
        assert!(all.scope.everyone);
        assert_eq!(
            (all.start, all.end),
            (instant("2026-02-01T00:00:00Z").unwrap(), instant("2026-02-01T02:00:00Z").unwrap())
        );
        let one = read(json!({"affected_services": "Auth"}), Some(&all)).unwrap();
        assert_eq!((one.scope.everyone, one.scope.services[0].as_str(), one.id), (false, "auth", all.id));
        let same = read(json!({"description": "x"}), Some(&one)).unwrap();
        assert_eq!((same.scope, same.start), (one.scope, one.start));
    }
}
