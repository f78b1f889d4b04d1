//! Plays a record: the whole chain, with what its imports said taken from the tapes.

use std::sync::Arc;

use gapura_plugin_runtime::{
    Binding, CallObserver, Chain, ChainError, ChainFailure, FailureKind, FinishReason, Grants,
    GuestCall, Import, Limits, Plugin, PluginId, Services, Stage,
};

use super::{
    expect::Expect,
    play::{CALL_MS, CaseRunner, Outcome, Scene, play},
    tapes::Tapes,
};
use crate::recording::{self, Record};

impl CaseRunner {
    /// Plays `record` on `plugins`, one for each of its bindings in order. What is used is that of
    /// the plugin named `of`.
    ///
    /// # Errors
    /// [`ChainError`] where they cannot be bound as the record says: one imports what it is not
    /// granted.
    pub async fn replay(
        &self,
        record: &Record,
        plugins: &[Plugin],
        of: &str,
    ) -> Result<Outcome, ChainError> {
        let bindings = record.plugins.iter().zip(plugins);
        let bindings = bindings.map(|(binding, plugin)| bind(plugin, binding));
        let chain = Arc::new(Chain::new(&record.route, bindings.collect())?);
        let tapes = Tapes::new(record, of);
        let (mut found, failure) = played(record, &chain, tapes.services(record)).await;
        let values = tapes.script.values();
        if !values.is_empty() {
            found.put("metrics", values);
        }
        Ok(Outcome {
            found,
            uses: tapes.script.uses(),
            failure,
        })
    }
}

/// Plays `record` on `chain`, which serves, within its own limits. The tapes are those of the plugin
/// named `of`; `observer` hears of all calls.
pub(crate) async fn rehearse(
    record: &Record,
    chain: &Arc<Chain>,
    of: &str,
    observer: Arc<dyn CallObserver>,
) -> (Expect, Option<ChainFailure>) {
    let tapes = Tapes::new(record, of);
    let services = tapes.services(record);
    let observer = Both(Arc::clone(&services.observer), observer);
    let services = Services {
        observer: Arc::new(observer),
        ..services
    };
    played(record, chain, services).await
}

/// The tapes hear who calls, and so does somebody else.
struct Both(Arc<dyn CallObserver>, Arc<dyn CallObserver>);

impl CallObserver for Both {
    fn begins(&self, plugin: &PluginId) {
        self.0.begins(plugin);
        self.1.begins(plugin);
    }

    fn observe(&self, call: &GuestCall<'_>) {
        self.0.observe(call);
        self.1.observe(call);
    }

    fn failed(&self, plugin: &PluginId, stage: Stage, kind: FailureKind) {
        self.0.failed(plugin, stage, kind);
        self.1.failed(plugin, stage, kind);
    }

    fn held(&self, plugin: &PluginId, bytes: u64) {
        self.0.held(plugin, bytes);
        self.1.held(plugin, bytes);
    }
}

/// What comes of `record` on `chain`, and why a stage failed, if one did.
async fn played(
    record: &Record,
    chain: &Arc<Chain>,
    services: Services,
) -> (Expect, Option<ChainFailure>) {
    let has = |stage: &Stage| {
        let is_left_out = *stage == Stage::Render && !record.is_rendered;
        let mut bindings = chain.bindings().iter();
        // Observers are told once how an answer ended.
        *stage != Stage::Observe && !is_left_out && bindings.any(|of| of.plugin.has(*stage))
    };
    let scene = Scene {
        chat: &record.chat,
        deltas: record.deltas.clone(),
        finish: record.finish.unwrap_or(FinishReason::Stop),
        stages: Stage::ALL.into_iter().filter(has).collect(),
    };
    let mut found = Expect::default();
    let played = play(chain, &scene, services, &mut found).await;
    let failure = played.err();
    if let Some(failure) = &failure {
        found.failed(failure);
    }
    (found, failure)
}

/// As it was bound, but for times: another machine, and work that is counted, take longer.
fn bind(plugin: &Plugin, binding: &recording::Binding) -> Binding {
    let granted = |import: &Import| binding.grants.iter().any(|name| name == import.as_str());
    Binding {
        settings: binding.settings.clone(),
        grants: Grants::with(Import::ALL.into_iter().filter(granted)),
        limits: Limits {
            call_ms: CALL_MS,
            delta_ms: CALL_MS,
            ..binding.limits.clone()
        },
        on_failure: binding.on_failure.clone(),
        allow_open_validator: binding.allow_open_validator,
        ..Binding::new(plugin.clone())
    }
}
