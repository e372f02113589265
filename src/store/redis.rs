//! The shared, expiring copy of live state: exactly the keys of CONTRACT.md 15.1, in pipelines, every call under a
//! deadline. Reads and writes what it is given; when to write, and again, is the mirror's business.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::try_join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, Pipeline, TlsMode, Value,
};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::keys::Keys;
use super::{RedisConfig, Timings};
use crate::domain::alert::Alert;
use crate::domain::check::Check;
use crate::domain::observation::{Kind, Reason};
use crate::domain::service::ServiceName;
use crate::domain::state::{ServiceState, Streak};
use crate::domain::status::Status;
use crate::domain::time::Stamp;
use crate::domain::window::RING;

/// Every call to Redis ends by then: HARDENING.md redis.2.
const CALL_DEADLINE: Duration = Duration::from_millis(500);
/// Connecting may take a handshake and, with Sentinel or Cluster, a question or two more: our choice.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// Why Redis did not do what it was asked. It is never waited for, so one word is enough.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    #[error("no answer in time")]
    Late,
    #[error("{0}")]
    Refused(#[from] redis::RedisError),
}

/// An address Redis cannot be reached by.
#[derive(Debug, thiserror::Error)]
#[error("is not a Redis address: {0}")]
pub struct AddressError(String);

/// How Redis is reached.
#[derive(Clone)]
enum Address {
    Single(ConnectionInfo),
    /// Nodes that know the master, its name, and how to log in to it.
    Sentinel {
        nodes: Vec<ConnectionAddr>,
        master: String,
        node: ConnectionInfo,
        tls: bool,
    },
    Cluster(Vec<ConnectionInfo>),
}

enum Link {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A connection that is made when it is needed, and not used again once it has failed.
#[derive(Clone)]
pub(super) struct Connection {
    address: Arc<Address>,
    /// Every call ends by then.
    deadline: Duration,
    link: Arc<Mutex<Option<Link>>>,
}

/// A Redis, or a Sentinel or Cluster of them.
#[derive(Clone)]
pub struct Redis {
    connection: Connection,
    keys: Keys,
    ttl: Duration,
    timings: Arc<Timings>,
}

/// One service's new state and the checks Redis has not seen.
#[derive(Debug, Clone)]
pub struct Push {
    pub name: ServiceName,
    pub state: ServiceState,
    /// Newest last.
    pub checks: Vec<Check>,
    /// Replace the history by `checks` instead of adding them.
    pub rewrite: bool,
    /// Checks we hold: what the history must not be shorter than.
    pub held: usize,
}

/// What Redis remembers of a service.
#[derive(Debug, Clone)]
pub struct Remembered {
    pub state: ServiceState,
    /// Newest last.
    pub checks: Vec<Check>,
}

impl Connection {
    /// `database`: in place of the one `url` names.
    ///
    /// # Errors
    /// Not an address of Redis.
    pub fn new(url: &str, database: Option<i64>, deadline: Duration) -> Result<Self, AddressError> {
        Ok(Self { address: Arc::new(address(url, database)?), deadline, link: Arc::default() })
    }

    /// Another connection to the same place.
    pub fn another(&self, deadline: Duration) -> Self {
        Self { address: self.address.clone(), deadline, link: Arc::default() }
    }

    /// Commands sent together reach different nodes, in no order.
    pub fn is_cluster(&self) -> bool {
        matches!(*self.address, Address::Cluster(_))
    }

