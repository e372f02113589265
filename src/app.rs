//! Builds every part once, runs them, and stops them in order.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, ApiState, Gate, Reload};
use crate::clock::Clock;
use crate::config::{ConfigError, ServicesFile, Settings, load_services};
use crate::demo;
use crate::domain::definitions::Listed;
use crate::domain::probe::Protocol;
use crate::domain::spec::Defaults;
use crate::engine::restore::RestoreError;
use crate::engine::{Engine, Parts, ReloadOutcome, housekeeping};
use crate::notify;
use crate::probes::Clients;
use crate::store::records::Records;
use crate::store::redis::Redis;
use crate::store::{RecordsAddress, StoreError};
use crate::telemetry;

/// Looks at the services file this often: our choice. A poll sees what watchers miss (DEPENDENCIES: ConfigMap links).
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Longest wait for parts that were told to end: our choice, longer than one delivery may take (10 s at most).
const LAST_WORK: Duration = Duration::from_secs(11);

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
    pub reload: Reload,
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
pub async fn build(settings: &Settings, listed: Listed, clock: Clock) -> Result<App, AppError> {
    let internal = |error: &dyn std::fmt::Display| AppError::Internal(error.to_string());
    let address = &settings.engine.store.records;
    let clients = Clients::new(settings.egress.clone()).map_err(|error| internal(&error))?;
    if let Some(problem) = clients.icmp_problem()
        && listed.services.iter().any(|service| service.protocol == Protocol::Icmp)
    {
        tracing::warn!("icmp services cannot be checked: {problem}");
    }
    let receivers = notify::receivers(&settings.engine.notify).map_err(|error| internal(&error))?;
    let redis = Redis::new(&settings.engine.store.redis).map_err(|error| internal(&error))?;
    let start = async || {
        let parts = Parts {
            config: settings.engine.clone(),
            clock: clock.clone(),
            records: Records::open(address).await?,
            redis: redis.clone(),
            clients: clients.clone(),
            receivers: receivers.clone(),
        };
        let engine = Engine::new(parts);
        engine.restore(listed.clone()).await?;
        Ok::<_, RestoreError>(engine)
    };
    let engine = match (start().await, address) {
        (Err(RestoreError::Store(error)), RecordsAddress::Sqlite(path)) if error.is_damage() => {
            let aside = put_aside(path, &clock).map_err(StoreError::Unavailable)?;
            tracing::error!(%error, "damaged records were set aside as {}; every service starts unknown", aside.display());
            let engine = start().await?;
            engine.say_records_were_set_aside(&aside);
            engine
        }
        (started, _) => started?,
    };
    let (stop, stop_committer) = (CancellationToken::new(), CancellationToken::new());
    let committer = engine.start_committer(&stop_committer);
    let parts = engine.start(&stop);
    let reload = reload(engine.clone(), settings.services.clone(), settings.defaults.clone());
    let state = ApiState::new(settings.api.clone(), engine.clone(), reload);
    Ok(App {
        engine,
        gate: Gate::new(state.clone()),
        reload: state.reload,
        stop,
        parts,
        stop_committer,
        committer,
        grace: settings.shutdown_grace,
    })
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

/// Reads the services file again and puts it in force, one at a time.
fn reload(engine: Arc<Engine>, file: ServicesFile, defaults: Defaults) -> Reload {
    let turn = Arc::new(tokio::sync::Mutex::new(()));
    Arc::new(move || {
        let (engine, file, defaults, turn) = (engine.clone(), file.clone(), defaults.clone(), turn.clone());
        // A task of its own: a caller that goes away must not leave a reload half done.
        let work = tokio::spawn(async move {
            let _turn = turn.lock().await;
            let read = tokio::task::spawn_blocking(move || load_services(&file, &defaults)).await;
            let loaded = read.unwrap_or_else(|error| Err(ConfigError(vec![error.to_string()])));
            let at = engine.clock.now();
            match loaded {
                Ok(listed) => {
                    if listed.services.is_empty() {
                        tracing::warn!("the services file lists no services any more");
                    }
                    let change = match engine.list_services(listed).await {
                        Ok(change) => change,
                        Err(error) => {
                            let problem = error.to_string();
                            tracing::error!("services not reloaded, nothing is changed: {problem}");
                            engine.reload.note(ReloadOutcome { at, error: Some(problem.clone()) });
                            return Err(vec![problem]);
                        }
                    };
                    tracing::info!(
                        added = change.added.len(),
                        changed = change.changed.len(),
                        removed = change.removed.len(),
                        "services reloaded"
                    );
                    engine.reload.note(ReloadOutcome { at, error: None });
                    Ok(change)
                }
                Err(ConfigError(problems)) => {
                    for problem in &problems {
                        tracing::error!("services not reloaded, nothing is changed: {problem}");
                    }
                    engine.reload.note(ReloadOutcome { at, error: Some(problems.join("; ")) });
                    Err(problems)
                }
            }
        });
        Box::pin(async move { work.await.unwrap_or_else(|error| Err(vec![error.to_string()])) })
    })
}

/// Runs the service until it is told to stop. `demo`: nine small services of its own beside it.
///
/// # Errors
/// It could not start; the reason for each exit code.
pub async fn run(settings: Settings, demo: bool) -> Result<(), AppError> {
    install_crypto_provider();
    telemetry::start(&settings.log);
    let listed = load_services(&settings.services, &settings.defaults)?;
    // A file that was there is expected to stay: its absence is a mistake, not a wish for the built-in services.
    let mut settings = settings;
    settings.services.explicit |= settings.services.path.exists();
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
    let app = build(&settings, listed, Clock::System).await?;
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
    let signals = follow_signals(&app.reload, &settings.services, &stop);
    signals.await.map_err(|error| AppError::Internal(format!("signals: {error}")))?;

    tracing::info!("stopping");
    // Readiness fails from here on, answers go on until checks have ended.
    let stopping = async {
        app.stop().await;
        stop.cancel();
        let _ = serving.await;
        let _ = calendar.shutdown().await;
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
async fn follow_signals(reload: &Reload, services: &ServicesFile, stop: &CancellationToken) -> std::io::Result<()> {
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
                let _ = reload().await;
                seen = fingerprint(services).await;
            }
            _ = look.tick() => {
                let now = fingerprint(services).await;
                // A file that is away for a moment, or changes between two looks, is being written.
                let settled = now == before;
                before = now;
                if settled && now.is_some() && now != seen {
                    seen = now;
                    let _ = reload().await;
                }
            }
        }
    }
}

async fn fingerprint(services: &ServicesFile) -> Option<u64> {
    let services = services.clone();
    tokio::task::spawn_blocking(move || services.fingerprint()).await.ok().flatten()
}
