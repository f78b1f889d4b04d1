//! Loads, limits, runs and swaps plugins: components of the world in `wit/`. It speaks
//! no HTTP and knows no tensors: what guests ask of others goes through the traits of [`Services`].
//!
//! Three lifetimes, three types: [`PluginRuntime`] per process, [`Plugin`] per artefact (shared by
//! every route that binds it), [`Run`] and [`Responder`] per request. A [`Chain`] is the immutable
//! list of bindings of a route; a request takes it once and keeps it, so that swapping a plugin is
//! swapping one pointer.

#![warn(missing_docs)]

mod bindings;
mod bound;
mod breaker;
mod budget;
mod cache;
mod chain;
mod clock;
mod error;
mod fallback;
mod guest;
mod held;
mod http;
mod idle;
mod inspect;
mod kv;
mod limits;
mod loader;
mod model;
mod plugin;
mod random;
mod responder;
mod rooms;
mod run;
mod runtime;
mod services;
mod slow;
mod state;
mod ticker;
mod types;
mod watcher;

pub use breaker::{BreakerConfig, BreakerState};
pub use chain::{Binding, Chain};
pub use clock::{Clock, SystemClock};
pub use error::{ChainError, ChainFailure, FailureKind, LoadError, RuntimeError};
pub use http::{
    HTTP_HEADER_BYTES, HTTP_HEADERS, HTTP_REQUEST_BYTES, Http, HttpCaller, HttpError, HttpMethod,
    HttpRequest, HttpResponse, NoHttp, Sending,
};
pub use inspect::{add_custom_section, custom_sections};
pub use kv::{KV_ENTRY_BYTES, Kv};
pub use limits::{FailurePolicy, Grants, Limits};
pub use model::{Answering, Asker, Model, ModelAnswer, ModelError, NoModel, Question};
pub use plugin::{Import, Plugin, PluginId, Stage};
pub use random::{Random, SystemRandom};
pub use responder::Responder;
pub use run::{Rendered, Run, Validated};
pub use runtime::{PluginRuntime, RuntimeConfig};
pub use services::{CallObserver, GuestCall, Outcome, PluginValues, Services, TokenCounter, Told};
pub use types::*;
pub use watcher::{PluginWatcher, WatchError};
