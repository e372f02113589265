//! Is it them, or is it us? What reference targets and the sum of all checks say about the monitor's own network and
//! resolver (CONTRACT.md 7.5).

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

/// Rounds in a row in which a reference target answers, after which the network is whole again: CONTRACT.md 7.5.
const GOOD_ROUNDS: u32 = 2;
/// Rounds in a row without any answer that are told although no service has failed: our choice, one lost packet to a
/// single target is no news.
const SILENT_ROUNDS: u32 = 2;
/// Fewer services or checks than this prove nothing about ourselves: CONTRACT.md 7.5.
const AT_LEAST: u32 = 5;

/// How the reference targets stand, from round to round.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct References {
    configured: usize,
    failing: usize,
    silent_rounds: u32,
    good_rounds: u32,
    impaired_since: Option<DateTime<Utc>>,
}

impl References {
    /// Takes in a round: whether each target answered. `asked`: for the sake of a service that failed.
    pub fn take(&mut self, answered: &[bool], asked: bool, now: DateTime<Utc>) {
        self.configured = answered.len();
        self.failing = answered.iter().filter(|answered| !**answered).count();
        // None configured never means that all of them fail.
        if self.failing < self.configured || self.configured == 0 {
            self.silent_rounds = 0;
            self.good_rounds += 1;
            if self.good_rounds >= GOOD_ROUNDS {
                self.impaired_since = None;
            }
            return;
        }
        self.good_rounds = 0;
        self.silent_rounds += 1;
        if asked || self.silent_rounds >= SILENT_ROUNDS {
            self.impaired_since.get_or_insert(now);
        }
    }

    /// No reference target answered in the latest round.
    pub fn is_silent(&self) -> bool {
        self.silent_rounds > 0
    }

    pub fn impaired_since(&self) -> Option<DateTime<Utc>> {
        self.impaired_since
    }

    /// How many there are, and how many did not answer.
    pub fn counts(&self) -> (usize, usize) {
        (self.configured, self.failing)
    }
}

/// What a check says about our own network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// An answer, or a failure that is the target's own.
    Whole,
    /// The name was not resolved.
    Unresolved,
    /// No answer, for other reasons of the network.
    Silent,
}

/// Checks of one second.
#[derive(Debug, Clone, Copy, Default)]
struct Second {
    at: i64,
    checks: u32,
    unresolved: u32,
    /// Services that were up and failed for reasons of the network.
    newly_failed: u32,
}

/// The checks of the latest seconds, counted.
#[derive(Debug, Clone, Default)]
pub struct Tide(VecDeque<Second>);

impl Tide {
    /// Counts a check. `was_up`: its service was.
    pub fn count(&mut self, now: DateTime<Utc>, window_s: i64, sign: Sign, was_up: bool) {
        let at = now.timestamp();
        if self.0.back().is_none_or(|second| second.at != at) {
            self.0.push_back(Second { at, ..Second::default() });
        }
        // Seconds that lie ahead are those before the wall clock was set back.
        self.0.retain(|second| second.at > at - window_s && second.at <= at);
        if let Some(second) = self.0.back_mut() {
            second.checks += 1;
            second.unresolved += u32::from(sign == Sign::Unresolved);
            second.newly_failed += u32::from(sign != Sign::Whole && was_up);
        }
    }

    fn sum(&self, now: DateTime<Utc>, window_s: i64, of: impl Fn(&Second) -> u32) -> u32 {
        let at = now.timestamp();
        self.0.iter().filter(|second| second.at > at - window_s && second.at <= at).map(of).sum()
    }

    /// More than half of the latest checks could not resolve a name: the resolver is ours.
    pub fn is_unresolved(&self, now: DateTime<Utc>, window_s: i64) -> bool {
        let unresolved = self.sum(now, window_s, |second| second.unresolved);
        unresolved >= AT_LEAST && unresolved * 2 > self.sum(now, window_s, |second| second.checks)
    }

    /// More than half of the services, `up` of which are left, failed of late for reasons of the network.
    pub fn is_mass(&self, now: DateTime<Utc>, window_s: i64, up: usize) -> bool {
        let failed = self.sum(now, window_s, |second| second.newly_failed) as usize;
        failed + up >= AT_LEAST as usize && failed > up
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
    fn a_resolver_that_fails_for_most_is_ours() {
        let mut tide = Tide::default();
        let now = from_ms(100_000);
        for _ in 0..4 {
            tide.count(now, 30, Sign::Unresolved, true);
        }
        assert!(!tide.is_unresolved(now, 30), "four prove nothing");
        tide.count(now, 30, Sign::Unresolved, true);
        assert!(tide.is_unresolved(now, 30));
        for _ in 0..5 {
            tide.count(now, 30, Sign::Whole, true);
        }
        assert!(!tide.is_unresolved(now, 30), "half is not more than half");
        assert!(!tide.is_unresolved(from_ms(131_000), 30), "long ago");
    }

    #[test]
    fn more_than_half_of_those_that_were_up_is_a_mass() {
        let mut tide = Tide::default();
        let now = from_ms(100_000);
        for _ in 0..3 {
            tide.count(now, 30, Sign::Silent, true);
            tide.count(now, 30, Sign::Silent, false);
        }
        assert!(tide.is_mass(now, 30, 2));
        assert!(!tide.is_mass(now, 30, 3));
        assert!(!tide.is_mass(now, 30, 1), "fewer than five services");
    }
}
