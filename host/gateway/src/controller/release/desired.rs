//! What the configuration wants a plugin to serve, and how far that has come. The configuration
//! says it once: what is taken out of service afterwards stays out, until it says something else.

use serde::{Deserialize, Serialize};

use super::{Check, Release};

/// The version that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Desired {
    /// SHA-256 of its manifest in the registry.
    manifest: String,
    /// SHA-256 of the component.
    component: String,
    /// It has served, be it on trial.
    has_served: bool,
}

impl Desired {
    pub(super) fn is(&self, component: &str) -> bool {
        self.component == component
    }
}

/// How far a desired version has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Standing {
    /// Nothing was made of it yet; the component, if it is there all the same.
    New(Option<String>),
    /// Its component is there, and was not verified.
    Staged(String),
    /// It may serve, and has not.
    Verified(String),
    /// It did not pass verification.
    Refused(String),
    /// It serves, be it on trial.
    Serving,
    /// It has served, and was taken out of service.
    Withdrawn(String),
}

impl Release {
    /// Notes that the version `component` is wanted, as `manifest` names it.
    pub(in super::super) fn desire(&mut self, manifest: &str, component: &str) {
        let known = self.versions.iter_mut();
        for version in known.filter(|version| version.digest == component) {
            version.manifest = Some(manifest.to_owned());
        }
        self.desired = Some(Desired {
            manifest: manifest.to_owned(),
            component: component.to_owned(),
            has_served: false,
        });
    }

    /// Notes that `component` serves; says whether that is new of what is wanted.
    pub(in super::super) fn fulfil(&mut self, component: &str) -> bool {
        let desired = self.desired.as_mut();
        match desired.filter(|desired| desired.is(component) && !desired.has_served) {
            Some(desired) => {
                desired.has_served = true;
                true
            }
            None => false,
        }
    }

    /// Whether the configuration wants `component`, as far as is known.
    pub(super) fn is_desired(&self, component: &str) -> bool {
        let desired = self.desired.as_ref();
        desired.is_some_and(|desired| desired.is(component))
    }

    /// How far the version that `manifest` names has come.
    pub(in super::super) fn standing(&self, manifest: &str) -> Standing {
        let desired = self.desired.as_ref();
        let Some(desired) = desired.filter(|desired| desired.manifest == manifest) else {
            let mut known = self.versions.iter();
            let found = known.find(|version| version.manifest.as_deref() == Some(manifest));
            return Standing::New(found.map(|version| version.digest.clone()));
        };
        let component = desired.component.clone();
        let Some(version) = self.version(&component) else {
            return Standing::New(None);
        };
        let is_tried = self
            .trial
            .as_ref()
            .is_some_and(|trial| trial.digest == component);
        match (&version.check, desired.has_served) {
            (_, true) if is_tried || self.live() == Some(&component) => Standing::Serving,
            (_, true) => Standing::Withdrawn(
                version
                    .withdrawn
                    .clone()
                    .unwrap_or_else(|| "another version was activated".to_owned()),
            ),
            (Check::Pending, false) => Standing::Staged(component),
            (Check::Passed(_), false) => Standing::Verified(component),
            (Check::Failed { reason, .. }, false) => Standing::Refused(reason.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Facts, Source, TrialMode, Version};
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn staged(release: &mut Release, digit: char) -> String {
        release.stage(Version {
            digest: id(digit),
            source: Source::Registry,
            manifest: Some(id(digit.to_ascii_uppercase())),
            since: 0,
            check: Check::Pending,
            withdrawn: None,
            size_bytes: 1,
            signatures: Vec::new(),
        });
        id(digit)
    }

    fn pass(release: &mut Release, digest: &str) {
        let facts = Facts {
            version: "1.0.0".to_owned(),
            stages: Vec::new(),
            imports: Vec::new(),
            cases: 0,
        };
        release.checked(digest, Check::Passed(facts));
    }

    /// `a` serves, and `b` is wanted.
    fn release() -> Release {
        let mut release = Release::default();
        for digit in ['a', 'b'] {
            let digest = staged(&mut release, digit);
            release.desire(&id(digit.to_ascii_uppercase()), &digest);
            pass(&mut release, &digest);
        }
        release.activate("p", &id('a')).unwrap();
        release
    }

    #[test]
    fn what_is_wanted_is_carried_on_from_wherever_it_stands() {
        let mut release = Release::default();
        let wanted = id('A');
        assert_eq!(release.standing(&wanted), Standing::New(None));
        let digest = staged(&mut release, 'a');
        assert_eq!(
            release.standing(&wanted),
            Standing::New(Some(digest.clone()))
        );
        release.desire(&wanted, &digest);
        assert_eq!(release.standing(&wanted), Standing::Staged(digest.clone()));
        pass(&mut release, &digest);
        assert_eq!(
            release.standing(&wanted),
            Standing::Verified(digest.clone())
        );
        release.activate("p", &digest).unwrap();
        assert_eq!(release.standing(&wanted), Standing::Serving);
    }

    #[test]
    fn what_was_taken_back_stays_so_until_something_else_was_wanted() {
        let mut release = release();
        release.activate("p", &id('b')).unwrap();
        release
            .roll_back("p", None, Some("too slow".to_owned()))
            .unwrap();
        let withdrawn = Standing::Withdrawn("too slow".to_owned());
        assert_eq!(release.standing(&id('B')), withdrawn);
        // The one before was wanted before: that it serves again is no news.
        assert_eq!(release.standing(&id('A')), Standing::New(Some(id('a'))));
        release.desire(&id('A'), &id('a'));
        assert!(release.fulfil(&id('a')));
        assert_eq!(release.standing(&id('A')), Standing::Serving);
        release.desire(&id('B'), &id('b'));
        assert_eq!(release.standing(&id('B')), Standing::Verified(id('b')));
    }

    #[test]
    fn a_canary_serves_and_another_activation_is_no_rollback() {
        let mut release = release();
        let mode = TrialMode::Canary(10);
        release.try_out("p", &id('b'), mode).unwrap();
        assert_eq!(release.standing(&id('B')), Standing::Serving);
        release.roll_back("p", None, None).unwrap();
        assert_eq!(
            release.standing(&id('B')),
            Standing::Withdrawn("rolled back".to_owned())
        );
        release.activate("p", &id('b')).unwrap();
        release.activate("p", &id('a')).unwrap();
        assert!(matches!(release.standing(&id('B')), Standing::Withdrawn(_)));
    }

    #[test]
    fn a_refused_version_is_remembered_as_long_as_it_is_wanted() {
        let mut release = release();
        let failed = Check::Failed {
            code: "golden_case".to_owned(),
            reason: "it differs".to_owned(),
        };
        release.checked(&id('b'), failed);
        let refused = Standing::Refused("it differs".to_owned());
        assert_eq!(release.standing(&id('B')), refused);
        staged(&mut release, 'c');
        release.forget_old(1);
        assert_eq!(release.standing(&id('B')), refused);
    }
}