    async fn connect(&self) -> Result<Link, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_DEADLINE))
            .set_response_timeout(Some(self.deadline));
        let connecting = async {
            Ok::<Link, redis::RedisError>(match &*self.address {
                Address::Single(info) => Link::Single(
                    Client::open(info.clone())?.get_multiplexed_async_connection_with_config(&config).await?,
                ),
                Address::Sentinel { nodes, master, node, tls } => {
                    let mut builder = SentinelClientBuilder::new(nodes.clone(), master, SentinelServerType::Master)?
                        .set_client_to_redis_db(node.redis_settings().db());
                    if let Some(user) = node.redis_settings().username() {
                        builder = builder.set_client_to_redis_username(user);
                    }
                    if let Some(password) = node.redis_settings().password() {
                        builder = builder.set_client_to_redis_password(password);
                    }
                    if *tls {
                        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
                    }
                    let mut client = builder.build()?;
                    Link::Single(client.get_async_connection_with_config(&config).await?)
                }
                Address::Cluster(nodes) => Link::Cluster(
                    ClusterClientBuilder::new(nodes.clone())
                        .connection_timeout(CONNECT_DEADLINE)
                        .response_timeout(self.deadline)
                        .retries(1)
                        .build()?
                        .get_async_connection()
                        .await?,
                ),
            })
        };
        Ok(timeout(CONNECT_DEADLINE, connecting).await.map_err(|_| RedisError::Late)??)
    }

    /// Sends `commands` together and returns their answers. Errors with one of the codes `excused` are answers too.
    pub async fn run(&self, commands: Vec<Cmd>, excused: &[&str]) -> Result<Vec<Value>, RedisError> {
        let mut held = self.link.lock().await;
        let link = match held.take() {
            Some(link) => link,
            None => self.connect().await?,
        };
        let answers = match &link {
            Link::Single(connection) => {
                let mut connection = connection.clone();
                let mut pipeline = Pipeline::with_capacity(commands.len());
                let count = commands.len();
                for command in commands {
                    pipeline.add_command(command);
                }
                timeout(self.deadline, async move { connection.req_packed_commands(&pipeline, 0, count).await }).await
            }
            // The keys of one service lie in several slots, so a pipeline would have to be split: the connection
            // sends commands side by side anyway.
            Link::Cluster(connection) => {
                let sent = commands.into_iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { connection.req_packed_command(&command).await }
                });
                timeout(self.deadline, try_join_all(sent)).await
            }
        };
        let answers = answers.map_err(|_| RedisError::Late)??;
        // A demoted primary answers READONLY for ever on a connection that stays open.
        if let Some(error) = answers.iter().find_map(|answer| match answer {
            Value::ServerError(error) if !excused.contains(&error.code()) => {
                Some(redis::RedisError::from(error.clone()))
            }
            _ => None,
        }) {
            return Err(error.into());
        }
        *held = Some(link);
        Ok(answers)
    }
}

impl Redis {
    /// # Errors
    /// The address is not one of `redis://`, `rediss://`, `redis+sentinel://` or `redis+cluster://`.
    pub fn new(config: &RedisConfig) -> Result<Option<Self>, AddressError> {
        let Some(url) = &config.url else { return Ok(None) };
        Ok(Some(Self {
            connection: Connection::new(url.expose_secret(), Some(config.database), CALL_DEADLINE)?,
            keys: Keys(config.prefix.clone()),
            ttl: config.ttl,
            timings: Arc::default(),
        }))
    }

    /// How long its calls took.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// How long keys live without being written.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Connects if need be, and asks for a sign of life.
    ///
    /// # Errors
    /// No answer in time, or none of a Redis that can be written.
    pub async fn ping(&self) -> Result<(), RedisError> {
        self.run(vec![redis::cmd("PING")]).await.map(|_| ())
    }

