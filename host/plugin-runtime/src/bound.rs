//! A binding and what every call of it needs: the profile of its instances, those that wait, its
//! circuit breakers, and the version that stands in for it.

use std::sync::Arc;

use serde_json::Value;
use tracing::warn;

use crate::breaker::{Breaker, BreakerState, Permit};
use crate::chain::Binding;
use crate::guest::{Failure, Guest};
use crate::idle::Idle;
use crate::limits::FailurePolicy;
use crate::plugin::{Plugin, Stage};
use crate::state::{Profile, RequestScope};

/// A binding and what every call of it needs.
pub(crate) struct Bound {
    pub(crate) binding: Binding,
    pub(crate) profile: Arc<Profile>,
    /// The version that takes over calls that fail, where the policy says so.
    pub(crate) previous: Option<Arc<Self>>,
    idle: Arc<Idle>,
    /// By stage: a plugin may judge well and fail on answers.
    breakers: [Arc<Breaker>; Stage::ALL.len()],
}

impl Bound {
    pub(crate) fn new(route: &Arc<str>, index: usize, binding: Binding) -> Self {
        let previous = previous(route, &binding).map(|plugin| {
            let binding = Binding {
                plugin,
                on_failure: FailurePolicy::Closed,
                previous: None,
                ..binding.clone()
            };
            Arc::new(Self::new(route, index, binding))
        });
        let settings = match &binding.settings {
            Value::Null => "{}".into(),
            settings => settings.to_string().into(),
        };
        let profile = Arc::new(Profile {
            id: binding.plugin.id().clone(),
            route: Arc::clone(route),
            index,
            grants: binding.grants,
            settings,
            limits: binding.limits.clone(),
        });
        let shared = &binding.plugin.artifact().shared;
        let idle = Arc::<Idle>::default();
        if binding.reuse > 0 {
            shared.idle.add(&idle);
        }
        let breakers = Stage::ALL.map(|stage| {
            let clock = Arc::clone(&shared.clock);
            Arc::new(Breaker::new(
                binding.breaker,
                stage,
                Arc::clone(&profile),
                clock,
            ))
        });
        Self {
            binding,
            profile,
            previous,
            idle,
            breakers,
        }
    }

    /// Fails where the next call of `stage` would not be made: before anything is waited for.
    pub(crate) fn check_breaker(&self, scope: &RequestScope, stage: Stage) -> Result<(), Failure> {
        let checked = self.breakers[stage as usize].check();
        checked.inspect_err(|failure| scope.failed(self, stage, failure))
    }

    /// Leave for one call of `stage`.
    pub(crate) fn admit(&self, scope: &RequestScope, stage: Stage) -> Result<Permit, Failure> {
        let admitted = self.breakers[stage as usize].admit();
        admitted.inspect_err(|failure| scope.failed(self, stage, failure))
    }

    /// The breaker that is furthest from closed.
    pub(crate) fn breaker(&self) -> BreakerState {
        let states = self.breakers.iter().map(|breaker| breaker.state());
        states.max().unwrap_or(BreakerState::Closed)
    }

    /// An instance for a request, in room that was reserved for it: one that waits, or a fresh
    /// one. `stage` is the one that it is first needed for.
    pub(crate) async fn guest(
        &self,
        scope: &Arc<RequestScope>,
        request_id: &str,
        stage: Stage,
    ) -> Result<Guest, Failure> {
        if let Some(mut guest) = self.idle.take() {
            guest.adopt(self.binding.plugin.artifact(), request_id, scope);
            return Ok(guest);
        }
        let artifact = self.binding.plugin.artifact();
        Guest::start(artifact, &self.profile, scope, request_id, stage).await
    }

    /// Takes an instance back whose request needs it no more and that has not failed. It waits for
    /// the next one if it may, and if the pool has room that nobody waits for.
    pub(crate) fn give_back(&self, mut guest: Guest) {
        let shared = &self.binding.plugin.artifact().shared;
        if guest.rest(self.binding.reuse)
            && let Some(room) = shared.spare_room()
        {
            self.idle.put(guest, room);
        }
    }
}

/// The version before, if it can take over what `binding` does.
fn previous(route: &str, binding: &Binding) -> Option<Plugin> {
    let previous = binding.previous.as_ref()?;
    let is_used = binding.on_failure == FailurePolicy::Previous
        && previous.digest() != binding.plugin.digest();
    let lacking = previous
        .imports()
        .iter()
        .find(|&&import| !binding.grants.allows(import));
    if let (true, Some(import)) = (is_used, lacking) {
        let previous = previous.label();
        warn!(route, previous, %import, "the version before cannot take over: it lacks a grant");
    }
    (is_used && lacking.is_none()).then(|| previous.clone())
}
