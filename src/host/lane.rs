//! A thread of its own for looks that may hang: one look at a time, and whoever asks waits no longer than it wants to.
//!
//! Why not the runtime's blocking threads: one that hangs (a file system whose server is gone) holds up the end of the
//! process and takes a place from everyone else's work.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

type Ask<T> = oneshot::Sender<T>;

/// Looks of one kind.
pub struct Lane<T> {
    name: &'static str,
    asks: SyncSender<Ask<T>>,
    begin: fn(Receiver<Ask<T>>),
}

impl<T: Send + 'static> Lane<T> {
    /// `begin` answers until nobody can ask any more. Nothing runs before the first look.
    pub fn new(name: &'static str, begin: fn(Receiver<Ask<T>>)) -> Self {
        // A sender without a receiver: the first look starts the thread as any look does that finds none.
        let (asks, _) = sync_channel(1);
        Self { name, asks, begin }
    }

    /// One look; `None` when there is no answer within `limit`, or an earlier look still hangs.
    pub async fn look(&mut self, limit: Duration) -> Option<T> {
        let (ask, answer) = oneshot::channel();
        match self.asks.try_send(ask) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return None,
            Err(TrySendError::Disconnected(ask)) => {
                // Not begun, or it has panicked.
                let (asks, asked) = sync_channel(1);
                let begin = self.begin;
                let thread = std::thread::Builder::new().name(self.name.to_owned()).spawn(move || begin(asked));
                if let Err(error) = thread {
                    tracing::warn!(%error, "{} cannot be sampled: no thread", self.name);
                    return None;
                }
                // It has room for one.
                let _ = asks.try_send(ask);
                self.asks = asks;
            }
        }
        tokio::time::timeout(limit, answer).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_look_that_hangs_holds_up_nobody_and_the_next_is_made_when_it_is_over() {
        static OPEN: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
        let mut lane = Lane::new("hanging", |asks| {
            for (number, ask) in asks.iter().enumerate() {
                let open = OPEN.0.lock().unwrap();
                drop(OPEN.1.wait_while(open, |open| !*open).unwrap());
                let _ = ask.send(number);
            }
        });
        let soon = Duration::from_millis(1);
        assert_eq!(lane.look(soon).await, None);
        // One may wait behind it, and no more: nothing piles up.
        lane.look(soon).await;
        let asked = std::time::Instant::now();
        assert_eq!(lane.look(LIMIT).await, None);
        assert!(asked.elapsed() < LIMIT);
        *OPEN.0.lock().unwrap() = true;
        OPEN.1.notify_all();
        let answered = async {
            loop {
                if let Some(number) = lane.look(LIMIT).await {
                    return number;
                }
                tokio::task::yield_now().await;
            }
        };
        assert!(tokio::time::timeout(LIMIT, answered).await.unwrap() > 0);
    }

    #[tokio::test]
    async fn a_thread_that_panicked_is_begun_again() {
        let mut lane = Lane::new("panicking", |asks| {
            static ONCE: std::sync::Once = std::sync::Once::new();
            for ask in asks {
                let mut first = false;
                ONCE.call_once(|| first = true);
                assert!(!first, "as wanted");
                let _ = ask.send("well");
            }
        });
        assert_eq!(lane.look(LIMIT).await, None);
        let again = async {
            loop {
                if let Some(answer) = lane.look(LIMIT).await {
                    return answer;
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(tokio::time::timeout(LIMIT, again).await.unwrap(), "well");
    }
}
