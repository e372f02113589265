//! The newest checks of one service, one by one and packed: there is a ring for each of 100,000 services.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::check::Check;
use super::observation::{Kind, Reason};
use super::status::Status;

/// Newest checks kept: CONTRACT.md 7.2.
pub const RING: usize = 100;

/// The newest checks, packed: 24 bytes each, and the texts of failures once each beside them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(into = "Vec<Check>", from = "Vec<Check>")]
pub(super) struct Ring {
    /// Newest last.
    pub(super) kept: VecDeque<Kept>,
    /// `None`: a place that is free again.
    pub(super) texts: Vec<Option<Arc<str>>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) at_ms: i64,
    /// [`UNANSWERED`] without an answer.
    pub(super) response_us: u32,
    pub(super) streak: i32,
    pub(super) http_status: u16,
    pub(super) status: Status,
    pub(super) reason: Reason,
    pub(super) kind: Kind,
    pub(super) maintenance: bool,
    pub(super) redirected: bool,
    /// Place of its text, from 1; 0 for none. There are at most [`RING`] texts.
    text: u8,
}

/// No response takes 71 minutes.
pub(super) const UNANSWERED: u32 = u32::MAX;

impl Ring {
    pub(super) fn push(&mut self, check: Check) {
        if self.kept.len() == RING {
            if let Some(oldest) = self.kept.pop_front() {
                self.release(oldest.text);
            }
        } else if self.kept.len() == self.kept.capacity() {
            self.kept.reserve_exact((RING - self.kept.len()).min(self.kept.len().max(4)));
        }
        let kept = self.pack(check);
        self.kept.push_back(kept);
    }

    pub(super) fn replace_newest(&mut self, check: Check) {
        if let Some(newest) = self.kept.pop_back() {
            self.release(newest.text);
            let kept = self.pack(check);
            self.kept.push_back(kept);
        }
    }

    fn pack(&mut self, check: Check) -> Kept {
        let text = check.error.map_or(0, |text| {
            let place = self.texts.iter().position(|known| known.as_ref() == Some(&text)).or_else(|| {
                let free = self.texts.iter().position(Option::is_none);
                let place = free.unwrap_or(self.texts.len());
                if place == self.texts.len() {
                    self.texts.push(None);
                }
                *self.texts.get_mut(place)? = Some(text);
                Some(place)
            });
            place.and_then(|place| u8::try_from(place + 1).ok()).unwrap_or(0)
        });
        Kept {
            at_ms: check.at_ms,
            response_us: check.response_us.unwrap_or(UNANSWERED),
            streak: check.streak,
            http_status: check.http_status,
            status: check.status,
            reason: check.reason,
            kind: check.kind,
            maintenance: check.maintenance,
            redirected: check.redirected,
            text,
        }
    }

    /// Frees the place of a text that no kept check has any more.
    fn release(&mut self, text: u8) {
        if text != 0 && self.kept.iter().all(|kept| kept.text != text) {
            if let Some(place) = self.texts.get_mut(usize::from(text) - 1) {
                *place = None;
            }
            if self.texts.iter().all(Option::is_none) {
                self.texts = Vec::new();
            }
        }
    }

    pub(super) fn unpack(&self, kept: &Kept) -> Check {
        let text = usize::from(kept.text).checked_sub(1).and_then(|place| self.texts.get(place));
        Check {
            at_ms: kept.at_ms,
            status: kept.status,
            reason: kept.reason,
            kind: kept.kind,
            http_status: kept.http_status,
            response_us: (kept.response_us != UNANSWERED).then_some(kept.response_us),
            streak: kept.streak,
            error: text.cloned().flatten(),
            maintenance: kept.maintenance,
            redirected: kept.redirected,
        }
    }
}

impl From<Ring> for Vec<Check> {
    fn from(ring: Ring) -> Self {
        ring.kept.iter().map(|kept| ring.unpack(kept)).collect()
    }
}

impl From<Vec<Check>> for Ring {
    fn from(checks: Vec<Check>) -> Self {
        let mut ring = Self::default();
        checks.into_iter().for_each(|check| ring.push(check));
        ring
    }
}
