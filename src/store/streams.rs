//! Event streams in Redis (CONTRACT.md 14.1 and 14.2): how other parties hear our events and we hear theirs. In the
//! database of `REDIS_URL`, on connections of their own: a reader that waits, or a large event on its way, must not hold
//! up anything else. What to publish when, and what an entry means, is left to the engine.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};
use secrecy::ExposeSecret;

use super::redis::{AddressError, Connection, RedisError};
use super::{RedisConfig, StreamsConfig};
use crate::domain::ess::{Entry, Inbound};
use crate::domain::event::{Event, EventKind};
use crate::domain::time::Stamp;

/// Longest time one batch of events may take: our choice; the picture of a large fleet is megabytes.
const PUBLISH_DEADLINE: Duration = Duration::from_secs(5);
/// Entries read at once, and longest wait for the first of them: CONTRACT.md 14.1.
const COUNT: usize = 10;
const BLOCK: Duration = Duration::from_secs(5);
/// How long an answer may take beyond that wait: our choice.
const ANSWER: Duration = Duration::from_secs(2);
/// Pictures of the fleet are kept up to about this size in all, but never fewer than that: our choice.
const SNAPSHOT_BYTES: usize = 64 * 1024 * 1024;
const SNAPSHOTS: usize = 10;

/// The streams of the bus that we share with other parties.
#[derive(Clone)]
pub struct Streams {
    connection: Connection,
    config: Arc<StreamsConfig>,
    instance: Arc<str>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Streams {
    /// `instance`: name of this process in what it sends. `None`: there is no Redis.
    ///
    /// # Errors
    /// Not an address of Redis.
    pub fn new(redis: &RedisConfig, config: &StreamsConfig, instance: &str) -> Result<Option<Self>, AddressError> {
        let Some(url) = &redis.url else { return Ok(None) };
        let connection = Connection::new(url.expose_secret(), None, PUBLISH_DEADLINE)?;
        Ok(Some(Self { connection, config: Arc::new(config.clone()), instance: instance.into() }))
    }

    /// Publishes events in their order; those that are none of other parties' business are left out.
    ///
    /// # Errors
    /// Some of them may be published; all of them are to be published again.
    pub async fn publish(&self, events: impl Iterator<Item = &Event>) -> Result<(), RedisError> {
        let commands: Vec<Cmd> = events.filter_map(|event| self.add(event)).collect();
        if commands.is_empty() {
            return Ok(());
        }
        if self.connection.is_cluster() {
            // Sent together they would reach their nodes in any order.
            for command in commands {
                self.connection.run(vec![command], &[]).await?;
            }
            return Ok(());
        }
        self.connection.run(commands, &[]).await.map(|_| ())
    }

    fn add(&self, event: &Event) -> Option<Cmd> {
        let name = event.kind.published_as()?;
        let payload = event.payload.text();
        let longest = match event.kind {
            EventKind::SnapshotUpdated => {
                self.config.longest.min((SNAPSHOT_BYTES / payload.len().max(1)).max(SNAPSHOTS))
            }
            _ => self.config.longest,
        };
        let mut command = redis::cmd("XADD");
        command.arg(format!("{}{name}", self.config.stream_prefix)).arg("MAXLEN").arg("~").arg(longest).arg("*");
        let correlation = event.correlation().unwrap_or(event.id);
        for (field, value) in [
            ("event_type", name.to_owned()),
            ("payload", payload.to_owned()),
            ("trace_id", String::new()),
            ("correlation_id", correlation.to_string()),
            ("timestamp", Stamp(event.at).to_string()),
            ("source", self.config.source.clone()),
            ("event_id", event.id.to_string()),
            ("sequence", event.sequence.to_string()),
            ("instance", self.instance.to_string()),
            ("fencing_token", String::new()),
        ] {
            command.arg(field).arg(value);
        }
        Some(command)
    }

    /// Where entries of one kind come in, read as `consumer`.
    pub fn inbox(&self, kind: Inbound, consumer: &str) -> Inbox {
        let config = &self.config;
        let name = kind.as_str();
        // No answer is longer in coming than the claims of others take to fall due.
        let block = BLOCK.min(config.claim_idle);
        Inbox {
            connection: self.connection.another(block + ANSWER),
            stream: format!("{}{name}", config.stream_prefix),
            group: format!("{}{}:{name}", config.group_prefix, config.source),
            dead: format!("{}{name}", config.dead_prefix),
            consumer: format!("{}_{consumer}", config.source),
            block,
            claim_idle: config.claim_idle,
            longest: config.longest,
        }
    }
}

/// Where a group that does not exist yet begins to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// After the newest entry.
    Newest,
    /// At the oldest entry.
    Oldest,
}

impl Begin {
    fn id(self) -> &'static str {
        match self {
            Self::Newest => "$",
            Self::Oldest => "0",
        }
    }
}

/// One stream that others write, read through our consumer group.
pub struct Inbox {
    connection: Connection,
    stream: String,
    group: String,
    dead: String,
    consumer: String,
    block: Duration,
    claim_idle: Duration,
    longest: usize,
}

impl Inbox {
    /// How often it is worth looking at what other consumers left.
    pub fn claim_every(&self) -> Duration {
        self.block
    }

    async fn ask(&self, command: Cmd) -> Result<Value, RedisError> {
        Ok(self.connection.run(vec![command], &[]).await?.pop().unwrap_or(Value::Nil))
    }

