//! Making settings durable before they are in force (DESIGN.md D3).

use super::Engine;
use super::commit::Transition;
use crate::domain::service::ServiceName;
use crate::domain::spec::Problem;
use crate::store::records::{Batch, Fact};

/// Broken registrations named in a refusal: our choice.
const NAMED: usize = 5;

/// What is to be remembered, and what each was before.
#[derive(Debug, Clone, Default)]
pub struct Remembered {
    pub next: Vec<Fact>,
    pub before: Vec<Fact>,
}

impl Remembered {
    /// Both together.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.next.extend(other.next);
        self.before.extend(other.before);
        self
    }
}

/// Why settings were not put in force. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdopted {
    /// Services would contradict each other, or break a rule.
    Contradiction(String),
    /// They could not be made durable.
    NotDurable,
}

impl NotAdopted {
    pub(super) fn broken(mut registrations: Vec<(ServiceName, Problem)>) -> Self {
        registrations.sort_by(|a, b| a.0.cmp(&b.0));
        let one = |(name, problem): &(ServiceName, Problem)| format!("{name}: {} {}", problem.field, problem.message);
        let told: Vec<String> = registrations.iter().take(NAMED).map(one).collect();
        Self::Contradiction(format!("the registered service {}", told.join("; ")))
    }
}

impl Engine {
    /// Makes `facts` durable.
    ///
    /// # Errors
    /// It could not be.
    pub(super) async fn remember(&self, facts: Remembered) -> Result<(), NotAdopted> {
        if facts.next.is_empty() {
            return Ok(());
        }
        if self.commit.trouble().is_some_and(|trouble| trouble.not_durable) {
            return Err(NotAdopted::NotDurable);
        }
        if let Err(error) = self.records.write(Batch { facts: facts.next, ..Batch::default() }).await {
            tracing::error!(%error, "settings not stored: nothing is changed");
            // The store may have taken it and its answer was lost: it hears of the truth when it is back.
            let beside = Batch { facts: facts.before, ..Batch::default() };
            drop(self.commit.transition(Transition { beside, ..Transition::default() }));
            return Err(NotAdopted::NotDurable);
        }
        Ok(())
    }
}
