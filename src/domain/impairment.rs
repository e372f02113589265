//! Is it them, or is it us? What reference targets and the sum of all failures say about the monitor's own network
//! (CONTRACT.md 7.5).
//!
//! Why no rule of our own about the resolver: names that are gone with their services look the same. A reference target
//! given by name tells of it.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

/// Rounds in a row in which a reference target answers, after which the network is whole again: CONTRACT.md 7.5.
const GOOD_ROUNDS: u32 = 2;
/// Rounds in a row without any answer that are told although no service has failed: our choice, one lost packet to a
/// single target is no news.
const SILENT_ROUNDS: u32 = 2;
/// Fewer services than this prove nothing about ourselves: CONTRACT.md 7.5.
const AT_LEAST: usize = 5;

/// How the reference targets stand, from round to round.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct References {
    configured: usize,
    failing: usize,
    silent_rounds: u32,
    good_rounds: u32,
    rounds: u32,
    impaired_since: Option<DateTime<Utc>>,
}

impl References {
    /// Takes in a round: whether each target answered. `asked`: for the sake of a service that failed.
    pub fn take(&mut self, answered: &[bool], asked: bool, now: DateTime<Utc>) {
        self.configured = answered.len();
        self.failing = answered.iter().filter(|answered| !**answered).count();
        // None configured never means that all of them fail.
        if self.failing < self.configured || self.configured == 0 {
            return self.take_answer();
        }
        self.rounds += 1;
        self.good_rounds = 0;
        self.silent_rounds += 1;
        if asked || self.silent_rounds >= SILENT_ROUNDS {
            self.impaired_since.get_or_insert(now);
        }
    }

    /// Takes in that one of them answered, which is all a round has to find out.
    pub fn take_answer(&mut self) {
        self.rounds += 1;
        self.silent_rounds = 0;
        self.good_rounds += 1;
        if self.good_rounds >= GOOD_ROUNDS {
            self.impaired_since = None;
        }
    }

    /// Enough rounds were made to say that our network is whole, or there is nothing to ask.
    pub fn is_settled(&self, targets: usize) -> bool {
        targets == 0 || self.rounds >= GOOD_ROUNDS
    }

    /// No reference target answered in the latest round, or it is not sure yet that they answer again.
    pub fn is_silent(&self) -> bool {
        self.silent_rounds > 0 || self.impaired_since.is_some()
    }

    pub fn impaired_since(&self) -> Option<DateTime<Utc>> {
        self.impaired_since
    }

    /// How many there are, and how many did not answer.
    pub fn counts(&self) -> (usize, usize) {
        (self.configured, self.failing)
    }
}

/// Services that were up and failed for reasons of the network, within one second.
#[derive(Debug, Clone, Copy, Default)]
struct Second {
    at: i64,
    newly_failed: usize,
}

/// Such failures of the latest seconds.
#[derive(Debug, Clone, Default)]
pub struct Tide(VecDeque<Second>);

impl Tide {
    /// Counts a service that was up and has failed.
    pub fn count(&mut self, now: DateTime<Utc>, window_s: i64) {
        let at = now.timestamp();
        if self.0.back().is_none_or(|second| second.at != at) {
            self.0.push_back(Second { at, newly_failed: 0 });
        }
        // Seconds that lie ahead are those before the wall clock was set back.
        self.0.retain(|second| second.at > at - window_s && second.at <= at);
        if let Some(second) = self.0.back_mut() {
            second.newly_failed += 1;
        }
    }

    /// More than half of the services, `up` of which are left, failed of late for reasons of the network.
    pub fn is_mass(&self, now: DateTime<Utc>, window_s: i64, up: usize) -> bool {
        let at = now.timestamp();
        let recent = self.0.iter().filter(|second| second.at > at - window_s && second.at <= at);
        let failed: usize = recent.map(|second| second.newly_failed).sum();
        failed + up >= AT_LEAST && failed > up
    }
}

#[cfg(test)]
mod tests {
    use super::super::time::from_ms;
    use super::*;

    #[test]
    fn silence_of_all_references_counts_and_two_good_rounds_end_it() {
        let mut references = References::default();
        let mut check = |answered: &[bool], asked, impaired| {
            references.take(answered, asked, from_ms(1000));
            assert_eq!(references.impaired_since().is_some(), impaired, "{answered:?}");
        };
        check(&[], true, false);
        check(&[true, false], true, false);
        check(&[false, false], false, false);
        check(&[false, false], false, true);
        check(&[true, false], false, true);
        check(&[true, true], false, false);
        check(&[false, false], true, true);
        check(&[true, false], false, true);
        check(&[false, false], false, true);
        check(&[true, false], false, true);
        check(&[true, false], false, false);
    }

    #[test]
    fn one_answer_is_not_enough_to_accuse_again_and_a_start_says_nothing() {
        let mut references = References::default();
        assert!(!references.is_settled(1) && references.is_settled(0));
        references.take(&[false], true, from_ms(1000));
        references.take_answer();
        assert!(references.is_silent(), "one of two");
        references.take_answer();
        assert!(!references.is_silent() && references.is_settled(1));
    }

    #[test]
    fn more_than_half_of_those_that_were_up_is_a_mass() {
        let mut tide = Tide::default();
        let now = from_ms(100_000);
        for _ in 0..3 {
            tide.count(now, 30);
        }
        assert!(tide.is_mass(now, 30, 2));
        assert!(!tide.is_mass(now, 30, 3));
        assert!(!tide.is_mass(now, 30, 1), "fewer than five services");
        assert!(!tide.is_mass(from_ms(131_000), 30, 2), "long ago");
    }
}