    /// Makes the group, unless it exists.
    ///
    /// # Errors
    /// No answer.
    pub async fn open(&self, begin: Begin) -> Result<(), RedisError> {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(&self.stream).arg(&self.group).arg(begin.id()).arg("MKSTREAM");
        match self.connection.run(vec![create], &["BUSYGROUP"]).await {
            // A node of a Cluster says it this way.
            Err(RedisError::Refused(error)) if error.code() == Some("BUSYGROUP") => Ok(()),
            made => made.map(|_| ()),
        }
    }

    /// Has the group begin at the oldest entry again.
    ///
    /// # Errors
    /// No answer.
    pub async fn rewind(&self) -> Result<(), RedisError> {
        let mut rewind = redis::cmd("XGROUP");
        rewind.arg("SETID").arg(&self.stream).arg(&self.group).arg(Begin::Oldest.id());
        self.ask(rewind).await.map(|_| ())
    }

    /// Waits a while for entries that nobody was given yet.
    ///
    /// # Errors
    /// No answer, or the group is gone.
    pub async fn next(&self) -> Result<Vec<Entry>, RedisError> {
        let mut read = self.read();
        read.arg("BLOCK").arg(millis(self.block)).arg("STREAMS").arg(&self.stream).arg(">");
        Ok(streams_of(self.ask(read).await?))
    }

    /// Entries after `id` that this consumer was given and has not settled: by an earlier run of ours.
    ///
    /// # Errors
    /// No answer, or the group is gone.
    pub async fn unsettled(&self, id: &str) -> Result<Vec<Entry>, RedisError> {
        let mut read = self.read();
        read.arg("STREAMS").arg(&self.stream).arg(id);
        Ok(streams_of(self.ask(read).await?))
    }

    fn read(&self) -> Cmd {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.group).arg(&self.consumer).arg("COUNT").arg(COUNT);
        read
    }

    /// Takes over some of the entries from `id` on that any consumer has left unsettled for too long. Also answers where
    /// to go on; `None` when that was all.
    ///
    /// # Errors
    /// No answer, or the group is gone.
    pub async fn claim(&self, id: &str) -> Result<(Vec<Entry>, Option<String>), RedisError> {
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim.arg(&self.stream).arg(&self.group).arg(&self.consumer).arg(millis(self.claim_idle));
        claim.arg(id).arg("COUNT").arg(COUNT);
        let mut parts = array(self.ask(claim).await?).into_iter();
        let next = parts.next().and_then(text).filter(|next| next != "0-0");
        Ok((entries(parts.next().unwrap_or(Value::Nil)), next))
    }

    /// How often an unsettled entry was given to a consumer.
    ///
    /// # Errors
    /// No answer, or the group is gone.
    pub async fn tries(&self, id: &str) -> Result<u64, RedisError> {
        let mut pending = redis::cmd("XPENDING");
        pending.arg(&self.stream).arg(&self.group).arg(id).arg(id).arg(1);
        let first = array(self.ask(pending).await?).into_iter().next().unwrap_or(Value::Nil);
        Ok(match array(first).into_iter().nth(3) {
            Some(Value::Int(count)) => u64::try_from(count).unwrap_or(0),
            _ => 0,
        })
    }

    /// The entry is settled.
    ///
    /// # Errors
    /// No answer.
    pub async fn acknowledge(&self, entry: &Entry) -> Result<(), RedisError> {
        let mut acknowledge = redis::cmd("XACK");
        acknowledge.arg(&self.stream).arg(&self.group).arg(&entry.id);
        self.ask(acknowledge).await.map(|_| ())
    }

    /// Moves an entry that cannot be dealt with to the dead letters.
    ///
    /// # Errors
    /// No answer; it may be among them already.
    pub async fn bury(&self, entry: &Entry, error: &str) -> Result<(), RedisError> {
        let mut add = redis::cmd("XADD");
        add.arg(&self.dead).arg("MAXLEN").arg("~").arg(self.longest).arg("*");
        for (name, value) in &entry.fields {
            add.arg(name).arg(value);
        }
        add.arg("error").arg(error);
        self.ask(add).await?;
        self.acknowledge(entry).await
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

fn text(value: Value) -> Option<String> {
    bytes(value).and_then(|bytes| String::from_utf8(bytes).ok())
}

/// The entries of the one stream that was read: a list of pairs, or a map when the third protocol is spoken.
fn streams_of(answer: Value) -> Vec<Entry> {
    let of_stream = match answer {
        Value::Map(pairs) => pairs.into_iter().next().map(|(_, entries)| entries),
        other => array(other).into_iter().next().and_then(|pair| array(pair).into_iter().nth(1)),
    };
    entries(of_stream.unwrap_or(Value::Nil))
}

/// Entries that were trimmed away since they were given come without fields: as such they are settled like others.
fn entries(list: Value) -> Vec<Entry> {
    let read = array(list).into_iter().filter_map(|entry| {
        let mut parts = array(entry).into_iter();
        let id = text(parts.next()?)?;
        let mut values = array(parts.next().unwrap_or(Value::Nil)).into_iter().filter_map(bytes);
        let mut fields = Vec::new();
        while let (Some(name), Some(value)) = (values.next(), values.next()) {
            fields.push((name, value));
        }
        Some(Entry { id, fields })
    });
    read.collect()
}
