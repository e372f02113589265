//! Reads the services file, or a folder of them, into a registry (CONTRACT.md 5.3). Every mistake is told with its file,
//! line, service and field; a file with one is not half used.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::DateTime;
use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::{ConfigError, read_file};
use crate::domain::definitions::Listed;
use crate::domain::maintenance::{MaintenanceWindow, WindowSource, spec};
use crate::domain::registry::Registry;
use crate::domain::service::{Service, ServiceName, Source};
use crate::domain::spec::{Defaults, ServiceSpec};

/// The nine services of CONTRACT.md 5.4.
const BUILT_IN: &str = include_str!("../../config/services.toml");
const BUILT_IN_NAME: &str = "built-in services";

/// Where services are defined.
#[derive(Clone)]
pub struct ServicesFile {
    pub path: PathBuf,
    /// The operator named it: it must be there.
    pub explicit: bool,
    /// What `${NAME}` stands for.
    pub variables: BTreeMap<String, String>,
    /// Services that variables define: they follow those of the file.
    pub environment: Vec<Arc<Service>>,
}

impl std::fmt::Debug for ServicesFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServicesFile")
            .field("path", &self.path)
            .field("explicit", &self.explicit)
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    critical_path: Option<Vec<String>>,
    #[serde(default)]
    service: Vec<Spanned<ServiceSpec>>,
    #[serde(default)]
    maintenance: Vec<Spanned<serde_json::Map<String, serde_json::Value>>>,
}

impl ServicesFile {
    /// The texts to read, with their names, in order.
    fn texts(&self) -> Result<Vec<(String, String)>, String> {
        if self.path.is_dir() {
            let unreadable = |error: std::io::Error| format!("{}: cannot be read: {error}", self.path.display());
            let mut files: Vec<PathBuf> = std::fs::read_dir(&self.path)
                .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
                .map_err(unreadable)?;
            files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
            files.sort();
            return files.iter().map(|file| Ok((file.display().to_string(), read_file(file)?))).collect();
        }
        if !self.explicit && !self.path.exists() {
            return Ok(vec![(BUILT_IN_NAME.to_owned(), BUILT_IN.to_owned())]);
        }
        Ok(vec![(self.path.display().to_string(), read_file(&self.path)?)])
    }

    /// Changes with the content. Cheap enough to ask every few seconds.
    pub fn fingerprint(&self) -> Option<u64> {
        use std::hash::{DefaultHasher, Hash, Hasher};
        if !self.path.exists() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        self.texts().ok()?.hash(&mut hasher);
        Some(hasher.finish())
    }
}

/// Reads and judges every service.
///
/// # Errors
/// Every problem found.
pub fn load_services(file: &ServicesFile, defaults: &Defaults) -> Result<Listed, ConfigError> {
    let texts = file.texts().map_err(|problem| {
        ConfigError(vec![format!("{problem}; set SERVICES_FILE to a file or folder, or leave it out")])
    })?;
    let mut problems = Vec::new();
    let mut services: Vec<(Arc<Service>, String)> = Vec::new();
    let mut critical_path: Option<(Vec<String>, String)> = None;
    let mut windows = Vec::new();
    for (name, text) in &texts {
        let lines = Lines::of(text);
        let document: Document = match toml::from_str(text) {
            Ok(document) => document,
            Err(error) => {
                let line = error.span().map_or(1, |span| lines.at(span.start));
                problems.push(format!("{name}:{line}: {}", quiet(error.message()).replace('\n', " ")));
                continue;
            }
        };
        if let Some(path) = document.critical_path {
            match &critical_path {
                Some((_, other)) => problems.push(format!("{name}: critical_path is set in {other} already; keep one")),
                None => critical_path = Some((path, name.clone())),
            }
        }
        for spanned in document.maintenance {
            windows.push((format!("{name}:{}", lines.at(spanned.span().start)), spanned.into_inner()));
        }
        for spanned in document.service {
            let place = format!("{name}:{}", lines.at(spanned.span().start));
            let mut spec = spanned.into_inner();
            let shown = if spec.name.is_empty() { "service without a name".to_owned() } else { spec.name.clone() };
            if let Err((field, problem)) = expand_spec(&mut spec, &file.variables) {
                problems.push(format!("{place}: {shown}: {field} {problem}"));
                continue;
            }
            match spec.into_service(defaults, Source::File) {
                Ok(service) => services.push((Arc::new(service), place)),
                Err(found) => {
                    problems.extend(found.iter().map(|p| format!("{place}: {shown}: {} {}", p.field, p.message)));
                }
            }
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    services.extend(file.environment.iter().map(|service| (service.clone(), "environment".to_owned())));
    let critical_path = critical_path.map(|(path, _)| path).unwrap_or_default();
    let list: Vec<Arc<Service>> = services.iter().map(|(service, _)| service.clone()).collect();
    let registry = Registry::new(list.clone(), &critical_path).map_err(|error| {
        let about = error.service().map(|name| about(name, &services));
        ConfigError(vec![match about {
            Some(place) => format!("{place} {error}"),
            None => format!("{}: {error}; name services of this file only", texts.first().map_or("", |(name, _)| name)),
        }])
    })?;
    let known = |name: &ServiceName| registry.find(name).map(|service| service.name.clone());
    let mut settled = Vec::new();
    for (place, fields) in windows {
        // Dated by their beginning: they have no other date, and are the same after each reading.
        match spec::window(&fields, None, WindowSource::File, known, DateTime::UNIX_EPOCH) {
            Ok(window) => {
                settled.push(MaintenanceWindow { created_at: window.start, updated_at: window.start, ..window });
            }
            Err(found) => {
                problems.extend(found.iter().map(|p| format!("{place}: maintenance: {} {}", p.field, p.message)));
            }
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError(problems));
    }
    Ok(Listed { services: list, critical_path, windows: settled })
}

/// The words of the parser without the text they repeat: one of the wrong type may be a secret.
fn quiet(message: &str) -> String {
    let parts = message.split_once("string \"").zip(message.rsplit_once("\", expected"));
    parts.map_or_else(|| message.to_owned(), |((before, _), (_, after))| format!("{before}string, expected{after}"))
}

/// The last place a name is defined at: of two, the second is the mistake.
fn about(name: &ServiceName, services: &[(Arc<Service>, String)]) -> String {
    let place = services.iter().rev().find(|(service, _)| service.name == *name).map_or("", |(_, place)| place);
    format!("{place}: {name}")
}

/// Where the lines of a text begin: a file of 100,000 services asks as often.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line that holds `offset`, from 1.
    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|newline| *newline < offset) + 1
    }
}

