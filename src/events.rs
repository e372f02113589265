//! The newest events, for the dashboard and for listeners. An event appears here after its change is committed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::domain::event::{Event, EventKind, RECENT};

/// Newest lines kept for the dashboard: our choice; it shows five.
const LINES: usize = 20;

/// An event of the log, and how listeners see it.
#[derive(Debug)]
pub struct Logged {
    event: Event,
    frame: OnceLock<Bytes>,
}

impl Logged {
    /// The event as it goes to listeners: made once, by the first of them, and shared by all.
    pub fn frame(&self, make: impl FnOnce(&Event) -> Bytes) -> Bytes {
        self.frame.get_or_init(|| make(&self.event)).clone()
    }
}

impl From<Event> for Logged {
    fn from(event: Event) -> Self {
        Self { event, frame: OnceLock::new() }
    }
}

impl std::ops::Deref for Logged {
    type Target = Event;

    fn deref(&self) -> &Event {
        &self.event
    }
}

/// The newest events, newest last.
#[derive(Debug, Default)]
pub struct Recent {
    kept: Mutex<Kept>,
    /// Number of the newest event.
    newest: watch::Sender<i64>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Arc<Logged>>,
    /// Those that the dashboard shows, which others must not push out.
    lines: VecDeque<Arc<Logged>>,
    /// Number of the newest event that is kept no more.
    gone: i64,
}

impl Recent {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, event: Event) {
        let event = Arc::new(Logged::from(event));
        let mut kept = self.kept();
        if kept.gone == 0 && kept.events.is_empty() {
            // The log goes further back than what a start takes up.
            kept.gone = event.sequence - 1;
        }
        if event.kind == EventKind::SnapshotUpdated {
            // A picture of the whole fleet is large, and only the newest is of use.
            kept.events.retain(|known| known.kind != EventKind::SnapshotUpdated);
        }
        if event.line().is_some() {
            if kept.lines.len() == LINES {
                kept.lines.pop_front();
            }
            kept.lines.push_back(event.clone());
        }
        if kept.events.len() == RECENT
            && let Some(oldest) = kept.events.pop_front()
        {
            kept.gone = oldest.sequence;
        }
        let sequence = event.sequence;
        kept.events.push_back(event);
        drop(kept);
        self.newest.send_replace(sequence);
    }

    /// The latest `n` that the dashboard shows, newest first.
    pub fn lines(&self, n: usize) -> Vec<Arc<Logged>> {
        self.kept().lines.iter().rev().take(n).cloned().collect()
    }

    /// At most `n` events after number `sequence`, oldest first; `None` when some of them are kept no more.
    pub fn after(&self, sequence: i64, n: usize) -> Option<Vec<Arc<Logged>>> {
        let kept = self.kept();
        if sequence < kept.gone {
            return None;
        }
        let from = kept.events.partition_point(|event| event.sequence <= sequence);
        Some(kept.events.range(from..).take(n).cloned().collect())
    }

    /// Number before the oldest event that is kept.
    pub fn before_oldest(&self) -> i64 {
        let kept = self.kept();
        kept.events.front().map_or(kept.gone, |event| event.sequence - 1)
    }

    /// Number of the newest event.
    pub fn newest(&self) -> i64 {
        *self.newest.borrow()
    }

    /// Follows the number of the newest event.
    pub fn follow(&self) -> watch::Receiver<i64> {
        self.newest.subscribe()
    }
}
