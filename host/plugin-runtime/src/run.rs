//! One request on one chain: validate, render, and a responder for each of its answers.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use crate::bindings;
use crate::chain::{Bound, Chain};
use crate::error::ChainFailure;
use crate::guest::{Failure, Guest, message_bytes, sampling_bytes};
use crate::limits::FailurePolicy;
use crate::plugin::{PluginId, Stage};
use crate::responder::Responder;
use crate::services::Services;
use crate::state::RequestScope;
use crate::types::{AnswerContext, Chat, FinishReason, Prompt, Refusal, Verdict};

/// What the validators of a chain made of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Validated {
    /// Go on with this chat, amendments applied.
    Continue(Chat),
    /// The client gets this error.
    Refused {
        /// Who refused.
        plugin: PluginId,
        /// Why.
        refusal: Refusal,
    },
    /// The client gets this answer, through the response stage; the model is not asked.
    Answered {
        /// The chat as it stood.
        chat: Chat,
        /// The whole text.
        text: String,
        /// The reason that the client sees.
        finish: FinishReason,
        /// Who answered.
        plugin: PluginId,
    },
    /// Start again on another route, at most once per request.
    Rerouted {
        /// The chat as it stood.
        chat: Chat,
        /// The other route.
        route: String,
        /// Who sent it there.
        plugin: PluginId,
    },
}

/// What the renderer of a chain made of a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rendered {
    /// The prompt for the engine.
    Prompt(Prompt),
    /// The client gets this error.
    Refused {
        /// Who refused.
        plugin: PluginId,
        /// Why.
        refusal: Refusal,
    },
}

/// One request, pinned to the chain that it began with. Dropping it, at any await too, ends its
/// instances.
pub struct Run {
    chain: Arc<Chain>,
    scope: Arc<RequestScope>,
    /// The renderer's instance, where it has validated already.
    renderer: Option<Guest>,
    /// Room for this run's instances. Last, since it must be given back after them.
    room: Option<OwnedSemaphorePermit>,
}

impl Run {
    pub(crate) fn new(chain: Arc<Chain>, services: Services) -> Self {
        Self {
            chain,
            scope: RequestScope::new(services),
            renderer: None,
            room: None,
        }
    }

    /// The chain that the request is pinned to.
    pub fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// Lets every validator judge `chat`, in order; later ones see what earlier ones amended.
    ///
    /// # Errors
    /// A validator failed that fails closed.
    pub async fn validate(&mut self, mut chat: Chat) -> Result<Validated, ChainFailure> {
        let chain = Arc::clone(&self.chain);
        let renderer = chain.renderer().0;
        let mut validators = chain.stage(Stage::Validate).peekable();
        if validators.peek().is_none() {
            return Ok(Validated::Continue(chat));
        }
        let mut seen = bindings::chat(&chat);
        for (index, bound) in validators {
            let judged = self.judge(bound, &seen, &chat, index == renderer).await;
            let plugin = bound.binding.plugin.id();
            match judged {
                Ok(Verdict::Accept) => {}
                Ok(Verdict::Amend { messages, sampling }) => {
                    chat.messages = messages.unwrap_or(chat.messages);
                    chat.sampling = sampling.unwrap_or(chat.sampling);
                    seen = bindings::chat(&chat);
                }
                Ok(Verdict::Refuse(refusal)) => {
                    return Ok(Validated::Refused {
                        plugin: plugin.clone(),
                        refusal,
                    });
                }
                Ok(Verdict::Answer { text, finish }) => {
                    let plugin = plugin.clone();
                    return Ok(Validated::Answered {
                        chat,
                        text,
                        finish,
                        plugin,
                    });
                }
                Ok(Verdict::Reroute(route)) => {
                    return Ok(Validated::Rerouted {
                        chat,
                        route,
                        plugin: plugin.clone(),
                    });
                }
                Err(failure) => survive(bound, Stage::Validate, failure)?,
            }
        }
        Ok(Validated::Continue(chat))
    }

