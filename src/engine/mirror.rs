//! Keeps the shared copy in Redis up to date, behind everything else (DESIGN.md D2). Nobody waits for it.
//!
//! What changed is written every tenth of a second, in pipelines. When Redis was away, everything it should hold is
//! written again; when it was emptied behind our back, the length of a history it answers with gives it away.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::Engine;
use super::live::Watched;
use super::metrics::{ServiceMetrics, SystemMetrics};
use crate::domain::service::ServiceName;
use crate::domain::time::Stamp;
use crate::domain::window::RING;
use crate::store::redis::{Push, Redis, RedisError};

/// Between two rounds of writing: our choice; at 10,000 services every 15 s a round holds 70 of them.
const BEAT: Duration = Duration::from_millis(100);
/// Services in one pipeline, and when their whole history is written: DESIGN.md section 5, about 100.
const PIPELINE: usize = 100;
const PIPELINE_WHOLE: usize = 20;
/// Between looks at what nobody told us about: alerts lost by an emptied Redis are back within 5 s (CONTRACT.md 20).
const LOOK: Duration = Duration::from_secs(4);
/// Between two writings of changed alerts: our choice.
const ALERTS_EVERY: Duration = Duration::from_millis(500);
/// First and longest pause between attempts to connect: HARDENING.md redis.1, at most 5 s with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// How the shared copy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisState {
    /// None is configured.
    Off,
    /// None was named and none answers at the default address: no problem.
    Absent,
    Connected,
    Unavailable,
}

impl RedisState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Absent => "absent",
            Self::Connected => "connected",
            Self::Unavailable => "unavailable",
        }
    }
}

/// What Redis has yet to hear.
#[derive(Debug)]
pub struct Mirror {
    redis: Option<Redis>,
    dirty: Mutex<Vec<Arc<Watched>>>,
    removed: Mutex<Vec<ServiceName>>,
    standing: Mutex<Standing>,
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    state: RedisState,
    since: Option<DateTime<Utc>>,
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mirror {
    pub(super) fn new(redis: Option<Redis>, explicit: bool) -> Self {
        let state = match (&redis, explicit) {
            (None, _) => RedisState::Off,
            (Some(_), false) => RedisState::Absent,
            (Some(_), true) => RedisState::Unavailable,
        };
        Self {
            redis,
            dirty: Mutex::default(),
            removed: Mutex::default(),
            standing: Mutex::new(Standing { state, since: None }),
        }
    }

    pub fn redis(&self) -> Option<&Redis> {
        self.redis.as_ref()
    }

    pub fn state(&self) -> RedisState {
        held(&self.standing).state
    }

    /// Since when Redis is unavailable, if it is.
    pub fn unavailable_since(&self) -> Option<DateTime<Utc>> {
        let standing = *held(&self.standing);
        standing.since.filter(|_| standing.state == RedisState::Unavailable)
    }

    /// Services that Redis has not heard the latest of.
    pub fn depth(&self) -> usize {
        held(&self.dirty).len()
    }

    /// `watched` has changed.
    pub(super) fn touch(&self, watched: &Arc<Watched>) {
        if self.redis.is_some() && !watched.unmirrored.swap(true, Ordering::AcqRel) {
            held(&self.dirty).push(watched.clone());
        }
    }

    pub(super) fn forget(&self, name: ServiceName) {
        if self.redis.is_some() {
            held(&self.removed).push(name);
        }
    }

    pub(super) async fn run(&self, engine: &Arc<Engine>, stop: &CancellationToken) {
        let Some(redis) = &self.redis else { return };
        let mut pause = FIRST_PAUSE;
        loop {
            let ended = match redis.ping().await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    tracing::info!("Redis is connected");
                    held(&self.standing).state = RedisState::Connected;
                    self.follow(redis, engine, stop).await
                }
                Err(error) => Err(error),
            };
            let Err(error) = ended else { return };
            self.lost(engine, &error);
            // Jitter from the low bits of time: replicas must not come back all at once.
            let jitter = u64::from(engine.clock.now().timestamp_subsec_millis());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause + Duration::from_millis(jitter)) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn lost(&self, engine: &Engine, error: &RedisError) {
        engine.counters.redis_errors.fetch_add(1, Ordering::Relaxed);
        let mut standing = held(&self.standing);
        match standing.state {
            RedisState::Connected => {
                tracing::warn!(%error, "Redis is away; probing, alerting and answering go on");
                *standing = Standing { state: RedisState::Unavailable, since: Some(engine.clock.now()) };
            }
            RedisState::Unavailable if standing.since.is_none() => {
                tracing::warn!(%error, "Redis does not answer; probing, alerting and answering go on");
                standing.since = Some(engine.clock.now());
            }
            _ => {}
        }
    }

