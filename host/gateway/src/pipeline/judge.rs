//! The validators' verdict on a request, and the one hop to another route that it may make.

use std::sync::Arc;

use gapura_plugin_runtime::{AnswerContext, Chat, FinishReason, Run, Validated};

use crate::error::ApiError;
use crate::pipeline::services::{Lender, Watch};
use crate::routing::Route;
use crate::telemetry::RequestRecord;

/// Most times that a request changes its route.
const MAX_REROUTES: usize = 1;

/// A request that was let through, on the route that will answer it.
pub(super) struct Judged {
    pub(super) route: Arc<Route>,
    pub(super) run: Run,
    /// As the validators left it.
    pub(super) chat: Chat,
    /// For the processors; `choice` is 0.
    pub(super) context: AnswerContext,
    /// A validator's own answer: the model is not asked.
    pub(super) reply: Option<Reply>,
    /// Who hears of what comes next.
    pub(super) watch: Watch,
}

/// An answer that needs no model.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) text: String,
    pub(super) finish: FinishReason,
}

/// Runs the validators of `route`, and of the one that they may send the request to. That one
/// gets the request as they left it: what one route redacted stays redacted on the next.
///
/// # Errors
/// A refusal, a failure, or a second change of route.
pub(super) async fn judge(
    lender: &Lender<'_>,
    mut route: Arc<Route>,
    sticky_key: &str,
    mut chat: Chat,
    is_rendered: bool,
    record: &mut RequestRecord,
) -> Result<Judged, ApiError> {
    for _ in 0..=MAX_REROUTES {
        chat.route.clone_from(&route.name);
        let context = AnswerContext::from(&chat);
        let watch = lender.watch(&route, &chat, is_rendered, record);
        let services = lender.services(&route, &chat, &watch);
        let mut run = route.chain.start(services);
        let validated = run.validate(chat).await;
        if let Some(recorder) = &watch.recorder {
            recorder.validated(&validated);
        }
        match validated? {
            Validated::Continue(chat) => {
                return Ok(Judged {
                    route,
                    run,
                    chat,
                    context,
                    reply: None,
                    watch,
                });
            }
            Validated::Refused { plugin: _, refusal } => return Err(refusal.into()),
            Validated::Answered {
                chat,
                text,
                finish,
                plugin: _,
            } => {
                let reply = Some(Reply { text, finish });
                return Ok(Judged {
                    route,
                    run,
                    chat,
                    context,
                    reply,
                    watch,
                });
            }
            Validated::Rerouted {
                chat: left,
                route: name,
                plugin,
            } => {
                let Some(next) = lender.state.routes.load().by_name(&name).cloned() else {
                    let problem = format!("named the route `{name}`, which does not exist");
                    return Err(ApiError::plugin(
                        &plugin.label(),
                        &problem,
                        "plugin_reroute",
                    ));
                };
                (route, chat) = (Arc::clone(next.version_for(sticky_key)), left);
            }
        }
    }
    let problem = "sent a request on that had been sent on before";
    Err(ApiError::plugin(
        route.chain.label(),
        problem,
        "plugin_reroute",
    ))
}
