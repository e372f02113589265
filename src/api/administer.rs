//! What the API asks of whoever keeps the settings. A trait, because that part imports this one.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;

use crate::engine::RosterChange;

/// Where a setting was last written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Default,
    File,
    Environment,
    Stored,
}

/// One setting as it may be shown: secrets are hidden already.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    pub section: String,
    pub key: String,
    pub value: Value,
    pub source: Origin,
    pub changeable: bool,
}

/// The settings in force.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    pub settings: Vec<Setting>,
    /// Further names that clients have used: they are shown from then on.
    pub names: BTreeSet<String>,
    /// Stored values that are not in force, as sentences.
    pub problems: Vec<String>,
}

impl Standing {
    pub fn find(&self, section: &str, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.section == section && setting.key == key)
    }

    /// Changes with what is shown.
    pub fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        for setting in &self.settings {
            (&setting.section, &setting.key, setting.value.to_string(), setting.source).hash(&mut hasher);
        }
        self.names.hash(&mut hasher);
        format!("\"{:x}\"", hasher.finish())
    }
}

/// Who sent a request.
#[derive(Debug, Clone)]
pub struct Caller {
    pub request_id: String,
    pub peer: IpAddr,
    /// Tells keys apart, and does not lead back to one.
    pub key: String,
}

/// One value that is wished for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The name it was sent under, from the top of the body.
    pub field: String,
    pub section: String,
    pub key: String,
    /// `None`: what is stored is taken back.
    pub text: Option<String>,
}

/// What a client wants changed, all or none.
#[derive(Debug, Clone)]
pub struct Wishes {
    pub wishes: Vec<Wish>,
    /// Further names that were used.
    pub names: BTreeSet<String>,
    /// Tags of which one must be that of the settings in force.
    pub if_match: Option<Vec<String>>,
    pub caller: Caller,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// Fields as they were sent, each with the rule it breaks.
    Invalid(Vec<(String, String)>),
    /// The settings have changed since they were read.
    Stale,
    /// It could not be made durable.
    Unavailable,
}

/// What a reload came to.
#[derive(Debug, Clone, Default)]
pub struct Reloaded {
    pub roster: RosterChange,
    /// Settings that have changed.
    pub settings: Vec<String>,
    /// Settings that are written otherwise now and need a restart.
    pub ignored: Vec<String>,
}

/// Keeps the settings, and puts others in force.
pub trait Administer: Send + Sync {
    fn standing(&self) -> Arc<Standing>;

    /// When it says yes, the change is durable and in force.
    fn change(&self, wishes: Wishes) -> BoxFuture<'static, Result<(), Denial>>;

    /// Reads files and environment again; what is wrong with them, line by line, when nothing was changed.
    fn reload(&self) -> BoxFuture<'static, Result<Reloaded, Vec<String>>>;
}
