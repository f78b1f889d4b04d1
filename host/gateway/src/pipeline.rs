//! One request's way from a parsed body to pieces of its answer: the only place where engine
//! and plugins meet. Whole answers, streams, chats and completions all come through here.
//!
//! Dropping an [`Answer`] at any moment drops its token streams, and with them the sequences
//! in the engine and the plugins' instances: a client that leaves costs nothing from then on.

mod call;
mod choice;
mod fetch;
mod grammar;
mod judge;
mod observation;
mod pieces;
mod plan;
mod prefill;
mod prompt;
mod question;
mod scores;
mod services;
mod shadow;
mod trace;

use std::sync::Arc;

use gapura_engine::TokenId;
use gapura_plugin_runtime::Chat;

pub use call::{Call, Deadline, PromptSource};
pub use choice::{Choice, End, Piece, TextPiece};
pub use observation::Observations;
pub use pieces::Pieces;
pub use prefill::Prefill;
pub(crate) use prompt::text_tokens;
pub(crate) use shadow::Shadow;
pub use shadow::Shadows;
pub(crate) use trace::{Step, Trace};

use crate::error::ApiError;
use crate::pipeline::judge::Judged;
use crate::pipeline::prompt::Prompted;
use crate::pipeline::services::{Lender, Watch};
use crate::routing::Route;
use crate::state::{AppState, LoadedModel};
use crate::telemetry::RequestRecord;

/// A request that was let through: its answers are on their way.
pub struct Answer {
    /// The route that answers, pinned at this version of its chain.
    pub route: Arc<Route>,
    /// What the model reads; empty where a plugin answered in its place.
    pub prompt: Arc<[TokenId]>,
    /// One per asked answer.
    pub choices: Vec<Choice>,
}

/// Carries `call` to the point where its answers are being generated.
///
/// # Errors
/// Whatever ends a request before its first token: a refusal or failure of a plugin, a prompt
/// that does not fit, a full queue.
pub async fn run(
    state: &AppState,
    model: &Arc<LoadedModel>,
    call: Call,
    record: &mut RequestRecord,
) -> Result<Answer, ApiError> {
    plan::check_limits(&call.chat.sampling, call.options.n, &call.route.limits)?;
    prompt::check_length(model, &call.chat, call.prompt.param())?;
    let Call {
        route,
        sticky_key,
        chat,
        prompt,
        options,
        deadline,
        trace,
    } = call;
    let lender = Lender {
        state,
        model,
        salt: options.cache_salt.clone(),
        deadline,
        trace,
    };
    let judged = judge::judge(
        &lender,
        route,
        &sticky_key,
        chat,
        prompt.is_rendered(),
        record,
    );
    let judged = deadline.hold(judged).await?;
    let Judged {
        route,
        mut run,
        chat,
        context,
        reply,
        watch,
    } = judged;
    record.routed(&route.name, route.chain.label());
    let prompted = match reply {
        Some(reply) => Prompted::Reply(reply),
        None => {
            let prompted = prompt::tokens(model, &mut run, &chat, prompt, &watch, record);
            deadline.hold(prompted).await?
        }
    };
    let mut tokens = match prompted {
        Prompted::Tokens(tokens) => tokens,
        Prompted::Reply(reply) => {
            let replies =
                choice::replies(model, &run, &context, options.n, &reply, deadline, &watch);
            return Ok(Answer {
                choices: replies?,
                prompt: Arc::new([]),
                route,
            });
        }
    };
    let grammar = grammar::compiled(model, options.grammar.as_ref(), tokens.grammar.take());
    let grammar = deadline.hold(grammar).await?;
    let plan = plan::plan(model, &route, &chat, &options, tokens, grammar, deadline)?;
    let reporter = lender.reporter(&route, &watch);
    let choices = choice::submit(model, &run, &context, &plan, deadline, reporter, &watch);
    Ok(Answer {
        choices: choices?,
        prompt: plan.prompt,
        route,
    })
}

/// The tokens of `chat` as `route`'s template renders it, without validation: for counting. `salt`
/// keeps apart what the template may ask the model.
///
/// # Errors
/// A refusal or failure of the template.
pub(crate) async fn rendered_tokens(
    state: &AppState,
    model: &Arc<LoadedModel>,
    route: &Route,
    chat: &Chat,
    salt: Option<Arc<str>>,
    record: &mut RequestRecord,
) -> Result<Vec<TokenId>, ApiError> {
    let deadline = Deadline::after(state.server.request_timeout);
    let lender = Lender {
        state,
        model,
        salt,
        deadline,
        trace: None,
    };
    let watch = Watch::counting(lender.tally(route, record));
    let services = lender.services(route, chat, &watch);
    let mut run = route.chain.start(services);
    let tokens = prompt::tokens(
        model,
        &mut run,
        chat,
        PromptSource::Template,
        &watch,
        record,
    );
    Ok(deadline.hold(tokens).await?.into_tokens(&route.chain)?.ids)
}
