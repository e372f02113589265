//! Builds every part once, runs them, and stops them in order.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{Admin, Kept, Start, Surroundings};
use crate::api::{self, Administer, ApiState, Gate};
use crate::clock::Clock;
use crate::config::{ConfigError, Configured, ServicesFile, Sources};
use crate::demo;
use crate::domain::probe::Protocol;
use crate::engine::restore::RestoreError;
use crate::engine::{Engine, EngineConfig, Parts, housekeeping};
use crate::export::Elasticsearch;
use crate::notify;
use crate::notify::heartbeat::Heartbeat;
use crate::probes::Clients;
use crate::store::records::Records;
use crate::store::redis::Redis;
use crate::store::streams::Streams;
use crate::store::{RecordsAddress, StoreError};
use crate::systemd::Systemd;
use crate::telemetry::traces::Traces;
use crate::{telemetry, watchdog};

/// Looks at the services file this often: our choice. A poll sees what watchers miss (DEPENDENCIES: ConfigMap links).
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Longest wait for parts that were told to end: our choice, longer than one delivery may take (10 s at most).
const LAST_WORK: Duration = Duration::from_secs(11);

/// Time to send the last spans: our choice, as far as `SHUTDOWN_GRACE_MS` leaves it, but never less than the second.
const LAST_SPANS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(200));

/// Why the service did not start, or did not stop well. Carries its exit code (CONTRACT.md section 4).
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("records.metrics_storage_url: {0}; see METRICS_STORAGE_URL")]
    Store(#[from] StoreError),
    #[error("internal: {0}")]
    Internal(String),
}

impl From<RestoreError> for AppError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Store(error) => Self::Store(error),
            RestoreError::Registry(error) => Self::Config(ConfigError(vec![error.to_string()])),
        }
    }
}

impl AppError {
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) => 2,
            Self::Store(_) => 3,
            Self::Internal(_) => 70,
        })
    }
}

