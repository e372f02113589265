//! The dead-man signal: a beat that begins here only while the scheduler turns, is handed through the committer, passes
//! every lane of the outbox, and is sent when it has. Any part that is stuck stops it (DESIGN.md section 7).

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Engine;
use super::commit::Transition;
use super::counters::Part;
use crate::notify::DeliveryError;

/// What is remembered from beat to beat.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    sent: Option<Instant>,
    /// Rounds of the scheduler at the last beat.
    rounds: u64,
}

impl Engine {
    /// Sends a beat on its way, if it is time and the scheduler has turned since the last one.
    pub(super) fn beat_if_due(&self, pulse: &mut Pulse) {
        let Some(heartbeat) = &self.heartbeat else { return };
        let rounds = self.counters.rounds()[Part::Scheduler as usize];
        let due = pulse.sent.is_none_or(|at| at.elapsed() >= heartbeat.interval());
        if due && rounds != pulse.rounds {
            *pulse = Pulse { sent: Some(Instant::now()), rounds };
            drop(self.commit.transition(Transition { beat: true, ..Transition::default() }));
        }
    }

    /// Sends each beat that has passed every lane, until `stop`.
    pub(super) async fn send_heartbeats(self: &Arc<Self>, stop: &CancellationToken) {
        let Some(heartbeat) = &self.heartbeat else { return };
        let mut failing = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.outbox.beat_passed() => {}
            }
            match heartbeat.send(self.clock.now(), self.live.counts().total()).await {
                Ok(()) if failing => {
                    failing = false;
                    tracing::info!("heartbeats arrive again");
                }
                Ok(()) => {}
                // The next one is its own attempt: a late heartbeat says nothing that a missing one does not.
                Err(DeliveryError::Away { detail, .. } | DeliveryError::Refused { detail }) => {
                    if !failing {
                        tracing::warn!(%detail, "heartbeats do not arrive");
                    }
                    failing = true;
                }
            }
        }
    }
}
