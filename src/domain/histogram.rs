//! Mergeable latency histograms with a bounded relative error, sparse per service and dense for sums over many.
//!
//! Bucket `i` holds latencies in `(g^(i-1), g^i]` microseconds with `g = 1.01 / 0.99`, and answers with the value that
//! is at most 1 % away from both ends (the bound of DESIGN.md section 4). Why not a sketch crate: its stores grow in
//! steps of a kilobyte, and a service keeps 25 of these.

use serde::{Deserialize, Serialize};

/// `(1 + e) / (1 - e)` for a relative error `e` of 1 %.
const GROWTH: f64 = 1.01 / 0.99;
/// The bucket of the longest latency a `u32` of microseconds can hold is 1110.
const BUCKETS: usize = 1111;

fn bucket(us: u32) -> u16 {
    if us <= 1 {
        return us as u16;
    }
    // At most 1110, see BUCKETS: it fits.
    (f64::from(us).ln() / GROWTH.ln()).ceil() as u16 + 1
}

fn value_us(bucket: usize) -> f64 {
    match bucket {
        0 => 0.0,
        1 => 1.0,
        n => 2.0 * GROWTH.powi(n as i32 - 1) / (GROWTH + 1.0),
    }
}

/// One service's latencies of one hour: sorted (bucket, count) pairs. Counts stop at 65,535, more than an hour holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram(Vec<(u16, u16)>);

impl Histogram {
    pub fn record(&mut self, us: u32) {
        let bucket = bucket(us);
        match self.0.binary_search_by_key(&bucket, |(at, _)| *at) {
            Ok(found) => {
                if let Some((_, count)) = self.0.get_mut(found) {
                    *count = count.saturating_add(1);
                }
            }
            Err(place) => {
                if self.0.len() == self.0.capacity() {
                    self.0.reserve_exact(4);
                }
                self.0.insert(place, (bucket, 1));
            }
        }
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.0.capacity() * size_of::<(u16, u16)>()
    }

    /// Gives back the room that growing left unused.
    pub fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }
}

/// The sum of many histograms.
#[derive(Debug, Clone)]
pub struct Pool {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Pool {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

impl Pool {
    pub fn add(&mut self, histogram: &Histogram) {
        for (bucket, count) in &histogram.0 {
            if let Some(slot) = self.counts.get_mut(usize::from(*bucket)) {
                *slot += u64::from(*count);
                self.total += u64::from(*count);
            }
        }
    }

    /// The sum of (bucket, count) pairs.
    pub fn of(sparse: &[(u16, u64)]) -> Self {
        let mut pool = Self::default();
        for (bucket, count) in sparse {
            if let Some(slot) = pool.counts.get_mut(usize::from(*bucket)) {
                *slot += count;
                pool.total += count;
            }
        }
        pool
    }

    /// The buckets that hold something.
    pub fn sparse(&self) -> Vec<(u16, u64)> {
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.filter_map(|(bucket, count)| Some((u16::try_from(bucket).ok()?, *count))).collect()
    }

    pub fn record(&mut self, us: u32) {
        if let Some(slot) = self.counts.get_mut(usize::from(bucket(us))) {
            *slot += 1;
            self.total += 1;
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (slot, count) in self.counts.iter_mut().zip(&other.counts) {
            *slot += count;
        }
        self.total += other.total;
    }

    /// Nearest-rank percentile in milliseconds, `share` from 0 to 1; 0 with no data.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let rank = ((share * self.total as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return value_us(bucket) / 1000.0;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_recorded_is_zero() {
        assert_eq!(Pool::default().percentile_ms(0.99), 0.0);
    }

    #[test]
    fn the_longest_latency_has_a_bucket() {
        assert_eq!(usize::from(bucket(u32::MAX)), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn percentiles_are_within_one_percent_of_nearest_rank(
            mut values in prop::collection::vec(0u32..60_000_000, 1..300),
            share in 0.01f64..1.0,
        ) {
            let (left, right) = values.split_at(values.len() / 2);
            let mut halves = [Histogram::default(), Histogram::default()];
            left.iter().for_each(|us| halves[0].record(*us));
            right.iter().for_each(|us| halves[1].record(*us));
            let mut pool = Pool::default();
            halves.iter().for_each(|half| pool.add(half));

            values.sort_unstable();
            let rank = ((share * values.len() as f64).ceil() as usize).max(1);
            let exact = f64::from(values[rank - 1]) / 1000.0;
            let told = pool.percentile_ms(share);
            prop_assert!((told - exact).abs() <= exact * 0.0101, "{told} for {exact}");
        }
    }
}
