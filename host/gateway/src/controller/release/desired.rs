//! What the configuration wants a plugin to serve, and how far that has come. The configuration
//! says it once: what is taken out of service afterwards stays out, until it says something else.

use serde::{Deserialize, Serialize};

use super::{Check, Release, TrialMode, VersionState};

/// What a version is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Role {
    /// To be the live one.
    Live,
    /// To answer so many of a hundred requests beside it.
    Canary(u8),
}

/// A version that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Desired {
    /// SHA-256 of its manifest in the registry.
    manifest: String,
    /// SHA-256 of the component.
    component: String,
    /// It has served as it was to.
    has_served: bool,
    /// Its share, for a canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    percent: Option<u8>,
}

impl Desired {
    fn is(&self, component: &str) -> bool {
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
    /// It may serve as it is to, and has not.
    Verified(String),
    /// It did not pass verification.
    Refused(String),
    /// It serves as it is to; a canary also where it has been made the live one.
    Serving,
    /// It has served as it was to, and somebody or the guard has decided otherwise.
    Withdrawn(String),
}

impl Release {
    /// Notes that the version `component` is wanted as `role`, as `manifest` names it.
    pub(in super::super) fn desire(&mut self, role: Role, manifest: &str, component: &str) {
        let known = self.versions.iter_mut();
        for version in known.filter(|version| version.digest == component) {
            version.manifest = Some(manifest.to_owned());
        }
        let desired = Some(Desired {
            manifest: manifest.to_owned(),
            component: component.to_owned(),
            has_served: false,
            percent: match role {
                Role::Live => None,
                Role::Canary(percent) => Some(percent),
            },
        });
        match role {
            Role::Live => {
                // The canary was made the live one here; beside another it is a canary again.
                let live = self.lives.last();
                if let Some(canary) = &mut self.canary
                    && live == Some(&canary.component)
                {
                    canary.has_served = false;
                }
                self.desired = desired;
            }
            Role::Canary(_) => self.canary = desired,
        }
    }

    /// Notes that `component` is live; says whether that is new of what is wanted.
    pub(in super::super) fn fulfil(&mut self, component: &str) -> bool {
        fulfil(&mut self.desired, component)
    }

    /// Whether the configuration wants, or has wanted, a canary of it.
    pub(in super::super) fn has_canary(&self) -> bool {
        self.canary.is_some()
    }

    /// Notes that `component` is on trial.
    pub(super) fn fulfil_canary(&mut self, component: &str) {
        fulfil(&mut self.canary, component);
    }

    /// Ends what is left of a canary that the configuration no longer has: it names `live` and, as
    /// its canary, `canary`, both by their manifests. Says which version is out of service by that,
    /// and whether anything has changed.
    pub(in super::super) fn drop_canary(
        &mut self,
        live: Option<&str>,
        canary: Option<&str>,
    ) -> (Option<String>, bool) {
        let Some(desired) = self.canary.clone() else {
            return (None, false);
        };
        if canary == Some(&desired.manifest) {
            return (None, false);
        }
        let trial = self.trial.as_ref();
        let is_tried = trial.is_some_and(|trial| desired.is(&trial.digest));
        if is_tried && live == Some(&desired.manifest) {
            // It goes on until it is live.
            return (None, false);
        }
        self.canary = None;
        if !is_tried {
            return (None, true);
        }
        self.trial = None;
        let reason = "the configuration names it no more".to_owned();
        self.withdraw(&desired.component, Some(reason));
        (Some(desired.component), true)
    }

    /// Whether the configuration wants `component`, as far as is known.
    pub(super) fn is_desired(&self, component: &str) -> bool {
        let mut desired = [&self.desired, &self.canary].into_iter().flatten();
        desired.any(|desired| desired.is(component))
    }

