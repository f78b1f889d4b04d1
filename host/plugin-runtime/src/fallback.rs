//! What becomes of a request whose plugin failed: the policy of its binding.

use std::sync::Arc;

use tracing::{debug, warn};

use crate::bound::Bound;
use crate::error::{ChainFailure, FailureKind};
use crate::guest::Failure;
use crate::limits::FailurePolicy;
use crate::plugin::Stage;
use crate::state::RequestScope;

/// How a request goes on in spite of a failure.
pub(crate) enum Fallback {
    /// Without the plugin.
    Skip,
    /// The call is repeated on the version before.
    Previous(Arc<Bound>),
    /// This is the answer.
    Answer(String),
}

impl Bound {
    /// How to go on after `failure` of `stage`. `is_repeatable` says whether another version could
    /// take the call over.
    ///
    /// # Errors
    /// Not at all: the binding fails closed, or nothing else can be done.
    pub(crate) fn fall_back(
        &self,
        scope: &RequestScope,
        stage: Stage,
        failure: Failure,
        is_repeatable: bool,
    ) -> Result<Fallback, ChainFailure> {
        let policy = &self.binding.on_failure;
        // Another version would find no instance either.
        let is_repeatable = is_repeatable && failure.kind != FailureKind::Exhausted;
        let previous = self
            .previous
            .as_ref()
            .filter(|previous| is_repeatable && previous.binding.plugin.has(stage));
        let fallback = match (policy, previous) {
            (FailurePolicy::Open, _) if stage != Stage::Render => Fallback::Skip,
            (FailurePolicy::Previous, Some(previous)) => Fallback::Previous(Arc::clone(previous)),
            (FailurePolicy::Static(text), _) => Fallback::Answer(text.clone()),
            (FailurePolicy::Closed | FailurePolicy::Open | FailurePolicy::Previous, _) => {
                return Err(failure.in_chain(self, stage));
            }
        };
        let id = self.binding.plugin.id();
        scope.services.observer.fell_back(id, stage, policy);
        let (plugin, route) = (self.binding.plugin.label(), &*self.profile.route);
        let (kind, message, policy) = (failure.kind.as_str(), failure.message, policy.as_str());
        // That a breaker is open was logged when it opened.
        if failure.kind == FailureKind::BreakerOpen {
            debug!(plugin, route, %stage, kind, message, policy, "plugin is not called");
        } else {
            warn!(plugin, route, %stage, kind, message, policy, "plugin failed; its policy decides");
        }
        Ok(fallback)
    }
}