/// Puts values of the environment into headers, body, and user and password of the address.
fn expand_spec(spec: &mut ServiceSpec, variables: &BTreeMap<String, String>) -> Result<(), (&'static str, String)> {
    for value in spec.headers.values_mut() {
        *value = expand(value, variables).map_err(|problem| ("headers", problem))?;
    }
    if let Some(password) = spec.redis.as_mut().and_then(|table| table.password.as_mut()) {
        *password = expand(password, variables).map_err(|problem| ("redis.password", problem))?;
    }
    if let Some(http) = spec.recovery.as_mut().and_then(|table| table.http.as_mut()) {
        http.url = expand(&http.url, variables).map_err(|problem| ("recovery.http.url", problem))?;
        for value in http.headers.values_mut() {
            *value = expand(value, variables).map_err(|problem| ("recovery.http.headers", problem))?;
        }
    }
    if let Some(body) = &mut spec.body {
        *body = expand(body, variables).map_err(|problem| ("body", problem))?;
    }
    if let Some(url) = &mut spec.url
        && url.contains("${")
    {
        *url = expand_login(url, variables).map_err(|problem| ("url", problem))?;
    }
    Ok(())
}

/// Only user and password of an address may come from the environment, and are encoded as such.
fn expand_login(url: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let only_login = || "may hold ${NAME} in its user and password only".to_owned();
    let (scheme, rest) = url.split_once("://").ok_or_else(only_login)?;
    let (login, place) = rest.split_once('@').ok_or_else(only_login)?;
    if place.contains("${") || scheme.contains("${") {
        return Err(only_login());
    }
    let mut parsed =
        Url::parse(&format!("{scheme}://{place}")).map_err(|error| format!("is not an address: {error}"))?;
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    let unusable = |()| "cannot carry a user and password".to_owned();
    parsed.set_username(&expand(user, variables)?).map_err(unusable)?;
    if let Some(password) = password {
        parsed.set_password(Some(&expand(password, variables)?)).map_err(unusable)?;
    }
    Ok(parsed.to_string())
}

/// `${NAME}` becomes the variable's value, `$${` a literal `${`.
///
/// # Errors
/// A variable that is not set, or a brace that is not closed.
pub(super) fn expand(text: &str, variables: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = rest.split_at(at);
        let after = after.get(2..).unwrap_or_default();
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = after;
            continue;
        }
        let (name, behind) = after.split_once('}').ok_or("holds ${ without its closing brace")?;
        out.push_str(before);
        out.push_str(variables.get(name).ok_or_else(|| {
            format!("needs the environment variable {}, which is not set", crate::domain::observation::clean(name))
        })?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}
