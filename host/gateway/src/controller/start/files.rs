//! What has come into the plugin folder while no server ran. A file takes the place of what serves
//! only where the routes that bind it can be built with it; one that cannot is refused, noted, and
//! what has served serves on.

use std::{collections::BTreeMap, path::Path};

use super::super::{
    Change, ControlError, Origin, chains,
    draft::Draft,
    history, inbox, provenance,
    release::{Check, Facts, Source, Version},
    serving::{Serving, Shelf},
    verify,
};
use crate::{
    config::{Config, Digest},
    signing::Signature,
};

/// The plugins that are loaded, by name.
pub(super) type Loaded = BTreeMap<String, Serving>;

/// What a file holds.
struct Artefact {
    /// The plugin.
    name: String,
    digest: String,
    size_bytes: u64,
    signature: Option<Signature>,
}

/// A file that may serve by itself, and would take the place of what serves.
pub(super) struct File {
    artefact: Artefact,
    facts: Facts,
}

/// Looks at every file of `dir`. What is new goes live where nothing else does; the others are
/// returned, for it takes what serves to know whether they may.
///
/// # Errors
/// [`ControlError`] if the folder cannot be read, or a file that a route needs and nothing can stand
/// in for.
pub(super) fn take(
    draft: &mut Draft,
    dir: &Path,
    config: &Config,
    shelf: &Shelf<'_>,
) -> Result<Vec<File>, ControlError> {
    let mut files = Vec::new();
    for name in inbox::names(dir)? {
        let taken = verify::check_name(&name)
            .and_then(|()| Ok(draft.releases.check_room(&name)?))
            .and_then(|()| take_one(draft, dir, &name, config, shelf));
        match taken {
            Ok(file) => files.extend(file),
            Err(error) if is_only_hope(draft, config, &name) => return Err(error),
            Err(error) => {
                tracing::warn!(plugin = name, reason = %error, "passed over a plugin file");
            }
        }
    }
    Ok(files)
}

/// Whether a route binds `name`, and nobody has chosen anything to serve under it.
fn is_only_hope(draft: &Draft, config: &Config, name: &str) -> bool {
    !is_live(draft, name) && chains::binds(config, name)
}

fn is_live(draft: &Draft, name: &str) -> bool {
    let release = draft.releases.plugins.get(name);
    release.is_some_and(|release| release.live().is_some())
}

fn take_one(
    draft: &mut Draft,
    dir: &Path,
    name: &str,
    config: &Config,
    shelf: &Shelf<'_>,
) -> Result<Option<File>, ControlError> {
    let component = inbox::read(dir, name)?;
    let signature = inbox::signature(dir, name)?;
    let digest = Digest::of(&component).to_hex();
    let (signature, foreign) = match provenance::read(name, &digest, signature.as_deref()) {
        Ok(signature) => (signature, None),
        Err(error) => (None, Some(error)),
    };
    let artefact = Artefact {
        name: name.to_owned(),
        digest,
        size_bytes: component.len() as u64,
        signature,
    };
    let known = draft.releases.plugins.get(name);
    if known.is_some_and(|release| release.has_taken(&artefact.digest)) {
        if let Some(error) = foreign {
            tracing::warn!(plugin = name, reason = %error, "passed over a signature");
        }
        if known.is_some_and(|release| release.version(&artefact.digest).is_some()) {
            // What is damaged there is whole here.
            shelf.store.put(&artefact.digest, &component)?;
            sign(draft, &artefact);
        }
        return Ok(None);
    }
    let found = verify::examine(shelf.runtime, name, &component);
    let found = found.and_then(|(_, facts)| foreign.map_or(Ok(facts), Err));
    if found.is_err() && is_only_hope(draft, config, name) {
        return found.map(|_| None);
    }
    shelf.store.put(&artefact.digest, &component)?;
    let facts = match found {
        Ok(facts) => facts,
        Err(error) => {
            refuse(draft, &artefact, &error);
            return Ok(None);
        }
    };
    let file = File { artefact, facts };
    if is_live(draft, name) {
        return Ok(Some(file));
    }
    file.serve(draft)?;
    Ok(None)
}

