//! The newest events, for the dashboard and whoever listens later. An event appears after its change is committed.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::domain::event::{Event, RECENT};

/// The newest events, newest last.
#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<Event>>);

impl Recent {
    pub fn push(&self, event: Event) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if events.len() == RECENT {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// The latest `n`, newest first.
    pub fn latest(&self, n: usize) -> Vec<Event> {
        let events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().rev().take(n).cloned().collect()
    }
}