    /// How far the version that `manifest` names has come as `role`.
    pub(in super::super) fn standing(&self, role: Role, manifest: &str) -> Standing {
        let desired = match role {
            Role::Live => &self.desired,
            Role::Canary(_) => &self.canary,
        };
        let desired = desired.as_ref();
        let Some(desired) = desired.filter(|desired| desired.manifest == manifest) else {
            let mut known = self.versions.iter();
            let found = known.find(|version| version.manifest.as_deref() == Some(manifest));
            return Standing::New(found.map(|version| version.digest.clone()));
        };
        let component = desired.component.clone();
        let Some(version) = self.version(&component) else {
            return Standing::New(None);
        };
        let is_live = self.live() == Some(&component);
        let trial = self.trial.as_ref();
        let tried = trial.filter(|trial| trial.digest == component);
        match (role, tried) {
            (Role::Live, _) if is_live && desired.has_served => return Standing::Serving,
            (Role::Canary(_), _) if is_live => return Standing::Serving,
            (Role::Canary(percent), Some(trial)) if desired.has_served => {
                let is_as_wanted = trial.mode == TrialMode::Canary(percent);
                return match (is_as_wanted, desired.percent == Some(percent)) {
                    (true, _) => Standing::Serving,
                    (false, true) => Standing::Withdrawn(format!(
                        "it was made {} here",
                        VersionState::Trial(trial.mode)
                    )),
                    (false, false) => Standing::Verified(component),
                };
            }
            _ => {}
        }
        match (&version.check, desired.has_served) {
            (_, true) => Standing::Withdrawn(match (&version.withdrawn, tried) {
                (Some(reason), _) => reason.clone(),
                (None, Some(_)) => "it is on trial here".to_owned(),
                (None, None) => "another version was activated".to_owned(),
            }),
            (Check::Pending, false) => Standing::Staged(component),
            (Check::Passed(_), false) => Standing::Verified(component),
            (Check::Failed { reason, .. }, false) => Standing::Refused(reason.clone()),
        }
    }
}

fn fulfil(desired: &mut Option<Desired>, component: &str) -> bool {
    let desired = desired.as_mut();
    match desired.filter(|desired| desired.is(component) && !desired.has_served) {
        Some(desired) => {
            desired.has_served = true;
            true
        }
        None => false,
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
            release.desire(Role::Live, &id(digit.to_ascii_uppercase()), &digest);
            pass(&mut release, &digest);
        }
        release.activate("p", &id('a')).unwrap();
        release
    }

    #[test]
    fn what_is_wanted_is_carried_on_from_wherever_it_stands() {
        let mut release = Release::default();
        let wanted = id('A');
        assert_eq!(release.standing(Role::Live, &wanted), Standing::New(None));
        let digest = staged(&mut release, 'a');
        assert_eq!(
            release.standing(Role::Live, &wanted),
            Standing::New(Some(digest.clone()))
        );
        release.desire(Role::Live, &wanted, &digest);
        assert_eq!(
            release.standing(Role::Live, &wanted),
            Standing::Staged(digest.clone())
        );
        pass(&mut release, &digest);
        assert_eq!(
            release.standing(Role::Live, &wanted),
            Standing::Verified(digest.clone())
        );
        release.activate("p", &digest).unwrap();
        assert_eq!(release.standing(Role::Live, &wanted), Standing::Serving);
    }

    #[test]
    fn what_was_taken_back_stays_so_until_something_else_was_wanted() {
        let mut release = release();
        release.activate("p", &id('b')).unwrap();
        release
            .roll_back("p", None, Some("too slow".to_owned()))
            .unwrap();
        let withdrawn = Standing::Withdrawn("too slow".to_owned());
        assert_eq!(release.standing(Role::Live, &id('B')), withdrawn);
        // The one before was wanted before: that it serves again is no news.
        assert_eq!(
            release.standing(Role::Live, &id('A')),
            Standing::New(Some(id('a')))
        );
        release.desire(Role::Live, &id('A'), &id('a'));
        assert!(release.fulfil(&id('a')));
        assert_eq!(release.standing(Role::Live, &id('A')), Standing::Serving);
        release.desire(Role::Live, &id('B'), &id('b'));
        assert_eq!(
            release.standing(Role::Live, &id('B')),
            Standing::Verified(id('b'))
        );
    }

    /// `a` is live and wanted so, `b` is wanted as its canary.
    fn with_canary(percent: u8) -> Release {
        let mut release = release();
        release.desire(Role::Live, &id('A'), &id('a'));
        release.fulfil(&id('a'));
        release.desire(Role::Canary(percent), &id('B'), &id('b'));
        release
    }

    fn canary(release: &Release, percent: u8) -> Standing {
        release.standing(Role::Canary(percent), &id('B'))
    }

