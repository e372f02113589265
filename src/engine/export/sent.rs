//! What is known to be with the far side. Never says so of what may not be there; the other way round it may.

use std::collections::{BTreeSet, HashMap};

use uuid::Uuid;

/// Name of what was given up, among the marks.
pub(super) const GAPS: &str = "export.gaps";
/// No check comes into the log later than this after its time: our choice, far beyond the longest timeout.
const LATEST_ENTRY_MS: i64 = 3_600_000;
/// Stretches of time that are remembered apart; beyond it they are joined: our choice.
const MOST_GAPS: usize = 100;

/// What was sent, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// By the hash of a service's name: time of its newest check that was settled. Checks of one service come into the
    /// log in order.
    newest: HashMap<u64, i64>,
    /// Everything up to here is settled, since `began_ms`.
    floor_ms: i64,
    pub began_ms: i64,
    /// When, and the id of what was refused; the same by id.
    refused: BTreeSet<(i64, String)>,
    refused_at: HashMap<String, i64>,
    /// Stretches in which something was given up.
    gaps: Vec<(i64, i64)>,
}

impl Sent {
    pub fn resume(&mut self, mark: i64, began_ms: i64, now_ms: i64) {
        // Marks only rise: they are ahead of a clock that was set back.
        (self.floor_ms, self.began_ms) = ((mark / 1000).min(now_ms) - LATEST_ENTRY_MS, began_ms);
    }

    /// A check of a service is on its way into the log: neither it nor what comes after it is settled. It is older than
    /// what is only where the clock was set back.
    pub fn comes(&mut self, service: u64, at_ms: i64) {
        self.floor_ms = self.floor_ms.min(at_ms - 1);
        if let Some(newest) = self.newest.get_mut(&service) {
            *newest = at_ms.saturating_sub(1).min(*newest);
        }
    }

    /// A page of the log is settled: the newest check of each service in it, and the time of its first.
    pub fn settle(&mut self, newest: impl IntoIterator<Item = (u64, i64)>, first_ms: i64) {
        if self.began_ms == 0 {
            self.began_ms = first_ms;
        }
        self.newest.extend(newest);
    }

    pub fn has_check(&self, service: u64, at_ms: i64, id: &Uuid) -> bool {
        let settled = self.newest.get(&service).copied().unwrap_or(i64::MIN).max(self.floor_ms);
        self.began_ms > 0
            && (self.began_ms..=settled).contains(&at_ms)
            && !self.gaps.iter().any(|(from, to)| (*from..=*to).contains(&at_ms))
            && (self.refused_at.is_empty() || !self.is_refused(&id.to_string()))
    }

    pub fn refuse(&mut self, id: &str, at_ms: i64) {
        self.forgive(id);
        self.refused.insert((at_ms, id.to_owned()));
        self.refused_at.insert(id.to_owned(), at_ms);
    }

    /// It was taken after all; whether it had been refused.
    pub fn forgive(&mut self, id: &str) -> bool {
        let Some(at_ms) = self.refused_at.remove(id) else { return false };
        self.refused.remove(&(at_ms, id.to_owned()));
        true
    }

    pub fn is_refused(&self, id: &str) -> bool {
        self.refused_at.contains_key(id)
    }

    pub fn refused(&self) -> usize {
        self.refused.len()
    }

    /// The refused documents beyond the newest `most`, which are forgotten here.
    pub fn beyond(&mut self, most: usize) -> Vec<String> {
        let mut beyond = Vec::new();
        while self.refused.len() > most
            && let Some((_, id)) = self.refused.pop_first()
        {
            self.refused_at.remove(&id);
            beyond.push(id);
        }
        beyond
    }

    /// Something between these times (unix ms) was given up.
    pub fn lose(&mut self, from_ms: i64, to_ms: i64) {
        match self.gaps.last_mut() {
            Some(last) if from_ms <= last.1 + 1000 && to_ms >= last.0 => {
                *last = (last.0.min(from_ms), last.1.max(to_ms));
            }
            _ => self.gaps.push((from_ms, to_ms)),
        }
        if self.gaps.len() > MOST_GAPS {
            let (first, second) = (self.gaps.remove(0), self.gaps.remove(0));
            self.gaps.insert(0, (first.0.min(second.0), first.1.max(second.1)));
        }
    }

    pub fn gaps(&self) -> Option<String> {
        if self.gaps.is_empty() { None } else { serde_json::to_string(&self.gaps).ok() }
    }

    pub fn recall_gaps(&mut self, text: &str) {
        self.gaps = serde_json::from_str(text).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Uuid = Uuid::nil();

    #[test]
    fn a_check_is_sent_between_the_first_page_and_the_newest_of_its_service() {
        let mut sent = Sent::default();
        assert!(!sent.has_check(1, 1000, &ID));
        sent.settle([(1, 5000), (2, 9000)], 1000);
        for (service, at_ms, is_sent) in [(1, 1000, true), (1, 5000, true), (1, 5001, false), (2, 9000, true)] {
            assert_eq!(sent.has_check(service, at_ms, &ID), is_sent, "{service} {at_ms}");
        }
        assert!(!sent.has_check(1, 999, &ID), "older than the export");
        assert!(!sent.has_check(3, 2000, &ID), "a service that was in no page");
        sent.comes(1, 4000);
        assert!(!sent.has_check(1, 4000, &ID), "the clock was set back");
        sent.settle([(1, 4000)], 4000);
        assert!(sent.has_check(1, 4000, &ID) && !sent.has_check(1, 4001, &ID));
    }

    #[test]
    fn after_a_restart_only_what_cannot_have_come_late_counts() {
        let mut sent = Sent::default();
        let mark = 10 * LATEST_ENTRY_MS * 1000;
        sent.resume(mark, 1000, i64::MAX);
        assert!(sent.has_check(7, 9 * LATEST_ENTRY_MS, &ID));
        assert!(!sent.has_check(7, 9 * LATEST_ENTRY_MS + 1, &ID));
        sent.resume(mark, 1000, 5 * LATEST_ENTRY_MS);
        assert!(!sent.has_check(7, 5 * LATEST_ENTRY_MS, &ID), "marks ahead of a clock that was set back");
    }

    #[test]
    fn what_was_refused_or_given_up_is_not_there() {
        let mut sent = Sent::default();
        sent.settle([(1, 100_000)], 1000);
        sent.refuse(&ID.to_string(), 5);
        assert!(!sent.has_check(1, 2000, &ID));
        assert!(sent.forgive(&ID.to_string()));
        assert!(sent.has_check(1, 2000, &ID));
        sent.lose(50_000, 60_000);
        assert!(!sent.has_check(1, 50_000, &ID) && sent.has_check(1, 60_001, &ID));
        let mut later = Sent::default();
        later.settle([(1, 100_000)], 1000);
        later.recall_gaps(&sent.gaps().unwrap());
        assert!(!later.has_check(1, 60_000, &ID));
    }

    #[test]
    fn only_the_newest_refusals_are_kept() {
        let mut sent = Sent::default();
        for (id, at) in [("a", 3), ("b", 1), ("c", 2)] {
            sent.refuse(id, at);
        }
        assert_eq!(sent.beyond(2), ["b"]);
        assert!(!sent.is_refused("b") && sent.is_refused("a"));
    }

    #[test]
    fn many_gaps_become_one() {
        let mut sent = Sent::default();
        for n in 0..1000 {
            sent.lose(n * 10_000, n * 10_000 + 1);
        }
        assert!(sent.gaps.len() <= MOST_GAPS);
        sent.settle([(1, 100_000_000)], 1);
        assert!(!sent.has_check(1, 30_000, &ID));
    }
}
