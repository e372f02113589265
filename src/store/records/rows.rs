//! What a row holds, the same in both homes: columns for what is searched by, JSON for the rest.

use std::collections::HashMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{AlertFilter, Restored};
use crate::domain::alert::{AlertType, Component, Severity};
use crate::domain::check::{CheckBatch, LoggedCheck};
use crate::domain::service::ServiceName;
use crate::store::StoreError;

/// JSON of a value of ours.
pub(super) fn json<T: Serialize>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Corrupt { what, source })
}

pub(super) fn parse<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Corrupt { what, source })
}

/// The key of a service: names are unique ignoring case.
pub(super) fn key(name: &ServiceName) -> String {
    name.as_str().to_ascii_lowercase()
}

/// What an [`AlertFilter`] asks for, as columns; an absent value asks for nothing.
pub(super) struct AskedAlerts {
    pub component: Option<String>,
    pub severity: Option<&'static str>,
    pub kind: Option<&'static str>,
    pub status: Option<&'static str>,
    pub from: Option<i64>,
    pub to: Option<i64>,
}

impl AskedAlerts {
    pub fn of(filter: &AlertFilter) -> Result<Self, StoreError> {
        Ok(Self {
            component: filter.component.as_ref().map(|component| json("component", component)).transpose()?,
            severity: filter.severity.map(Severity::as_str),
            kind: filter.kind.map(AlertType::as_str),
            status: filter.living.map(|living| if living { "active" } else { "resolved" }),
            from: filter.from.map(|at| at.timestamp_millis()),
            to: filter.to.map(|at| at.timestamp_millis()),
        })
    }
}

/// The text columns a restore reads, in both homes; JSON and keys are turned into values here.
#[derive(Default)]
pub(super) struct Raw {
    pub states: Vec<(String, String)>,
    pub histories: Vec<(String, String, i64)>,
    pub living: Vec<String>,
    pub recent: Vec<String>,
    pub sequences: Vec<(String, i64)>,
    pub outages: Vec<String>,
    pub last_incident: Option<String>,
    pub owed: Vec<String>,
    pub events: Vec<String>,
    pub log_mark: i64,
    pub registrations: Vec<String>,
    pub windows: Vec<(String, bool)>,
    pub run_marks: Vec<(i64, i64)>,
}

impl Raw {
    pub fn read(self) -> Result<Restored, StoreError> {
        let mut restored = Restored { log_mark: self.log_mark, ..Restored::default() };
        for (name, state) in &self.states {
            if let Ok(name) = ServiceName::new(name) {
                restored.states.insert(name, parse("service state", state)?);
            }
        }
        for (name, history, rolled_ms) in &self.histories {
            // What was remembered of checks is not worth a start that fails: the log fills it again.
            match (ServiceName::new(name), parse("check history", history)) {
                (Ok(name), Ok(history)) => {
                    restored.histories.insert(name, (history, *rolled_ms));
                }
                (_, Err(error)) => tracing::warn!(service.name = %name, %error, "history left out"),
                _ => {}
            }
        }
        restored.living_alerts = list("alert", &self.living)?;
        restored.recent_alerts = list("alert", &self.recent)?;
        restored.outages = list("outage", &self.outages)?;
        restored.last_incident = self.last_incident.as_deref().map(|text| parse("outage", text)).transpose()?;
        // One registration that cannot be read must not take the others along.
        for text in &self.registrations {
            match parse("registration", text) {
                Ok(registration) => restored.registrations.push(registration),
                Err(error) => tracing::error!(%error, "a registration was left out"),
            }
        }
        restored.registrations.sort_by_key(|registration| registration.created);
        for (text, hidden) in &self.windows {
            restored.windows.push((parse("maintenance window", text)?, *hidden));
        }
        restored.run_marks = self.run_marks.iter().map(|(service, at)| (service.cast_unsigned(), *at)).collect();
        restored.owed = list("notification", &self.owed)?;
        restored.events = list("event", &self.events)?;
        restored.sequences = self
            .sequences
            .iter()
            .map(|(component, sequence)| {
                Ok((parse::<Component>("component", component)?, u64::try_from(*sequence).unwrap_or(0)))
            })
            .collect::<Result<HashMap<_, _>, StoreError>>()?;
        Ok(restored)
    }
}

pub(super) fn list<T: DeserializeOwned>(what: &'static str, texts: &[String]) -> Result<Vec<T>, StoreError> {
    texts.iter().map(|text| parse(what, text)).collect()
}

/// The checks of a log blob; one that is not ours is left out and said aloud.
pub(super) fn decode(mark: i64, from_ms: i64, blob: &[u8]) -> Vec<LoggedCheck> {
    CheckBatch::decode(from_ms, blob).unwrap_or_else(|| {
        tracing::warn!(mark, "a piece of the check log is unreadable and was left out");
        Vec::new()
    })
}
