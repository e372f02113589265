//! Changes of the registry over the API: durable first, then in force, then answered (DESIGN.md D3). Wishes that come
//! together are settled together, so that ten thousand registrations do not make ten thousand registries.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::commit::Transition;
use super::maintenance::Version;
use super::{Engine, EngineConfig, NotAdopted, Remembered, RosterChange};
use crate::domain::definitions::{Applied, Change, Definitions, Listed, Refused, Undo};
use crate::domain::registry::RegistryError;
use crate::domain::service::ServiceName;
use crate::domain::spec::Defaults;
use crate::store::records::Batch;

/// Wishes settled together at most: our choice.
const TOGETHER: usize = 256;

/// Why a wish was not granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    Refused(Refused),
    /// It could not be made durable; nothing has changed.
    Unavailable,
}

type Answer = Result<Applied, Denied>;
type Wish = (Change, oneshot::Sender<Answer>);

/// Every definition, and the wishes that wait for their turn.
#[derive(Debug, Default)]
pub struct Registrar {
    definitions: tokio::sync::Mutex<Definitions>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    wishes: VecDeque<Wish>,
    /// Somebody is at work on it: a task for each wish would wait behind that one for as long as wishes come.
    attended: bool,
}

impl Registrar {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next wishes after `later`, which come first.
    fn next(&self, mut later: Vec<Wish>) -> Vec<Wish> {
        let mut queue = self.queue();
        let count = queue.wishes.len().min(TOGETHER.saturating_sub(later.len()));
        later.extend(queue.wishes.drain(..count));
        queue.attended = !later.is_empty();
        later
    }
}

/// Lets the next wish find somebody else, should the one at work panic.
struct Attending(Arc<Engine>);

impl Drop for Attending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.registrar.queue().attended = false;
        }
    }
}

