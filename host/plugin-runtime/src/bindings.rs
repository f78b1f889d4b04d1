//! The generated bindings of `wit/` and nothing else that wasmtime generates. They stay inside
//! this crate: [`convert`] turns them into the plain types of [`crate::types`].

mod convert;

use wasmtime::component::InstancePre;

use crate::plugin::Stage;
use crate::state::GuestState;

pub(crate) use convert::{InvalidOutput, chat, context, delta, finish_reason};
pub(crate) use convert::{
    action, http_error, http_request, http_response, model_answer, model_error, prompt, question,
    refusal, summary, verdict,
};
pub(crate) use exports::gapura::plugin::{
    completion_observer, prompt_template, request_validation, response_processing,
};
pub(crate) use gapura::plugin::{
    clock, config, http, kv, log, metrics, model, random, tokenizer, types,
};

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "plugin",
    imports: {
        "gapura:plugin/model.ask": async | trappable,
        "gapura:plugin/http.send": async | trappable,
        default: trappable,
    },
    exports: { default: async },
});

/// The contract's version, as [`LoadError`](crate::LoadError) names it.
pub(crate) const SERVED: &str = "gapura:plugin@0.1.0";

/// Where an artefact's exports are, for each stage that it has. Looked up once per artefact.
pub(crate) struct Indices {
    pub(crate) validate: Option<request_validation::GuestIndices>,
    pub(crate) render: Option<prompt_template::GuestIndices>,
    pub(crate) respond: Option<response_processing::GuestIndices>,
    pub(crate) observe: Option<completion_observer::GuestIndices>,
}

impl Indices {
    /// Looks up every function of `stages`.
    ///
    /// # Errors
    /// Names the function that a stage's interface lacks.
    pub(crate) fn new(pre: &InstancePre<GuestState>, stages: &[Stage]) -> wasmtime::Result<Self> {
        let has = |stage| stages.contains(&stage);
        Ok(Self {
            validate: has(Stage::Validate)
                .then(|| request_validation::GuestIndices::new(pre))
                .transpose()?,
            render: has(Stage::Render)
                .then(|| prompt_template::GuestIndices::new(pre))
                .transpose()?,
            respond: has(Stage::Respond)
                .then(|| response_processing::GuestIndices::new(pre))
                .transpose()?,
            observe: has(Stage::Observe)
                .then(|| completion_observer::GuestIndices::new(pre))
                .transpose()?,
        })
    }

    /// The stages, in the order of the pipeline.
    pub(crate) fn stages(&self) -> Vec<Stage> {
        [
            (Stage::Validate, self.validate.is_some()),
            (Stage::Render, self.render.is_some()),
            (Stage::Respond, self.respond.is_some()),
            (Stage::Observe, self.observe.is_some()),
        ]
        .into_iter()
        .filter_map(|(stage, present)| present.then_some(stage))
        .collect()
    }
}
