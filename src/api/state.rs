//! What handlers may touch.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::ApiConfig;
use super::events::READERS;
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
    /// Places for readers of events.
    pub(super) readers: Arc<Semaphore>,
    /// Streams that would never end by themselves end with it.
    pub(super) stop: CancellationToken,
    started: Instant,
}

impl ApiState {
    pub fn new(config: ApiConfig, engine: Arc<Engine>, reload: Reload, stop: CancellationToken) -> Self {
        Self {
            config: Arc::new(config),
            engine,
            reload,
            lists: Arc::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            stop,
            started: Instant::now(),
        }
    }

    /// Seconds since this process began to serve.
    pub(super) fn uptime_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}
