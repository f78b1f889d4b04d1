//! What wit-bindgen makes of `wit/`, and the names under which the rest of the crate and
//! its users see the types.
//!
//! One world per stage, so that a plugin exports the stages it has and no other: the
//! linker unites the worlds of all stages that [`export!`](crate::export!) names. The
//! worlds share one set of types and imports, those generated for the validator.

#![allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    reason = "generated; every item of the contract is documented in wit/"
)]

/// World `validator`, and the types and imports of all worlds.
pub mod validator {
    wit_bindgen::generate!({
        path: "wit",
        world: "gapura:plugin/validator",
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_validator",
        default_bindings_module: "gapura_plugin_sdk::__private::validator",
        generate_unused_types: true,
    });
}

/// World `template`.
pub mod template {
    wit_bindgen::generate!({
        path: "wit",
        world: "gapura:plugin/template",
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_template",
        default_bindings_module: "gapura_plugin_sdk::__private::template",
        with: {
            "gapura:plugin/types@0.1.0": crate::bindings::validator::gapura::plugin::types,
            "gapura:plugin/log@0.1.0": crate::bindings::validator::gapura::plugin::log,
            "gapura:plugin/config@0.1.0": crate::bindings::validator::gapura::plugin::config,
            "gapura:plugin/tokenizer@0.1.0": crate::bindings::validator::gapura::plugin::tokenizer,
            "gapura:plugin/metrics@0.1.0": crate::bindings::validator::gapura::plugin::metrics,
            "gapura:plugin/kv@0.1.0": crate::bindings::validator::gapura::plugin::kv,
            "gapura:plugin/clock@0.1.0": crate::bindings::validator::gapura::plugin::clock,
            "gapura:plugin/random@0.1.0": crate::bindings::validator::gapura::plugin::random,
            "gapura:plugin/model@0.1.0": crate::bindings::validator::gapura::plugin::model,
            "gapura:plugin/http@0.1.0": crate::bindings::validator::gapura::plugin::http,
        },
    });
}

/// World `responder`.
pub mod responder {
    wit_bindgen::generate!({
        path: "wit",
        world: "gapura:plugin/responder",
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_responder",
        default_bindings_module: "gapura_plugin_sdk::__private::responder",
        with: {
            "gapura:plugin/types@0.1.0": crate::bindings::validator::gapura::plugin::types,
            "gapura:plugin/log@0.1.0": crate::bindings::validator::gapura::plugin::log,
            "gapura:plugin/config@0.1.0": crate::bindings::validator::gapura::plugin::config,
            "gapura:plugin/tokenizer@0.1.0": crate::bindings::validator::gapura::plugin::tokenizer,
            "gapura:plugin/metrics@0.1.0": crate::bindings::validator::gapura::plugin::metrics,
            "gapura:plugin/kv@0.1.0": crate::bindings::validator::gapura::plugin::kv,
            "gapura:plugin/clock@0.1.0": crate::bindings::validator::gapura::plugin::clock,
            "gapura:plugin/random@0.1.0": crate::bindings::validator::gapura::plugin::random,
            "gapura:plugin/model@0.1.0": crate::bindings::validator::gapura::plugin::model,
            "gapura:plugin/http@0.1.0": crate::bindings::validator::gapura::plugin::http,
        },
    });
}

/// World `observer`.
pub mod observer {
    wit_bindgen::generate!({
        path: "wit",
        world: "gapura:plugin/observer",
        additional_derives: [PartialEq],
        pub_export_macro: true,
        export_macro_name: "export_observer",
        default_bindings_module: "gapura_plugin_sdk::__private::observer",
        with: {
            "gapura:plugin/types@0.1.0": crate::bindings::validator::gapura::plugin::types,
            "gapura:plugin/log@0.1.0": crate::bindings::validator::gapura::plugin::log,
            "gapura:plugin/config@0.1.0": crate::bindings::validator::gapura::plugin::config,
            "gapura:plugin/tokenizer@0.1.0": crate::bindings::validator::gapura::plugin::tokenizer,
            "gapura:plugin/metrics@0.1.0": crate::bindings::validator::gapura::plugin::metrics,
            "gapura:plugin/kv@0.1.0": crate::bindings::validator::gapura::plugin::kv,
            "gapura:plugin/clock@0.1.0": crate::bindings::validator::gapura::plugin::clock,
            "gapura:plugin/random@0.1.0": crate::bindings::validator::gapura::plugin::random,
            "gapura:plugin/model@0.1.0": crate::bindings::validator::gapura::plugin::model,
            "gapura:plugin/http@0.1.0": crate::bindings::validator::gapura::plugin::http,
        },
    });
}

pub use observer::exports::gapura::plugin::completion_observer::{
    Guest as ObserverGuest, Outcome, Summary,
};
pub use responder::exports::gapura::plugin::response_processing::{
    Action, Context, Cut, Delta, Guest as ResponderGuest, GuestProcessor,
};
pub use template::exports::gapura::plugin::prompt_template::{
    Guest as TemplateGuest, Prompt, Segment,
};
pub use validator::exports::gapura::plugin::request_validation::{
    Amendment, Guest as ValidatorGuest, Reply, Verdict,
};
pub use validator::gapura::plugin::http::{Header, HttpError, Method, Request, Response};
pub use validator::gapura::plugin::kv::KvError;
pub use validator::gapura::plugin::model::{ModelAnswer, ModelError, Question};
pub use validator::gapura::plugin::types::{
    Chat, Failure, FinishReason, Grammar, Message, Refusal, Role, Sampling, ToolCall,
};
#[cfg(target_arch = "wasm32")]
pub use validator::gapura::plugin::{
    clock, config, http, kv, log, metrics, model, random, tokenizer,
};