    /// Renders `chat`. The instances of this run end here; what it started stays.
    ///
    /// # Errors
    /// The renderer failed; there is nothing to go on with, whatever its failure policy.
    pub async fn render(&mut self, chat: &Chat) -> Result<Rendered, ChainFailure> {
        let chain = Arc::clone(&self.chain);
        let (_, bound) = chain.renderer();
        let rendered = self.try_render(bound, chat).await;
        self.renderer = None;
        self.room = None;
        match rendered {
            Ok(Ok(prompt)) => Ok(Rendered::Prompt(prompt)),
            Ok(Err(refusal)) => Ok(Rendered::Refused {
                plugin: bound.binding.plugin.id().clone(),
                refusal,
            }),
            Err(failure) => Err(failure.in_chain(bound, Stage::Render)),
        }
    }

    /// Makes the processors of one answer: fresh instances, which live as long as the responder.
    /// Several responders of one run work independently. The future does not borrow the run, whose
    /// instances may move between threads but not be shared by them.
    ///
    /// # Errors
    /// A processor that fails closed could not be made.
    pub fn responder(
        &self,
        context: AnswerContext,
    ) -> impl Future<Output = Result<Responder, ChainFailure>> + Send + use<> {
        let chain = Arc::clone(&self.chain);
        let scope = Arc::clone(&self.scope);
        async move { Responder::new(&chain, &scope, &context).await }
    }

    async fn judge(
        &mut self,
        bound: &Bound,
        seen: &bindings::types::Chat,
        chat: &Chat,
        keep: bool,
    ) -> Result<Verdict, Failure> {
        self.make_room(bound, Stage::Validate).await?;
        let artifact = bound.binding.plugin.artifact();
        let made = bound.guest(&self.scope, &chat.request_id, Stage::Validate);
        let mut guest = made.await?;
        let verdict = guest.validate(artifact, seen, chat_bytes(chat)).await?;
        match keep {
            true => self.renderer = Some(guest),
            false => bound.give_back(guest),
        }
        Ok(verdict)
    }

    async fn try_render(
        &mut self,
        bound: &Bound,
        chat: &Chat,
    ) -> Result<Result<Prompt, Refusal>, Failure> {
        let artifact = bound.binding.plugin.artifact();
        let mut guest = match self.renderer.take() {
            Some(guest) => guest,
            None => {
                self.make_room(bound, Stage::Render).await?;
                let made = bound.guest(&self.scope, &chat.request_id, Stage::Render);
                made.await?
            }
        };
        let rendered = guest
            .render(artifact, &bindings::chat(chat), chat_bytes(chat))
            .await?;
        bound.give_back(guest);
        Ok(rendered)
    }

    /// Takes the room that this run can need at once: one instance, and one more where the
    /// renderer, kept from its validation, waits for validators after it.
    async fn make_room(&mut self, bound: &Bound, stage: Stage) -> Result<(), Failure> {
        if self.room.is_some() {
            return Ok(());
        }
        let (_, renderer) = self.chain.renderer();
        let kept = renderer.binding.plugin.has(Stage::Validate);
        let count = if kept && self.chain.stage(Stage::Validate).count() > 1 {
            2
        } else {
            1
        };
        let shared = &bound.binding.plugin.artifact().shared;
        let reserved = shared.reserve(count).await;
        self.room = Some(reserved.inspect_err(|failure| self.scope.failed(bound, stage, failure))?);
        Ok(())
    }
}

/// Goes on without the plugin if its binding fails open.
pub(crate) fn survive(bound: &Bound, stage: Stage, failure: Failure) -> Result<(), ChainFailure> {
    match bound.binding.on_failure {
        FailurePolicy::Closed => Err(failure.in_chain(bound, stage)),
        FailurePolicy::Open => {
            let (plugin, route) = (bound.binding.plugin.label(), &*bound.profile.route);
            let (kind, message) = (failure.kind.as_str(), failure.message);
            warn!(plugin, route, %stage, kind, message, "plugin failed and is skipped: it fails open");
            Ok(())
        }
    }
}

/// The bytes of text that a guest is given with `chat`.
fn chat_bytes(chat: &Chat) -> usize {
    chat.messages.iter().map(message_bytes).sum::<usize>()
        + sampling_bytes(&chat.sampling)
        + chat.extra.len()
}
