//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng as _;

/// Capped exponential pauses with jitter.
///
/// The n-th pause lies between half and the whole of `first * 2^n`, and never above `cap`: many clients that lost one
/// server do not come back in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    tries: u32,
}

impl Default for Backoff {
    /// 200 ms to 30 s: a restarted server is found within a second, a dead one is asked twice a minute.
    fn default() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(30))
    }
}

impl Backoff {
    /// Pauses from `first` to `cap`.
    #[must_use]
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, tries: 0 }
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let whole =
            self.first.saturating_mul(1_u32.checked_shl(self.tries).unwrap_or(u32::MAX)).min(self.cap);
        self.tries = self.tries.saturating_add(1);
        let half = whole / 2;
        half + half.mul_f64(rand::rng().random_range(0.0..=1.0))
    }

    /// How many pauses there were since the last [`Backoff::reset`].
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Starts over. Call it when something was really received, not when a connection was merely made: a server that
    /// accepts and drops connections would else be asked without a pause.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_start_over() {
        let mut backoff = Backoff::default();
        for whole in [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000] {
            let pause = backoff.next_pause().as_millis();
            assert!((whole / 2..=whole).contains(&pause), "{pause} of {whole}");
        }
        backoff.tries = u32::MAX;
        assert!(backoff.next_pause() <= Duration::from_secs(30));
        backoff.reset();
        assert!(backoff.next_pause() <= Duration::from_millis(200));
    }
}
