//! What routes bind and is not there yet. Before the server starts it is waited for; a changed file
//! takes effect once it has come, and nothing waits for that.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{
        ControlError, Controller, MoveError, Origin, chains,
        release::{Releases, Standing, short},
    },
    Source,
};
use crate::config::{Config, SourceConfig};

/// Longest time that whoever asks for a reload waits for what it needs.
const RELOAD_TIME: Duration = Duration::from_secs(10);
/// Between two looks whether it is there.
const INTERVAL: Duration = Duration::from_millis(20);

/// The sources of plugins that a route of `config` binds and of which no version is live.
pub(in super::super) fn missing<'a>(
    config: &'a Config,
    releases: &Releases,
) -> Vec<(&'a str, &'a SourceConfig)> {
    let is_live = |name: &str| {
        let release = releases.plugins.get(name);
        release.is_some_and(|release| release.live().is_some())
    };
    let sources = config.plugins.sources.iter();
    sources
        .filter(|(name, _)| chains::binds(config, name) && !is_live(name))
        .map(|(name, source)| (name.as_str(), source))
        .collect()
}

impl Controller {
    /// Has those plugins pulled that routes of `config` bind, that are not there, and that it names
    /// by reference; they serve as soon as they can. Who asks by hand waits a while for it.
    ///
    /// # Errors
    /// [`ControlError`] where one is not there yet, or will not be.
    pub(in super::super) fn bring_missing(
        self: &Arc<Self>,
        config: Config,
        origin: Origin,
    ) -> Result<(), ControlError> {
        let config = Arc::new(config);
        let awaited: BTreeMap<String, Arc<Source>> = missing(&config, &self.state().releases)
            .into_iter()
            .map(|(name, source)| {
                let source = Source {
                    canary: None,
                    ..Source::new(&config, source)
                };
                (name.to_owned(), Arc::new(source))
            })
            .collect();
        let by_hand = origin != Origin::File;
        let mut attempts = self.attempts();
        attempts.wait_for(awaited.clone());
        if by_hand {
            let awaited = awaited.iter();
            awaited.for_each(|(name, source)| attempts.forgive(name, &source.live));
        }
        drop(attempts);
        let end = Instant::now() + RELOAD_TIME;
        while let Err(error) = self.has_come(&awaited) {
            self.follow_sources();
            let is_coming = matches!(error, ControlError::Awaited { .. });
            if !by_hand || !is_coming || end < Instant::now() {
                return Err(error);
            }
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// Whether all of `awaited` serve.
    fn has_come(&self, awaited: &BTreeMap<String, Arc<Source>>) -> Result<(), ControlError> {
        let mut coming = Ok(());
        for (name, source) in awaited {
            let name = name.clone();
            match self.standing(&name, &source.live) {
                Standing::Serving | Standing::Withdrawn(_) => {}
                Standing::Refused(reason) => {
                    let label = short(&source.live.version.manifest.to_hex());
                    return Err(ControlError::Move(MoveError::NotVerified {
                        name,
                        label,
                        reason,
                    }));
                }
                Standing::New(_) | Standing::Staged(_) | Standing::Verified(_) => {
                    let (failure, _) = self.attempts().failure(&name, &source.live);
                    match failure {
                        Some(reason) => return Err(ControlError::NotBrought { name, reason }),
                        None => coming = Err(ControlError::Awaited { name }),
                    }
                }
            }
        }
        coming
    }
}