impl Engine {
    /// Grants or refuses a wish. When it says yes, the change is durable and in force.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub async fn change_registry(self: &Arc<Self>, change: Change) -> Answer {
        let (answer, answered) = oneshot::channel();
        let attended = {
            let mut queue = self.registrar.queue();
            queue.wishes.push_back((change, answer));
            std::mem::replace(&mut queue.attended, true)
        };
        if !attended {
            let at_work = Attending(self.clone());
            // A task of its own: a client that goes away must not leave a change half done.
            tokio::spawn(async move {
                let engine = &at_work.0;
                let mut wishes = engine.registrar.next(Vec::new());
                while !wishes.is_empty() {
                    let mut definitions = engine.registrar.definitions.lock().await;
                    let later = engine.settle_wishes(&mut definitions, wishes).await;
                    drop(definitions);
                    wishes = engine.registrar.next(later);
                }
            });
        }
        answered.await.unwrap_or(Err(Denied::Unavailable))
    }

    /// Settles wishes together; answers leave when what they say is durable. Returns those that must wait: a second wish
    /// about one name is not settled with the first.
    async fn settle_wishes(self: &Arc<Self>, definitions: &mut Definitions, wishes: Vec<Wish>) -> Vec<Wish> {
        let now = self.clock.now();
        let mut answers: Vec<(oneshot::Sender<Answer>, Answer)> = Vec::new();
        let (mut undos, mut erased, mut later): (Vec<Undo>, Vec<ServiceName>, Vec<Wish>) = Default::default();
        for (change, answer) in wishes {
            if change.name().is_some_and(|name| undos.iter().any(|undo| undo.name == name)) {
                later.push((change, answer));
                continue;
            }
            let settled = definitions.apply(change, &self.config().defaults, now).map(|(applied, undo)| {
                if matches!(applied, Applied::Removed) {
                    erased.extend(undo.iter().map(|undo| undo.name.clone()));
                }
                undos.extend(undo);
                applied
            });
            answers.push((answer, settled.map_err(Denied::Refused)));
        }
        // A service that is gone leaves its windows: the next of its name is another.
        let _windows_turn = if erased.is_empty() { None } else { Some(self.windows.turn().await) };
        let left = if erased.is_empty() { Vec::new() } else { self.windows.without(&erased, now) };
        let written =
            if undos.is_empty() { Ok(()) } else { self.store_definitions(definitions, &undos, &erased, &left).await };
        if let Err(error) = written {
            tracing::error!(error, "registrations not stored: nothing is changed");
            let mut inverse = Transition::default();
            left.iter().for_each(|version| version.undo(&mut inverse.beside));
            for undo in undos.into_iter().rev() {
                // The store may have taken it and its answer was lost: it hears of the truth when it is back.
                match &undo.before {
                    Some(known) => {
                        inverse.beside.registrations.insert(undo.name.clone(), (*known.registration).clone());
                    }
                    None => inverse.beside.unregistered.push(undo.name.clone()),
                }
                definitions.undo(undo);
            }
            drop(self.commit.transition(inverse));
            for (answer, _) in answers {
                let _ = answer.send(Err(Denied::Unavailable));
            }
            return later;
        }
        self.windows.put(left);
        if !undos.is_empty()
            && let Err(error) = self.put_in_force(definitions, &erased).await
        {
            // Cannot be: each change was judged by the same rules. It is durable, and in force with the next change.
            tracing::error!(%error, "the registry could not be made");
        }
        for (answer, settled) in answers {
            let _ = answer.send(settled);
        }
        later
    }

    /// Puts other settings in force, for all later work: what is listed, and every registration read with its new defaults,
    /// once `facts` are durable. Nothing is in force that is not stored.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub async fn adopt(
        self: &Arc<Self>,
        config: EngineConfig,
        listed: Option<Listed>,
        facts: Remembered,
    ) -> Result<RosterChange, NotAdopted> {
        let mut definitions = self.registrar.definitions.lock().await;
        let mut next = definitions.clone();
        let windows = listed.as_ref().map(|listed| listed.windows.clone());
        if let Some(listed) = listed {
            next.list(dated(listed, definitions.listed(), self.clock.now()));
            next.redefine(&lenient(config.defaults.clone())).map_err(NotAdopted::broken)?;
        }
        next.registry().map_err(|error| NotAdopted::Contradiction(error.to_string()))?;
        self.remember(facts).await?;
        match crate::notify::receivers(&config.notify) {
            Ok(receivers) => self.outbox.refit(receivers),
            Err(error) => tracing::error!(%error, "receivers stay as they were"),
        }
        self.config.store(Arc::new(config));
        self.exporter.hurry();
        *definitions = next;
        let change = match self.put_in_force(&definitions, &[]).await {
            Ok(change) => change,
            // Cannot be: it was made a moment ago.
            Err(error) => return Err(NotAdopted::Contradiction(error.to_string())),
        };
        if let Some(windows) = windows {
            self.list_windows(windows);
        }
        Ok(change)
    }

    /// Makes the changed definitions durable, and what is erased with them.
    async fn store_definitions(
        &self,
        definitions: &Definitions,
        undos: &[Undo],
        erased: &[ServiceName],
        left: &[Version],
    ) -> Result<(), String> {
        let mut batch = Batch { erased: erased.to_vec(), removed: erased.to_vec(), ..Batch::default() };
        left.iter().for_each(|version| version.write(&mut batch));
        // What was exported of an open outage goes too, whatever happens after this.
        let now = self.clock.now();
        let open = |name: &ServiceName| self.live.find(name)?.lock().state.outage.clone();
        let gone = erased.iter().filter_map(|name| self.exporter.erased(&open(name)?, now));
        batch.facts.extend(gone.map(|owed| owed.fact()));
        for undo in undos {
            match definitions.registration(&undo.name) {
                Some(known) => {
                    batch.registrations.insert(undo.name.clone(), (*known.registration).clone());
                }
                None => batch.unregistered.push(undo.name.clone()),
            }
        }
        if self.commit.trouble().is_some_and(|trouble| trouble.not_durable) {
            return Err("records cannot be written".to_owned());
        }
        self.records.write(batch).await.map_err(|error| error.to_string())
    }

    /// Watches everything that is defined.
    async fn put_in_force(
        self: &Arc<Self>,
        definitions: &Definitions,
        erased: &[ServiceName],
    ) -> Result<RosterChange, RegistryError> {
        let (registry, left_out) = definitions.registry()?;
        for sentence in &left_out {
            tracing::warn!("{sentence}");
        }
        Ok(self.watch(registry, |_| None, erased).await)
    }

    /// The definitions at a start, before anything is watched, and the names of registrations that broke a rule of
    /// today: they are not watched, and what is kept of them stays.
    pub(super) async fn define(
        &self,
        listed: Listed,
        registrations: Vec<crate::domain::registration::Registration>,
    ) -> Result<(crate::domain::registry::Registry, Vec<ServiceName>), RegistryError> {
        let mut set_aside = Vec::new();
        let mut definitions = self.registrar.definitions.lock().await;
        definitions.list(dated(listed, &Listed::default(), self.clock.now()));
        let defaults = lenient(self.config().defaults.clone());
        for registration in registrations {
            match registration.service(&defaults) {
                Ok(service) => definitions.restore(registration, service),
                Err(problems) => {
                    let name = registration.name().map(|name| name.to_string()).unwrap_or_default();
                    let told: Vec<String> = problems.iter().map(|p| format!("{} {}", p.field, p.message)).collect();
                    tracing::error!(service.name = name, "a registration is not watched: {}", told.join("; "));
                    set_aside.extend(registration.name());
                }
            }
        }
        let (registry, left_out) = definitions.registry()?;
        for sentence in &left_out {
            tracing::warn!("{sentence}");
        }
        Ok((registry, set_aside))
    }
}

/// What the API may reach may have become less: that is judged by each probe, and takes nobody off the list.
fn lenient(mut defaults: Defaults) -> Defaults {
    defaults.registered.egress.development = true;
    defaults.registered.egress.own = None;
    defaults
}

/// Gives what the operator has written its dates: those of before where nothing has changed.
fn dated(listed: Listed, before: &Listed, now: chrono::DateTime<chrono::Utc>) -> Listed {
    let known: std::collections::HashMap<&ServiceName, _> =
        before.services.iter().map(|service| (&service.name, service)).collect();
    let services = listed.services.iter().map(|service| match known.get(&service.name) {
        Some(known) if known.fingerprint == service.fingerprint => (*known).clone(),
        Some(known) => Arc::new((**service).clone().dated(known.created, now, 0)),
        None => Arc::new((**service).clone().dated(now, now, 0)),
    });
    Listed { services: services.collect(), ..listed }
}
