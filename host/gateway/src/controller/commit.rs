//! How a change takes effect: what is to serve is loaded and the chains are built before it is
//! written down, and from then on it has happened.

use std::sync::Arc;

use super::{
    ControlError, Controller, Origin, chains,
    draft::Draft,
    serving::{Serving, Shelf},
};
use crate::{routing::RouteTable, trial::Watched};

/// What a change does to the version that serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Another goes live, and is on probation from then on.
    Live,
    /// Another serves beside it.
    Trial,
    /// It goes back to one that has served, or a trial ends. Nobody waits for anything then.
    Back,
}

impl Controller {
    /// Loads what `draft` lets `name` serve with, builds the chains, commits and swaps.
    pub(super) fn finish(&self, name: &str, draft: Draft, turn: Turn) -> Result<(), ControlError> {
        let old = self.state().serving.get(name).cloned();
        let ledger = self.metrics.ledger();
        let shelf = Shelf {
            runtime: &self.runtime,
            store: &self.store,
            ledger,
        };
        let release = draft.releases.plugins.get(name);
        let mut serving = match release {
            Some(release) => Serving::of(name, release, old.as_ref(), &shelf)?,
            None => None,
        };
        if let (Turn::Live, Some(serving), Some(old)) = (turn, &mut serving, &old) {
            let watched = Watched::new(ledger, old.live.id(), serving.live.id());
            serving.probation = Some(Arc::new(watched));
        }
        let table = self.build_with(name, serving.clone())?;
        if turn != Turn::Back {
            self.prefill(&table, name);
        }
        self.commit(draft)?;
        if let Some(serving) = serving {
            self.state().serving.insert(name.to_owned(), serving);
        }
        self.swap(table);
        Ok(())
    }

    /// The routes, with `serving` for `name`.
    pub(super) fn build_with(
        &self,
        name: &str,
        serving: Option<Serving>,
    ) -> Result<RouteTable, ControlError> {
        let (config, mut all, releases) = self.inputs();
        all.extend(serving.map(|serving| (name.to_owned(), serving)));
        let model = self.state().model.clone();
        let changed = Some((&**self.routes.load(), name));
        chains::build(&config, model.as_ref(), &all, &releases, changed)
    }

    pub(super) fn draft(&self) -> Draft {
        Draft::of(&self.state().releases)
    }

    /// From here on the change has happened, whatever becomes of the process. That of the guard
    /// happens even where it cannot be written down.
    pub(super) fn commit(&self, mut draft: Draft) -> Result<(), ControlError> {
        draft.forget_old(self.config().plugins.keep_versions);
        let mut changes = self.state().unwritten.clone();
        changes.extend_from_slice(&draft.changes);
        let unwritten = match self.store.commit(&draft.releases, &changes) {
            Ok(()) => Vec::new(),
            // Nobody is there to free the disk, and clients would go on getting bad answers.
            Err(error) if draft.is_by(Origin::Guard) => {
                tracing::error!(%error, "what the guard does cannot be written down yet; it is done");
                changes
            }
            Err(error) => return Err(error),
        };
        let releases = &draft.releases.plugins;
        self.metrics.ledger().keep(|id| {
            let release = releases.get(&id.name);
            release.is_some_and(|release| release.version(&id.digest).is_some())
        });
        draft.count(&self.metrics);
        let mut state = self.state();
        state.releases = draft.releases;
        state.unwritten = unwritten;
        for change in draft.changes {
            state.history.add(change.clone());
            // Nobody has to listen.
            let _ = self.events.send(change);
        }
        Ok(())
    }

    /// Tries again to write down what the guard did.
    pub(super) fn write_down(&self) {
        if self.state().unwritten.is_empty() {
            return;
        }
        let _changing = self.begin();
        // Another change may have written it meanwhile.
        let is_due = !self.state().unwritten.is_empty();
        if is_due && self.commit(self.draft()).is_ok() {
            tracing::info!("wrote down what the guard did");
        }
    }
}