    /// Sends `commands` together and returns their answers. A key of another type is the writer's to mend.
    async fn run(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, RedisError> {
        self.timings.time(self.connection.run(commands, &["WRONGTYPE"])).await
    }

    /// Writes states and checks. Returns the services whose history in Redis turned out shorter than ours: Redis has
    /// lost it, and it must be written whole.
    ///
    /// # Errors
    /// Some of it may be written; all of it is to be written again.
    pub async fn push(&self, pushes: &[Push]) -> Result<Vec<ServiceName>, RedisError> {
        let seconds = self.ttl_seconds();
        let mut commands = Vec::with_capacity(pushes.len() * 6);
        let mut lengths = Vec::with_capacity(pushes.len());
        for push in pushes {
            let (health, history) = (self.keys.health(&push.name), self.keys.history(&push.name));
            let first = commands.len();
            if push.rewrite {
                let mut delete = redis::cmd("DEL");
                delete.arg(&health).arg(&history);
                commands.push(delete);
            }
            commands.push(health_command(&health, &push.state));
            commands.push(expire(&health, seconds));
            if !push.checks.is_empty() {
                let mut add = redis::cmd("LPUSH");
                add.arg(&history);
                for check in &push.checks {
                    add.arg(history_entry(check));
                }
                lengths.push((first, commands.len(), push));
                commands.push(add);
                let mut trim = redis::cmd("LTRIM");
                trim.arg(&history).arg(0).arg(RING - 1);
                commands.push(trim);
            }
            commands.push(expire(&history, seconds));
        }
        let answers = self.run(commands).await?;
        let lost = lengths.iter().filter(|(first, place, push)| {
            let wrong_type =
                answers.get(*first..*place).into_iter().flatten().any(|answer| matches!(answer, Value::ServerError(_)));
            let length = match answers.get(*place) {
                Some(Value::Int(length)) => usize::try_from(*length).unwrap_or(0),
                _ => 0,
            };
            wrong_type || length < push.held.min(RING)
        });
        Ok(lost.map(|(_, _, push)| push.name.clone()).collect())
    }

    /// Gives keys of services that are checked less often than their lifetime a new lease of it.
    ///
    /// # Errors
    /// No answer.
    pub async fn renew(&self, names: &[ServiceName]) -> Result<(), RedisError> {
        let seconds = self.ttl_seconds();
        let commands = names.iter().flat_map(|name| {
            [self.keys.health(name), self.keys.history(name), self.keys.metrics(name)].map(|key| expire(&key, seconds))
        });
        self.run(commands.chain([expire(&self.keys.system(), seconds)]).collect()).await.map(|_| ())
    }

    /// Writes alerts as they are, each with its place on the list of the living ones.
    ///
    /// # Errors
    /// No answer.
    pub async fn put_alerts(&self, alerts: &[Arc<Alert>]) -> Result<(), RedisError> {
        let seconds = self.ttl_seconds();
        let active = self.keys.active_alerts();
        let mut commands = Vec::with_capacity(alerts.len() * 3 + 1);
        for alert in alerts {
            let key = self.keys.alert(&alert.id);
            commands.push(hash_command(&key, &serde_json::to_value(alert.record()).unwrap_or_default()));
            commands.push(expire(&key, seconds));
            // The hash comes first: the list never holds an id without it.
            let mut listed = redis::cmd(if alert.is_listed() { "SADD" } else { "SREM" });
            listed.arg(&active).arg(&alert.id);
            commands.push(listed);
        }
        if commands.is_empty() {
            return Ok(());
        }
        commands.push(expire(&active, seconds));
        self.run(commands).await.map(|_| ())
    }

    /// Empties the list of living alerts, to be written anew.
    ///
    /// # Errors
    /// No answer.
    pub async fn forget_alerts(&self) -> Result<(), RedisError> {
        let mut delete = redis::cmd("DEL");
        delete.arg(self.keys.active_alerts());
        self.run(vec![delete]).await.map(|_| ())
    }

    /// How many ids the list of living alerts holds.
    ///
    /// # Errors
    /// No answer.
    pub async fn count_alerts(&self) -> Result<usize, RedisError> {
        let mut count = redis::cmd("SCARD");
        count.arg(self.keys.active_alerts());
        match self.run(vec![count]).await?.first() {
            Some(Value::Int(count)) => Ok(usize::try_from(*count).unwrap_or(0)),
            _ => Ok(0),
        }
    }

    /// Writes the rolling metrics of services: each a JSON object whose fields become those of the hash.
    ///
    /// # Errors
    /// No answer.
    pub async fn put_metrics(&self, metrics: &[(ServiceName, serde_json::Value)]) -> Result<(), RedisError> {
        let seconds = self.ttl_seconds();
        let commands = metrics.iter().flat_map(|(name, fields)| {
            let key = self.keys.metrics(name);
            [hash_command(&key, fields), expire(&key, seconds)]
        });
        self.run(commands.collect()).await.map(|_| ())
    }

    /// Writes the metrics of the whole system.
    ///
    /// # Errors
    /// No answer.
    pub async fn put_system(&self, fields: &serde_json::Value) -> Result<(), RedisError> {
        let key = self.keys.system();
        self.run(vec![hash_command(&key, fields), expire(&key, self.ttl_seconds())]).await.map(|_| ())
    }

    /// Removes what is kept of services that are no longer watched.
    ///
    /// # Errors
    /// No answer.
    pub async fn remove(&self, names: &[ServiceName]) -> Result<(), RedisError> {
        let commands = names.iter().flat_map(|name| {
            [self.keys.health(name), self.keys.history(name), self.keys.metrics(name)].map(|key| {
                let mut delete = redis::cmd("DEL");
                delete.arg(key);
                delete
            })
        });
        self.run(commands.collect()).await.map(|_| ())
    }

    /// Reads what Redis remembers of `names`; services it does not know, or whose words it cannot read, are left out.
    ///
    /// # Errors
    /// No answer.
    pub async fn recall(&self, names: &[ServiceName]) -> Result<HashMap<ServiceName, Remembered>, RedisError> {
        let commands = names.iter().flat_map(|name| {
            let mut health = redis::cmd("HGETALL");
            health.arg(self.keys.health(name));
            let mut history = redis::cmd("LRANGE");
            history.arg(self.keys.history(name)).arg(0).arg(RING - 1);
            [health, history]
        });
        let answers = self.run(commands.collect()).await?;
        let mut found = HashMap::new();
        for (name, pair) in names.iter().zip(answers.chunks(2)) {
            let [health, history] = pair else { continue };
            let fields: HashMap<String, String> = redis::from_redis_value_ref(health).unwrap_or_default();
            let entries: Vec<String> = redis::from_redis_value_ref(history).unwrap_or_default();
            if let Some(state) = remembered_state(&fields) {
                let checks = entries.iter().rev().filter_map(|entry| remembered_check(entry)).collect();
                found.insert(name.clone(), Remembered { state, checks });
            }
        }
        Ok(found)
    }

    fn ttl_seconds(&self) -> i64 {
        i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX).max(1)
    }
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

/// `redis://` and `rediss://` as the crate has them; `redis+sentinel://[user:password@]host:port,…/master` and
/// `redis+cluster://[user:password@]host:port,…`, each also with `rediss+` for TLS.
fn address(url: &str, database: Option<i64>) -> Result<Address, AddressError> {
    let refuse = |error: redis::RedisError| AddressError(error.category().to_owned());
    let (scheme, rest) = url.split_once("://").ok_or_else(|| AddressError("no scheme".to_owned()))?;
    let (transport, topology) = scheme.split_once('+').unwrap_or((scheme, ""));
    let with_database = |info: ConnectionInfo| match database {
        Some(database) => {
            let settings = info.redis_settings().clone().set_db(database);
            info.set_redis_settings(settings)
        }
        None => info,
    };
    if topology.is_empty() {
        return Ok(Address::Single(with_database(url.into_connection_info().map_err(refuse)?)));
    }
    let (login, places) = rest.rsplit_once('@').map_or(("", rest), |(login, places)| (login, places));
    let (hosts, path) = places.split_once('/').unwrap_or((places, ""));
    let nodes = hosts
        .split(',')
        .filter(|host| !host.is_empty())
        .map(|host| {
            let at = if login.is_empty() { String::new() } else { format!("{login}@") };
            format!("{transport}://{at}{host}").into_connection_info().map_err(refuse)
        })
        .collect::<Result<Vec<ConnectionInfo>, _>>()?;
    let Some(first) = nodes.first().cloned() else { return Err(AddressError("no host".to_owned())) };
    match topology {
        "cluster" => Ok(Address::Cluster(nodes)),
        "sentinel" if !path.is_empty() => Ok(Address::Sentinel {
            nodes: nodes.iter().map(|info| info.addr().clone()).collect(),
            master: path.to_owned(),
            node: with_database(first),
            tls: transport == "rediss",
        }),
        "sentinel" => Err(AddressError("the name of the master is missing after the hosts".to_owned())),
        other => Err(AddressError(format!("unknown topology {other:?}, expected sentinel or cluster"))),
    }
}

fn expire(key: &str, seconds: i64) -> Cmd {
    let mut command = redis::cmd("EXPIRE");
    command.arg(key).arg(seconds);
    command
}

fn health_command(key: &str, state: &ServiceState) -> Cmd {
    let mut command = redis::cmd("HSET");
    command
        .arg(key)
        .arg("status")
        .arg(state.status.as_str())
        .arg("response_time")
        .arg(state.response_us.unwrap_or(0) / 1000)
        .arg("timestamp")
        .arg(state.last_check.map(|at| Stamp(at).to_string()).unwrap_or_default())
        .arg("http_status")
        .arg(state.http_status)
        .arg("error_message")
        .arg(state.issues.join(", "))
        .arg("consecutive_failures")
        .arg(state.consecutive_failures)
        .arg("consecutive_successes")
        .arg(state.consecutive_successes)
        .arg("reason")
        .arg(state.reason.as_str())
        .arg("version")
        .arg(state.facts.version.as_deref().unwrap_or_default())
        .arg("sequence")
        .arg(state.sequence);
    command
}

/// A hash of the fields of a JSON object: texts as they are, `null` as the empty string, all else as JSON.
fn hash_command(key: &str, fields: &serde_json::Value) -> Cmd {
    let mut command = redis::cmd("HSET");
    command.arg(key);
    for (field, value) in fields.as_object().into_iter().flatten() {
        command.arg(field);
        match value {
            serde_json::Value::Null => command.arg(""),
            serde_json::Value::String(text) => command.arg(text),
            other => command.arg(other.to_string()),
        };
    }
    command
}

#[derive(Serialize, serde::Deserialize)]
struct HistoryEntry {
    status: Status,
    response_time: u64,
    timestamp: Stamp,
    http_status: u16,
    consecutive_failures: u32,
    consecutive_successes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_message: Option<String>,
}

fn history_entry(check: &Check) -> String {
    let entry = HistoryEntry {
        status: check.status,
        response_time: check.response_ms(),
        timestamp: Stamp(check.at()),
        http_status: check.http_status,
        consecutive_failures: check.consecutive_failures(),
        consecutive_successes: check.consecutive_successes(),
        error_message: check.error.as_deref().map(str::to_owned),
    };
    serde_json::to_string(&entry).unwrap_or_else(|_| json!({}).to_string())
}

fn remembered_state(fields: &HashMap<String, String>) -> Option<ServiceState> {
    let number = |field: &str| fields.get(field).and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    let status =
        Status::ALL.into_iter().find(|status| fields.get("status").is_some_and(|word| word == status.as_str()))?;
    let at: DateTime<Utc> = fields.get("timestamp")?.parse().ok()?;
    let issues = fields.get("error_message").filter(|text| !text.is_empty()).cloned();
    let failures = number("consecutive_failures");
    Some(ServiceState {
        status,
        reason: Reason::ALL
            .into_iter()
            .find(|reason| fields.get("reason").is_some_and(|word| word == reason.as_str()))
            .unwrap_or_default(),
        error_message: issues.clone(),
        issues: issues.into_iter().collect(),
        last_check: Some(at),
        response_us: Some(number("response_time") * 1000).filter(|us| *us > 0),
        http_status: u16::try_from(number("http_status")).unwrap_or(0),
        consecutive_failures: failures,
        consecutive_successes: number("consecutive_successes"),
        failing: (status == Status::Unhealthy).then_some(Streak {
            since: at,
            count: failures.max(1),
            from: Status::Unknown,
        }),
        sequence: fields.get("sequence").and_then(|text| text.parse().ok()).unwrap_or(0),
        facts: crate::domain::observation::Facts {
            version: fields.get("version").filter(|text| !text.is_empty()).cloned(),
            ..Default::default()
        },
        ..ServiceState::default()
    })
}

fn remembered_check(entry: &str) -> Option<Check> {
    let entry: HistoryEntry = serde_json::from_str(entry).ok()?;
    let streak = if entry.consecutive_failures > 0 {
        -i64::from(entry.consecutive_failures)
    } else {
        i64::from(entry.consecutive_successes)
    };
    let answered = entry.response_time > 0 || entry.status == Status::Healthy;
    Some(Check {
        at_ms: entry.timestamp.0.timestamp_millis(),
        status: entry.status,
        reason: Reason::Ok,
        kind: Kind::Scheduled,
        http_status: entry.http_status,
        response_us: answered.then(|| u32::try_from(entry.response_time.saturating_mul(1000)).unwrap_or(u32::MAX)),
        streak: i32::try_from(streak).unwrap_or(0),
        error: entry.error_message.map(Arc::from),
        maintenance: false,
        redirected: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_every_topology_are_read_or_refused() {
        let kind = |url: &str| match address(url, Some(3)) {
            Ok(Address::Single(info)) => format!("single {}", info.redis_settings().db()),
            Ok(Address::Sentinel { nodes, master, .. }) => format!("sentinel {} {master}", nodes.len()),
            Ok(Address::Cluster(nodes)) => format!("cluster {}", nodes.len()),
            Err(error) => error.to_string(),
        };
        assert_eq!(kind("redis://localhost:6379"), "single 3");
        assert_eq!(kind("rediss://:pw@localhost:6379/0"), "single 3");
        assert_eq!(kind("redis+sentinel://a:26379,b:26379/mymaster"), "sentinel 2 mymaster");
        assert_eq!(kind("redis+cluster://u:p@a:7000,b:7000,c:7000"), "cluster 3");
        assert!(kind("redis+sentinel://a:26379").contains("name of the master"));
        assert!(kind("redis+ring://a:1").contains("unknown topology"));
        assert!(kind("localhost").contains("no scheme"));
        assert!(kind("http://localhost").contains("not a Redis address"));
    }

    #[test]
    fn a_check_comes_back_from_its_entry() {
        let check = Check {
            at_ms: 1_700_000_000_123,
            status: Status::Unhealthy,
            reason: Reason::Ok,
            kind: Kind::Scheduled,
            http_status: 500,
            response_us: Some(12_000),
            streak: -4,
            error: Some("Service unavailable (HTTP 500)".into()),
            maintenance: false,
            redirected: false,
        };
        assert_eq!(remembered_check(&history_entry(&check)), Some(check));
        assert_eq!(remembered_check("{\"status\":\"up\"}"), None);
    }
}
