//! What handlers may touch.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;

use super::ApiConfig;
use super::lists::Lists;
use crate::engine::{Engine, RosterChange};

/// Reads the services file again and puts it in force; what is wrong with it, line by line, when it is not.
pub type Reload = Arc<dyn Fn() -> BoxFuture<'static, Result<RosterChange, Vec<String>>> + Send + Sync>;

/// Cheap handles, one clone for each request.
#[derive(Clone)]
pub struct ApiState {
    pub config: Arc<ApiConfig>,
    pub engine: Arc<Engine>,
    pub reload: Reload,
    pub(super) lists: Arc<Lists>,
    started: Instant,
}

impl ApiState {
    pub fn new(config: ApiConfig, engine: Arc<Engine>, reload: Reload) -> Self {
        Self { config: Arc::new(config), engine, reload, lists: Arc::default(), started: Instant::now() }
    }

    /// Seconds since this process began to serve.
    pub(super) fn uptime_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}
