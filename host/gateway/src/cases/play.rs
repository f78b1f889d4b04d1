//! Runs a case: one plugin on a route of its own, by the production runtime.

use std::{sync::Arc, time::Duration};

use gapura_plugin_runtime::{
    AnswerContext, Binding, Chain, ChainError, ChainFailure, Chat, Completion, Delta,
    FailurePolicy, FinishReason, Grants, Limits, LoadError, Output, Plugin, PluginRuntime,
    Rendered, Responder, RuntimeConfig, RuntimeError, Services, Stage, Summary, Validated,
};

use super::{
    expect::{Expect, reason},
    file::Case,
    script::{Script, StageUse},
    times::{CallTimes, Taken},
};
use crate::builtin;

/// Cases must not depend on the machine: each call has time enough on the slowest.
pub(super) const CALL_MS: u64 = 60_000;
/// On a server that has other things to do.
const SERVING_CALL_MS: u64 = 2_000;

/// Runs cases.
pub struct CaseRunner {
    runtime: PluginRuntime,
    /// For plugins that render nothing: a route has a template.
    template: Plugin,
    call_ms: u64,
}

/// What guests' work is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// What they execute, which is the same everywhere, and slows them down.
    Fuel,
    /// The time that it takes.
    Time,
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// What the plugin made of it.
    pub found: Expect,
    /// What it used for it, by stage.
    pub uses: Vec<StageUse>,
    /// Why a stage failed, if one did.
    pub failure: Option<ChainFailure>,
}

impl CaseRunner {
    /// A runtime for cases alone.
    ///
    /// # Errors
    /// [`RuntimeError`], as [`PluginRuntime::new`].
    pub fn new(measure: Measure) -> Result<Self, RuntimeError> {
        let runtime = PluginRuntime::new(RuntimeConfig {
            count_fuel: measure == Measure::Fuel,
            // As many as a chain may have plugins, and those that still validate.
            max_instances: 32,
            instance_wait: Duration::from_secs(60),
            ..RuntimeConfig::default()
        })?;
        Ok(Self::over(runtime, CALL_MS))
    }

    /// On the runtime of a server, before a plugin serves there: fuel is not counted, and a call
    /// has two seconds of processor time.
    pub fn on(runtime: &PluginRuntime) -> Self {
        Self::over(runtime.clone(), SERVING_CALL_MS)
    }

    fn over(runtime: PluginRuntime, call_ms: u64) -> Self {
        let template = &builtin::BUILTINS[0];
        let template = runtime
            .load(template.name, template.bytes)
            .expect("what the binary carries was built for it");
        Self {
            runtime,
            template,
            call_ms,
        }
    }

    /// Loads the component whose cases are to run.
    ///
    /// # Errors
    /// [`LoadError`], as [`PluginRuntime::load`].
    pub fn load(&self, name: &str, wasm: &[u8]) -> Result<Plugin, LoadError> {
        self.runtime.load(name, wasm)
    }

    /// Runs `case` on `plugin`.
    ///
    /// # Errors
    /// [`ChainError`] where the plugin cannot be bound: it imports what the case does not grant.
    pub async fn run(&self, plugin: &Plugin, case: &Case) -> Result<Outcome, ChainError> {
        let chain = self.chain(plugin, case, 0)?;
        let script = Script::new(case);
        let mut found = Expect::default();
        let scene = Scene::of_case(plugin, case);
        let played = play(&chain, &scene, script.services(), &mut found).await;
        let failure = played.err();
        if let Some(failure) = &failure {
            found.failed(failure);
        }
        let values = script.values();
        if !values.is_empty() {
            found.put("metrics", values);
        }
        let sent = script.sent();
        if !sent.is_empty() {
            found.put("http", sent);
        }
        let uses = script.uses();
        Ok(Outcome {
            found,
            uses: uses.into_iter().filter(|of| plugin.has(of.stage)).collect(),
            failure,
        })
    }

    /// Runs `case` on `plugin` so many times and takes down how long each call takes. An instance
    /// may serve `reuse` later runs.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn time(
        &self,
        plugin: &Plugin,
        case: &Case,
        reuse: u32,
        times: usize,
    ) -> Result<CallTimes, ChainError> {
        let chain = self.chain(plugin, case, reuse)?;
        let taken = Arc::new(Taken::new(plugin));
        let scene = Scene::of_case(plugin, case);
        for _ in 0..times {
            let services = Services {
                observer: taken.clone(),
                ..Script::new(case).services()
            };
            // A failure is a way to end, and as a rule the cheapest.
            let _ = play(&chain, &scene, services, &mut Expect::default()).await;
            taken.end_request();
        }
        Ok(taken.times())
    }

    /// The plugin alone, or with a template where it is none.
    fn chain(&self, plugin: &Plugin, case: &Case, reuse: u32) -> Result<Arc<Chain>, ChainError> {
        let mut bindings = vec![Binding {
            reuse,
            ..bind(plugin, case, self.call_ms)
        }];
        if !plugin.has(Stage::Render) {
            bindings.push(Binding {
                grants: Grants::with(self.template.imports().iter().copied()),
                ..Binding::new(self.template.clone())
            });
        }
        Ok(Arc::new(Chain::new(&case.chat.route, bindings)?))
    }
}