    #[test]
    fn the_share_of_a_canary_follows_and_what_was_taken_back_does_not() {
        let mut release = with_canary(10);
        assert_eq!(canary(&release, 10), Standing::Verified(id('b')));
        let mode = TrialMode::Canary(10);
        release.try_out("p", &id('b'), mode).unwrap();
        assert_eq!(canary(&release, 10), Standing::Serving);
        assert_eq!(canary(&release, 50), Standing::Verified(id('b')));
        release.desire(Role::Canary(50), &id('B'), &id('b'));
        let mode = TrialMode::Canary(50);
        release.try_out("p", &id('b'), mode).unwrap();
        assert_eq!(canary(&release, 50), Standing::Serving);
        // By hand it is something else, and stays so until the configuration is.
        release.try_out("p", &id('b'), TrialMode::Shadow).unwrap();
        let by_hand = Standing::Withdrawn("it was made shadow here".to_owned());
        assert_eq!(canary(&release, 50), by_hand);
        release.roll_back("p", None, None).unwrap();
        let withdrawn = Standing::Withdrawn("rolled back".to_owned());
        assert_eq!(canary(&release, 50), withdrawn);
        assert_eq!(canary(&release, 90), withdrawn);
        let live = release.standing(Role::Live, &id('A'));
        assert_eq!(live, Standing::Serving);
    }

    #[test]
    fn a_canary_that_is_named_as_the_live_one_goes_live_whatever_became_of_it() {
        let mut release = with_canary(10);
        let mode = TrialMode::Canary(10);
        release.try_out("p", &id('b'), mode).unwrap();
        // On trial it goes on until it is live; then nothing is left of the canary.
        let live = Some(id('B'));
        assert_eq!(release.drop_canary(live.as_deref(), None), (None, false));
        let standing = release.standing(Role::Live, &id('B'));
        assert_eq!(standing, Standing::New(Some(id('b'))));
        let mut rolled_back = release.clone();
        rolled_back.roll_back("p", None, None).unwrap();
        for mut release in [release, rolled_back] {
            release.desire(Role::Live, &id('B'), &id('b'));
            let standing = release.standing(Role::Live, &id('B'));
            assert_eq!(standing, Standing::Verified(id('b')));
            release.activate("p", &id('b')).unwrap();
            let standing = release.standing(Role::Live, &id('B'));
            assert_eq!(standing, Standing::Serving);
            assert_eq!(release.drop_canary(live.as_deref(), None), (None, true));
            assert_eq!(release.drop_canary(live.as_deref(), None), (None, false));
        }
    }

    #[test]
    fn a_canary_that_is_named_no_more_ends_and_may_come_again() {
        for next in [None, Some(id('C'))] {
            let mut release = with_canary(10);
            let mode = TrialMode::Canary(10);
            release.try_out("p", &id('b'), mode).unwrap();
            let live = Some(id('A'));
            let same = release.drop_canary(live.as_deref(), Some(&id('B')));
            assert_eq!(same, (None, false));
            let gone = release.drop_canary(live.as_deref(), next.as_deref());
            assert_eq!(gone, (Some(id('b')), true));
            assert!(release.trial().is_none());
            assert_eq!(release.live(), Some(id('a').as_str()));
            release.desire(Role::Canary(10), &id('B'), &id('b'));
            assert_eq!(canary(&release, 10), Standing::Verified(id('b')));
        }
    }

    #[test]
    fn a_trial_that_somebody_began_is_not_ended_with_the_canary() {
        let mut release = with_canary(10);
        let mode = TrialMode::Canary(10);
        release.try_out("p", &id('b'), mode).unwrap();
        release.roll_back("p", None, None).unwrap();
        let other = staged(&mut release, 'c');
        pass(&mut release, &other);
        release.try_out("p", &other, TrialMode::Shadow).unwrap();
        assert_eq!(release.drop_canary(Some(&id('A')), None), (None, true));
        assert!(release.trial().is_some());
    }

    #[test]
    fn a_canary_that_was_made_live_by_hand_is_one_again_beside_another_version() {
        let mut release = with_canary(10);
        let mode = TrialMode::Canary(10);
        release.try_out("p", &id('b'), mode).unwrap();
        release.activate("p", &id('b')).unwrap();
        assert_eq!(canary(&release, 10), Standing::Serving);
        let live = release.standing(Role::Live, &id('A'));
        let by_hand = Standing::Withdrawn("another version was activated".to_owned());
        assert_eq!(live, by_hand);
        let next = staged(&mut release, 'c');
        release.desire(Role::Live, &id('C'), &next);
        pass(&mut release, &next);
        release.activate("p", &next).unwrap();
        assert_eq!(canary(&release, 10), Standing::Verified(id('b')));
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
        assert_eq!(release.standing(Role::Live, &id('B')), refused);
        staged(&mut release, 'c');
        release.forget_old(1);
        assert_eq!(release.standing(Role::Live, &id('B')), refused);
    }
}
