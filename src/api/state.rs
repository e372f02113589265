//! What handlers may touch.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::ApiConfig;
use super::administer::Administer;
use super::events::READERS;
use super::lists::Lists;
use super::probe::PROBES;
use super::prometheus::Scrapes;
use super::traffic::Traffic;
use crate::engine::Engine;

/// Cheap handles, one clone for each request.
#[derive(Clone)]
pub struct ApiState {
    pub config: Arc<ApiConfig>,
    pub engine: Arc<Engine>,
    pub admin: Arc<dyn Administer>,
    pub(super) lists: Arc<Lists>,
    /// Places for readers of events.
    pub(super) readers: Arc<Semaphore>,
    pub(super) scrapes: Arc<Scrapes>,
    /// Places for probes that a caller waits for.
    pub(super) probes: Arc<Semaphore>,
    /// Places for requests answered at once.
    pub(super) lane: Arc<Semaphore>,
    pub(super) traffic: Arc<Traffic>,
    /// When the settings were read that this process began with.
    pub(super) loaded: DateTime<Utc>,
    /// Streams that would never end by themselves end with it.
    pub(super) stop: CancellationToken,
    started: Instant,
}

impl ApiState {
    pub fn new(config: ApiConfig, engine: Arc<Engine>, admin: Arc<dyn Administer>, stop: CancellationToken) -> Self {
        Self {
            scrapes: Arc::default(),
            probes: Arc::new(Semaphore::new(PROBES)),
            lane: Arc::new(Semaphore::new(config.max_in_flight)),
            traffic: Arc::default(),
            loaded: engine.clock.now(),
            config: Arc::new(config),
            engine,
            admin,
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