/// TLS for everything that speaks it; once per process, before anything connects.
pub fn install_crypto_provider() {
    // A second call finds the first one's and changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Everything that runs, and how to stop it.
pub struct App {
    pub engine: Arc<Engine>,
    pub gate: Gate,
    pub admin: Admin,
    stop: CancellationToken,
    parts: TaskTracker,
    stop_committer: CancellationToken,
    committer: TaskTracker,
    grace: Duration,
}

/// Builds the engine on restored records, and starts every part. Nothing is served yet.
///
/// # Errors
/// The records cannot be used, or a part cannot be built.
pub async fn build(configured: &Configured, clock: Clock, around: Surroundings) -> Result<App, AppError> {
    let internal = |error: &dyn std::fmt::Display| AppError::Internal(error.to_string());
    let address = &configured.settings.engine.store.records;
    let clients = Clients::new(configured.settings.egress.clone()).map_err(|error| internal(&error))?;
    let store = &configured.settings.engine.store;
    let redis = Redis::new(&store.redis).map_err(|error| internal(&error))?;
    let streams = Streams::new(&store.redis, &store.streams, &configured.settings.engine.instance);
    let streams = streams.map_err(|error| internal(&error))?;
    let start = async || {
        let records = Records::open(address).await?;
        let start = Start::settle(configured, Kept::read(&records).await?);
        let parts = Parts {
            config: start.settings.engine.clone(),
            clock: clock.clone(),
            records,
            redis: redis.clone(),
            streams: streams.clone(),
            clients: clients.clone(),
            heartbeat: heartbeat(&start.settings.engine)?,
            elasticsearch: elasticsearch(&start.settings.engine)?,
            receivers: notify::receivers(&start.settings.engine.notify)
                .map_err(|error| AppError::Internal(error.to_string()))?,
        };
        let engine = Engine::new(parts);
        engine.restore(start.listed.clone()).await?;
        Ok::<_, AppError>((engine, start))
    };
    let (engine, start) = match (start().await, address) {
        (Err(AppError::Store(error)), RecordsAddress::Sqlite(path)) if error.is_damage() => {
            let aside = put_aside(path, &clock).map_err(StoreError::Unavailable)?;
            tracing::error!(%error, "damaged records were set aside as {}; every service starts unknown", aside.display());
            let (engine, start) = start().await?;
            engine.say_records_were_set_aside(&aside);
            (engine, start)
        }
        (started, _) => started?,
    };
    if let Some(problem) = clients.icmp_problem()
        && start.listed.services.iter().any(|service| service.protocol == Protocol::Icmp)
    {
        tracing::warn!("icmp services cannot be checked: {problem}");
    }
    let (stop, stop_committer) = (CancellationToken::new(), CancellationToken::new());
    let committer = engine.start_committer(&stop_committer);
    let parts = engine.start(&stop);
    let settings = &configured.settings;
    let admin = Admin::new(engine.clone(), configured, start, around);
    let state = ApiState::new(settings.api.clone(), engine.clone(), Arc::new(admin.clone()), stop.clone());
    Ok(App {
        engine,
        gate: Gate::new(state),
        admin,
        stop,
        parts,
        stop_committer,
        committer,
        grace: settings.shutdown_grace,
    })
}

/// The dead-man signal, if one is wanted.
fn heartbeat(config: &EngineConfig) -> Result<Option<Heartbeat>, AppError> {
    let wanted = config.heartbeat.as_ref().map(Heartbeat::new).transpose();
    wanted.map_err(|error| AppError::Internal(error.to_string()))
}

/// The receiver of documents, if there is one.
fn elasticsearch(config: &EngineConfig) -> Result<Option<Elasticsearch>, AppError> {
    let wanted = config.export.clone().map(Elasticsearch::new).transpose();
    wanted.map_err(|error| AppError::Internal(error.to_string()))
}

impl App {
    /// Stops checking, then every part; what is owed and noted is written first.
    pub async fn stop(self) {
        self.engine.drain(self.grace).await;
        self.engine.save_histories(|_| true).await;
        self.stop.cancel();
        self.parts.close();
        if tokio::time::timeout(LAST_WORK, self.parts.wait()).await.is_err() {
            tracing::warn!("a part did not end in time; what it owes is kept");
        }
        self.stop_committer.cancel();
        self.committer.close();
        self.committer.wait().await;
        self.engine.export_last().await;
        self.engine.records.close().await;
    }
}

/// Gives a damaged file a dated name, with its companions, so that nothing is lost and a new one can begin.
fn put_aside(path: &Path, clock: &Clock) -> Result<PathBuf, Box<dyn std::error::Error + Send + Sync>> {
    let date = clock.now().format("%Y%m%dT%H%M%SZ");
    let renamed = |suffix: &str| {
        let mut from = path.as_os_str().to_owned();
        from.push(suffix);
        let mut to = path.as_os_str().to_owned();
        to.push(format!(".damaged-{date}{suffix}"));
        (PathBuf::from(from), PathBuf::from(to))
    };
    for suffix in ["-wal", "-shm"] {
        let (from, to) = renamed(suffix);
        if from.exists() {
            std::fs::rename(from, to)?;
        }
    }
    let (from, to) = renamed("");
    std::fs::rename(from, &to)?;
    Ok(to)
}

/// Runs the service until it is told to stop. `demo`: nine small services of its own beside it.
///
/// # Errors
/// It could not start; the reason for each exit code.
pub async fn run(sources: &Sources, demo: bool) -> Result<(), AppError> {
    install_crypto_provider();
    let configured = Configured::load(sources.clone())?;
    let Configured { settings, listed, .. } = &configured;
    let systemd = Systemd::new(&sources.variables);
    let traces = settings.traces.as_ref().map(Traces::start).transpose();
    let traces = traces.map_err(|error| AppError::Internal(format!("traces: {error}")))?;
    let level = telemetry::start(&settings.log, traces.as_ref().map(Traces::tracer));
    let around = Surroundings { level, systemd: systemd.clone() };
    if let Some(wanted) = &settings.traces {
        let (queue, place) = (wanted.queue, wanted.place());
        tracing::info!(queue, "traces go to {place}; at most {queue} spans wait, more are dropped and counted");
    }
    let listener = api::serve::listen(&settings.api.host, settings.api.port)
        .await
        .map_err(|problem| ConfigError(vec![problem]))?;
    let stop = CancellationToken::new();
    if demo {
        demo::start(&listed.services, &stop).await.map_err(|problem| ConfigError(vec![problem]))?;
    }
    if settings.published_key {
        tracing::warn!("{}", crate::engine::PUBLISHED_KEY_WARNING);
    }
    if listed.services.is_empty() {
        tracing::warn!(file = %settings.services.path.display(), "the services file lists no services: nothing is watched");
    }
    let app = build(&configured, Clock::System, around).await?;
    let mut calendar = housekeeping::start(&app.engine, settings.published_key)
        .await
        .map_err(|error| AppError::Internal(format!("calendar: {error}")))?;
    let address = listener.local_addr().map_err(|error| AppError::Internal(error.to_string()))?;
    tracing::info!(
        services = app.engine.live.counts().total(),
        records = app.engine.records.kind(),
        environment = settings.api.environment,
        "listening on http://{address}"
    );
    let serving = tokio::spawn(api::serve::serve(listener, app.gate.clone(), stop.clone()));
    let watchdog = watchdog::start(app.engine.counters.clone(), systemd.clone())
        .map_err(|error| AppError::Internal(format!("watchdog: {error}")))?;
    systemd.ready(app.engine.live.counts().total());
    let signals = follow_signals(&app.admin, &settings.services, &stop);
    signals.await.map_err(|error| AppError::Internal(format!("signals: {error}")))?;

    tracing::info!("stopping");
    let since = Instant::now();
    systemd.stopping();
    // From here on parts end.
    drop(watchdog);
    // Readiness fails from here on, answers go on until checks have ended.
    let stopping = async {
        app.stop().await;
        stop.cancel();
        let _ = serving.await;
        let _ = calendar.shutdown().await;
        if let Some(traces) = traces {
            let (most, least) = LAST_SPANS;
            let limit = settings.shutdown_grace.saturating_sub(since.elapsed()).clamp(least, most);
            // It blocks, and its client must not be dropped where async code runs.
            let _ = tokio::task::spawn_blocking(move || traces.stop(limit)).await;
        }
    };
    let second = async {
        // Whoever asks twice is in a hurry: what is committed is safe.
        let _ = wait_for_stop().await;
    };
    tokio::select! {
        () = stopping => tracing::info!("stopped"),
        () = second => tracing::warn!("stopped at once"),
    }
    Ok(())
}

async fn wait_for_stop() -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// Reloads on SIGHUP and when the services file changes; returns when it is time to stop.
async fn follow_signals(admin: &Admin, services: &ServicesFile, stop: &CancellationToken) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut seen = fingerprint(services).await;
    let mut before = seen;
    let told = wait_for_stop();
    tokio::pin!(told);
    loop {
        tokio::select! {
            result = &mut told => return result,
            () = stop.cancelled() => return Ok(()),
            _ = hangup.recv() => {
                let _ = admin.reload().await;
                seen = fingerprint(services).await;
            }
            _ = look.tick() => {
                let now = fingerprint(services).await;
                // A file that is away for a moment, or changes between two looks, is being written.
                let settled = now == before;
                before = now;
                if settled && now.is_some() && now != seen {
                    seen = now;
                    let _ = admin.reload().await;
                }
            }
        }
    }
}

async fn fingerprint(services: &ServicesFile) -> Option<u64> {
    let services = services.clone();
    tokio::task::spawn_blocking(move || services.fingerprint()).await.ok().flatten()
}
