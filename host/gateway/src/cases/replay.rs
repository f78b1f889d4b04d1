//! Plays a record: the whole chain, with what its imports said taken from the tapes.

use std::sync::Arc;

use gapura_plugin_runtime::{
    Binding, Chain, ChainError, FinishReason, Grants, Import, Limits, Plugin, Stage,
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
        let has = |stage: &Stage| {
            let is_left_out = *stage == Stage::Render && !record.is_rendered;
            !is_left_out && plugins.iter().any(|plugin| plugin.has(*stage))
        };
        let scene = Scene {
            chat: &record.chat,
            deltas: record.deltas.clone(),
            finish: record.finish.unwrap_or(FinishReason::Stop),
            stages: Stage::ALL.into_iter().filter(has).collect(),
        };
        let tapes = Tapes::new(record, of);
        let mut found = Expect::default();
        let played = play(&chain, &scene, tapes.services(record), &mut found).await;
        let failure = played.err();
        if let Some(failure) = &failure {
            found.failed(failure);
        }
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
