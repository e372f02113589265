//! Every Redis key, in one place (CONTRACT.md 15.1). Names are of a closed alphabet, so no two keys collide.

use crate::domain::service::ServiceName;

/// Makes keys under one prefix.
#[derive(Debug, Clone)]
pub struct Keys(pub String);

impl Keys {
    pub fn health(&self, name: &ServiceName) -> String {
        format!("{}health:{name}", self.0)
    }

    pub fn history(&self, name: &ServiceName) -> String {
        format!("{}health:history:{name}", self.0)
    }

    pub fn metrics(&self, name: &ServiceName) -> String {
        format!("{}metrics:{name}", self.0)
    }

    pub fn system(&self) -> String {
        format!("{}system:metrics", self.0)
    }

    pub fn alert(&self, id: &str) -> String {
        format!("{}alert:{id}", self.0)
    }

    pub fn active_alerts(&self) -> String {
        format!("{}alerts:active", self.0)
    }
}
