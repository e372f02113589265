//! Keeps long-lived tasks alive: a panic is counted, logged, and the part begins again, with a growing pause.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::counters::Counters;

/// First and longest pause before a part begins again: our choice.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Runs `part` until it ends by itself or `stop` is given; begins it again when it panics.
pub async fn supervise<F>(task: &'static str, counters: Arc<Counters>, stop: CancellationToken, part: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match tokio::spawn(part()).await {
            Ok(()) => return,
            Err(error) => {
                counters.panic(task);
                tracing::error!(task, %error, "{task} panicked and is started again in {} ms", pause.as_millis());
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