/// Lets those of `files` serve that may, in `draft` and in `loaded`. Several that only fit the routes
/// together are taken together.
pub(super) fn settle(
    files: Vec<File>,
    draft: &mut Draft,
    loaded: &mut Loaded,
    config: &Config,
    shelf: &Shelf<'_>,
) {
    let all: Vec<&File> = files.iter().collect();
    if let Ok((next, with)) = serve(&all, draft, loaded, config, shelf) {
        (*draft, *loaded) = (next, with);
        return;
    }
    for file in files {
        match serve(&[&file], draft, loaded, config, shelf) {
            Ok((next, with)) => (*draft, *loaded) = (next, with),
            Err(error) => refuse(draft, &file.artefact, &error),
        }
    }
}

/// The state with `files` in service, if the routes that bind them can be built so.
fn serve(
    files: &[&File],
    draft: &Draft,
    loaded: &Loaded,
    config: &Config,
    shelf: &Shelf<'_>,
) -> Result<(Draft, Loaded), ControlError> {
    let (mut draft, mut loaded) = (draft.clone(), loaded.clone());
    for file in files {
        file.serve(&mut draft)?;
        let name = &file.artefact.name;
        let serving = Serving::of(name, draft.release(name), loaded.get(name), shelf)?;
        loaded.extend(serving.map(|serving| (name.clone(), serving)));
    }
    let mut routes = config.clone();
    routes.routes.retain(|route| {
        let mut bound = route.plugins.iter().map(|binding| &binding.plugin);
        bound.any(|name| files.iter().any(|file| file.artefact.name == *name))
    });
    chains::build(&routes, None, &loaded, &draft.releases, None)?;
    Ok((draft, loaded))
}

impl File {
    fn serve(&self, draft: &mut Draft) -> Result<(), ControlError> {
        let (name, digest) = (self.artefact.name.as_str(), self.artefact.digest.as_str());
        let change = |outcome| Change::plugin(Origin::File, name, outcome);
        stage(draft, &self.artefact);
        let release = draft.release(name);
        release.file = Some(digest.to_owned());
        let known = release.version(digest).map(|version| &version.check);
        if !matches!(known, Some(Check::Passed(_))) {
            release.checked(digest, Check::Passed(self.facts.clone()));
            draft.note_version(change("verified"), digest);
        }
        let release = draft.release(name);
        let before = release.live().map(str::to_owned);
        if before.as_deref() == Some(digest) {
            release.fulfil(digest);
            return Ok(());
        }
        release.activate(name, digest)?;
        if let Some(before) = before {
            draft.note_version(change("retired"), &before);
        }
        draft.note_version(change("live"), digest);
        Ok(())
    }
}

/// Notes that the version may not serve, but not twice for the same reason.
fn refuse(draft: &mut Draft, artefact: &Artefact, error: &ControlError) {
    let (name, digest) = (artefact.name.as_str(), artefact.digest.as_str());
    tracing::warn!(plugin = name, digest, reason = %error, "refused a plugin file");
    let release = draft.release(name);
    let was_taken = release.file.as_deref() == Some(digest);
    match release.version(digest).map(|version| &version.check) {
        // It passed before; it is its signature, or a route, that stands in the way now.
        Some(Check::Passed(_)) => return,
        Some(known) if was_taken && *known == verify::failed(error) => return,
        None if was_taken => return,
        Some(_) | None => {}
    }
    stage(draft, artefact);
    let release = draft.release(name);
    release.file = Some(digest.to_owned());
    release.checked(digest, verify::failed(error));
    let change = Change::plugin(Origin::File, name, "refused");
    draft.note_version(change.because(Some(error.to_string())), digest);
}

fn stage(draft: &mut Draft, artefact: &Artefact) {
    let (name, digest) = (artefact.name.as_str(), artefact.digest.as_str());
    let release = draft.release(name);
    let is_new = release.version(digest).is_none();
    release.stage(Version {
        digest: digest.to_owned(),
        source: Source::File,
        manifest: None,
        since: history::now(),
        check: Check::Pending,
        withdrawn: None,
        size_bytes: artefact.size_bytes,
        signatures: artefact
            .signature
            .iter()
            .filter(|_| is_new)
            .cloned()
            .collect(),
    });
    match is_new {
        true => draft.note_version(Change::plugin(Origin::File, name, "staged"), digest),
        false => sign(draft, artefact),
    }
}

/// Adds a signature that is new to a version that is there.
fn sign(draft: &mut Draft, artefact: &Artefact) {
    let (name, digest) = (artefact.name.as_str(), artefact.digest.as_str());
    let Some(signature) = &artefact.signature else {
        return;
    };
    let release = draft.release(name);
    if !release.signatures(digest).contains(signature) {
        release.sign(digest, signature.clone());
        draft.note_version(Change::plugin(Origin::File, name, "signed"), digest);
    }
}
