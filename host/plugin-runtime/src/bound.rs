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
use crate::rooms::Room;
use crate::slow::Turns;
use crate::state::{Profile, RequestScope};

/// A binding and what every call of it needs.
pub(crate) struct Bound {
    pub(crate) binding: Binding,
    pub(crate) profile: Arc<Profile>,
    /// The version that takes over calls that fail, where the policy says so.
    pub(crate) previous: Option<Arc<Self>>,
    idle: Arc<Idle>,
    /// Of all bindings of the route.
    turns: Turns,
    /// By stage: a plugin may judge well and fail on answers.
    breakers: [Arc<Breaker>; Stage::ALL.len()],
}

impl Bound {
    pub(crate) fn new(route: &Arc<str>, index: usize, binding: Binding, turns: &Turns) -> Self {
        let previous = previous(route, &binding).map(|plugin| {
            let binding = Binding {
                plugin,
                on_failure: FailurePolicy::Closed,
                previous: None,
                ..binding.clone()
            };
            Arc::new(Self::new(route, index, binding, turns))
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
            shared.rooms.idle.add(&idle);
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
            turns: turns.clone(),
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
        room: Arc<Room>,
    ) -> Result<Guest, Failure> {
        let artifact = self.binding.plugin.artifact();
        if let Some(mut guest) = self.idle.take() {
            guest.adopt(artifact, request_id, scope, room);
            scope.services.observer.reused(self.binding.plugin.id());
            return Ok(guest);
        }
        let profile = &self.profile;
        Guest::start(artifact, profile, scope, request_id, stage, Some(room)).await
    }

    /// Does `work` of its guests, which goes on on other threads where it takes long.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let slow = &self.binding.plugin.artifact().shared.slow;
        slow.run(&self.turns, work).await
    }

    /// Takes an instance back whose request needs it no more and that has not failed. It waits for
    /// the next one if it may, and if the pool has room that nobody waits for.
    pub(crate) fn give_back(&self, scope: &RequestScope, mut guest: Guest) {
        let reuse = self.binding.reuse;
        if !guest.rest(reuse) {
            if reuse > 0 {
                scope.services.observer.recycled(self.binding.plugin.id());
            }
            return;
        }
        if let Some(room) = self.binding.plugin.artifact().shared.rooms.spare() {
            guest.wait_in(room);
            self.idle.put(guest);
        }
    }

    /// Whether a failure of `stage` is the request's, whatever it is.
    pub(crate) fn fails_closed(&self, stage: Stage) -> bool {
        match &self.binding.on_failure {
            FailurePolicy::Closed => true,
            FailurePolicy::Open => stage == Stage::Render,
            FailurePolicy::Previous => !self.has_previous(stage),
            FailurePolicy::Static(_) => false,
        }
    }

    fn has_previous(&self, stage: Stage) -> bool {
        let previous = self.previous.as_ref();
        previous.is_some_and(|previous| previous.binding.plugin.has(stage))
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
