//! What handlers may touch.

use std::sync::Arc;
use std::time::Instant;

use super::ApiConfig;
use super::administer::Administer;
use super::lists::Lists;
use crate::engine::Engine;

/// Cheap handles, one clone for each request.
#[derive(Clone)]
pub struct ApiState {
    pub config: Arc<ApiConfig>,
    pub engine: Arc<Engine>,
    pub admin: Arc<dyn Administer>,
    pub(super) lists: Arc<Lists>,
    started: Instant,
}

impl ApiState {
    pub fn new(config: ApiConfig, engine: Arc<Engine>, admin: Arc<dyn Administer>) -> Self {
        Self { config: Arc::new(config), engine, admin, lists: Arc::default(), started: Instant::now() }
    }

    /// Seconds since this process began to serve.
    pub(super) fn uptime_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}