    /// Writes everything once, then what changes, until Redis fails or the monitor stops.
    async fn follow(&self, redis: &Redis, engine: &Engine, stop: &CancellationToken) -> Result<(), RedisError> {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        held(&self.dirty).clear();
        let everyone = engine.live.roster().watched.clone();
        everyone.iter().for_each(|watched| watched.unmirrored.store(false, Ordering::Release));
        self.push(redis, engine, &everyone, true).await?;
        let mut seen = engine.live.alert_generation();
        self.put_alerts(redis, engine, true).await?;
        self.put_metrics(engine).await?;
        let renew_every = (redis.ttl() / 3).max(Duration::from_secs(1));
        let (mut looked, mut renewed, mut written) = (Instant::now(), Instant::now(), Instant::now());
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                _ = beat.tick() => false,
            };
            let dirty = std::mem::take(&mut *held(&self.dirty));
            self.push(redis, engine, &dirty, false).await?;
            let removed = std::mem::take(&mut *held(&self.removed));
            if !removed.is_empty() {
                redis.remove(&removed).await?;
            }
            let mut whole = false;
            let generation = engine.live.alert_generation();
            // However fast alerts change, they are written at most each second.
            let mut put = generation != seen && written.elapsed() >= ALERTS_EVERY;
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                whole = !put && redis.count_alerts().await? != engine.live.alert_count();
                put |= whole;
            }
            if renewed.elapsed() >= renew_every {
                renewed = Instant::now();
                put = true;
                let names: Vec<ServiceName> =
                    engine.live.roster().watched.iter().map(|watched| watched.service().name.clone()).collect();
                for names in names.chunks(PIPELINE * 5) {
                    redis.renew(names).await?;
                }
            }
            if put || (stopping && generation != seen) {
                (seen, written) = (generation, Instant::now());
                self.put_alerts(redis, engine, whole).await?;
            }
            if stopping {
                return Ok(());
            }
        }
    }

    /// Writes the state and the new checks of `services`, or their whole history.
    async fn push(
        &self,
        redis: &Redis,
        engine: &Engine,
        services: &[Arc<Watched>],
        whole: bool,
    ) -> Result<(), RedisError> {
        for chunk in services.chunks(if whole { PIPELINE_WHOLE } else { PIPELINE }) {
            let pushes: Vec<Push> = chunk.iter().filter_map(|watched| news(watched, whole)).collect();
            if pushes.is_empty() {
                continue;
            }
            if whole {
                super::make_way().await;
            }
            let span = info_span!(
                "write redis",
                otel.kind = "client",
                db.system.name = "redis",
                db.operation.batch.size = pushes.len(),
            );
            for name in redis.push(&pushes).instrument(span).await? {
                // Redis has less than we do: it was emptied.
                let Some(watched) = engine.live.find(&name) else { continue };
                if let Some(push) = news(&watched, true) {
                    redis.push(&[push]).await?;
                }
            }
        }
        Ok(())
    }

    /// Writes every living alert, and the end of those that ended; `whole` begins the list of the living ones anew.
    async fn put_alerts(&self, redis: &Redis, engine: &Engine, whole: bool) -> Result<(), RedisError> {
        let ended = std::mem::take(&mut *held(&engine.live.ended_alerts));
        let written = async {
            redis.put_alerts(&ended).await?;
            if whole {
                redis.forget_alerts().await?;
            }
            for alerts in engine.live.alerts().chunks(PIPELINE) {
                redis.put_alerts(alerts).await?;
            }
            Ok(())
        };
        let result = written.await;
        if result.is_err() {
            // They are told when Redis is back.
            held(&engine.live.ended_alerts).extend(ended);
        }
        result
    }

    /// Writes the rolling metrics of every service and of the system.
    pub(super) async fn put_metrics(&self, engine: &Engine) -> Result<(), RedisError> {
        let Some(redis) = self.redis.as_ref().filter(|_| self.state() == RedisState::Connected) else { return Ok(()) };
        let now = engine.clock.now();
        for chunk in engine.live.roster().watched.chunks(PIPELINE) {
            let metrics: Vec<(ServiceName, serde_json::Value)> =
                chunk.iter().filter_map(|watched| metrics_hash(watched, now)).collect();
            if !metrics.is_empty() {
                redis.put_metrics(&metrics).await?;
            }
            super::make_way().await;
        }
        let system = SystemMetrics::of(engine, now, 0);
        redis
            .put_system(&json!({
                "timestamp": system.timestamp,
                "total_services": system.total_services,
                "healthy_services": system.healthy_services,
                "degraded_services": system.degraded_services,
                "unhealthy_services": system.unhealthy_services,
                "average_response_time": system.average_response_time,
                "p95_response_time": system.p95_response_time,
                "p99_response_time": system.p99_response_time,
                "total_requests": system.total_requests,
                "requests_per_minute": system.requests_per_minute,
                "error_rate": system.error_rate,
                "system_uptime": system.system_uptime,
                "alert_count": system.alert_count,
            }))
            .await
    }
}

/// What Redis has not seen of `watched`; `None` when that is nothing.
fn news(watched: &Arc<Watched>, whole: bool) -> Option<Push> {
    watched.unmirrored.store(false, Ordering::Release);
    if watched.is_retired() {
        return None;
    }
    let name = watched.service().name.clone();
    let inner = watched.lock();
    inner.state.last_check?;
    let whole = watched.mirror_whole.swap(false, Ordering::AcqRel) || whole;
    let recorded = inner.history.recorded();
    let seen = watched.mirrored.swap(recorded, Ordering::AcqRel);
    let unseen = usize::try_from(recorded.saturating_sub(seen)).unwrap_or(RING);
    let count = if whole { RING } else { unseen.min(RING) };
    let mut checks: Vec<_> = inner.history.newest().take(count).collect();
    checks.reverse();
    Some(Push { name, state: inner.state.clone(), checks, rewrite: whole, held: inner.history.len() })
}

fn metrics_hash(watched: &Watched, now: DateTime<Utc>) -> Option<(ServiceName, serde_json::Value)> {
    let name = watched.service().name.clone();
    let inner = watched.lock();
    let metrics = ServiceMetrics::of(&inner, now)?;
    let fields = json!({
        "timestamp": Stamp(now),
        "service_name": name,
        "response_time": metrics.response_time,
        "requests": metrics.requests,
        "availability": metrics.availability,
        "histogram": inner.history.histograms(),
    });
    Some((name, fields))
}
