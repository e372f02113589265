//! What people do to alerts: acknowledge, clear, resolve. Durable before it is answered, or not done at all.

use std::sync::Arc;

use super::Engine;
use crate::domain::alert::{Acknowledgement, Alert};
use crate::domain::judge::NotLiving;

/// What somebody does to an alert.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    Acknowledge(Acknowledgement),
    /// Acknowledged and off the active list.
    Clear,
    Resolve {
        by: Option<String>,
        note: Option<String>,
    },
}

/// Why it is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActError {
    #[error(transparent)]
    NotLiving(#[from] NotLiving),
    #[error("records are not writable; nothing was changed")]
    NotDurable,
}

impl Engine {
    /// Does `act` to the living alert of this id, and answers with the alert as it is then.
    ///
    /// # Errors
    /// There is no such alert, or it could not be stored; nothing has changed then.
    pub async fn act_on_alert(self: &Arc<Self>, id: &str, act: Act) -> Result<Alert, ActError> {
        if self.commit.trouble().is_some_and(|trouble| trouble.not_durable) {
            return Err(ActError::NotDurable);
        }
        let (config, roster, in_force, now) =
            (self.config(), self.live.roster(), self.windows_in_force(), self.clock.now());
        let (before, after, committed) = {
            let mut judge = self.judge();
            let bench = self.bench(&config, &roster.registry, &in_force, now);
            let before = judge.find(id).cloned().ok_or(NotLiving)?;
            let decision = match act {
                Act::Acknowledge(by) => judge.acknowledge(id, by)?,
                Act::Clear => judge.clear(bench, id)?,
                Act::Resolve { by, note } => judge.resolve_by_hand(bench, id, by.as_deref(), note.as_deref())?,
            };
            let after = decision.changed.iter().find(|alert| alert.id == before.id).cloned();
            let transition = self.decided(decision, now);
            (before, after, self.commit.transition(transition))
        };
        if committed.await.unwrap_or(false) {
            return after.ok_or(ActError::NotLiving(NotLiving));
        }
        // The store gave up in this very moment: the alert becomes what it was, and what was owed is taken back.
        let undone = {
            let mut judge = self.judge();
            let transition = self.decided(judge.undo(before), now);
            self.commit.transition(transition)
        };
        let _ = undone.await;
        Err(ActError::NotDurable)
    }
}