fn bind(plugin: &Plugin, case: &Case, call_ms: u64) -> Binding {
    let imports = case.grants.as_deref().unwrap_or(plugin.imports());
    Binding {
        settings: case.settings.clone(),
        grants: Grants::with(imports.iter().copied()),
        limits: Limits {
            call_ms,
            delta_ms: call_ms,
            ..Limits::default()
        },
        on_failure: FailurePolicy::Closed,
        ..Binding::new(plugin.clone())
    }
}

/// What a chain is given.
pub(super) struct Scene<'a> {
    pub(super) chat: &'a Chat,
    /// What the model says, and how it ends.
    pub(super) deltas: Vec<Delta>,
    pub(super) finish: FinishReason,
    /// The stages that the request comes to.
    pub(super) stages: Vec<Stage>,
}

impl<'a> Scene<'a> {
    fn of_case(plugin: &Plugin, case: &'a Case) -> Self {
        let delta = |(number, text): (usize, &String)| Delta {
            text: text.clone(),
            token_ids: vec![u32::try_from(number).unwrap_or(u32::MAX)],
            logprobs: Vec::new(),
        };
        Self {
            chat: &case.chat,
            deltas: case.answer.iter().enumerate().map(delta).collect(),
            finish: case.finish,
            stages: plugin.stages().to_vec(),
        }
    }

    fn has(&self, stage: Stage) -> bool {
        self.stages.contains(&stage)
    }
}

/// The way of a request, as far as its scene goes.
pub(super) async fn play(
    chain: &Arc<Chain>,
    scene: &Scene<'_>,
    services: Services,
    found: &mut Expect,
) -> Result<(), ChainFailure> {
    let mut run = chain.start(services.clone());
    let mut chat = scene.chat.clone();
    let mut answer = (scene.deltas.clone(), scene.finish);
    if scene.has(Stage::Validate) {
        match run.validate(chat.clone()).await? {
            Validated::Continue(after) => {
                found.amended(&chat, &after);
                chat = after;
            }
            Validated::Refused { refusal, .. } => {
                found.refused("refuse", &refusal);
                return Ok(());
            }
            Validated::Answered { text, finish, .. } => {
                answer = reply(text, finish, found);
            }
            Validated::Rerouted { route, .. } => {
                found.put("verdict", "reroute");
                found.put("route", route);
                return Ok(());
            }
        }
    }
    if scene.has(Stage::Render) {
        match run.render(&chat).await? {
            Rendered::Prompt(prompt) => found.rendered(&prompt),
            Rendered::Refused { refusal, .. } => {
                found.refused("refuse", &refusal);
                return Ok(());
            }
            Rendered::Answered { text, finish, .. } => answer = reply(text, finish, found),
        }
    }
    // A case that says nothing of an answer ends before there is one.
    if scene.has(Stage::Respond) && !answer.0.is_empty() {
        let responder = run.responder(AnswerContext::from(&chat)).await?;
        respond(responder, answer.0.clone(), answer.1, found).await?;
    }
    if chain.is_observed() {
        let count = |tokens: usize| u32::try_from(tokens).unwrap_or(u32::MAX);
        let summary = Summary {
            answer: AnswerContext::from(&chat),
            completion: Completion::Finished(answer.1),
            prompt_tokens: count(chat.messages.len()),
            cached_tokens: 0,
            completion_tokens: count(answer.0.len()),
            queue: Duration::ZERO,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        };
        chain.completed(services, &summary).await;
    }
    Ok(())
}

/// An answer that needs no model, as the processors see it.
fn reply(text: String, finish: FinishReason, found: &mut Expect) -> (Vec<Delta>, FinishReason) {
    found.put("verdict", "answer");
    found.put("answer", text.as_str());
    found.put("finish", reason(finish));
    let reply = Delta {
        text,
        token_ids: vec![0],
        logprobs: Vec::new(),
    };
    (vec![reply], finish)
}

/// What each delta became, what came at the end, and all of it.
async fn respond(
    mut responder: Responder,
    deltas: Vec<Delta>,
    finish: FinishReason,
    found: &mut Expect,
) -> Result<(), ChainFailure> {
    let mut pieces = Vec::new();
    let mut ended = None;
    for delta in deltas {
        match responder.push(delta).await? {
            Output::Emit(text) => pieces.push(text),
            Output::Cut { reason, text } => {
                pieces.push(text);
                ended = Some(reason);
                break;
            }
        }
    }
    if ended.is_none() {
        match responder.finish(finish).await? {
            Output::Emit(text) => pieces.push(text),
            Output::Cut { reason, text } => {
                pieces.push(text);
                ended = Some(reason);
            }
        }
    }
    found.put("text", pieces.concat());
    found.put("finish", reason(ended.unwrap_or(finish)));
    found.put("stream", pieces);
    Ok(())
}
