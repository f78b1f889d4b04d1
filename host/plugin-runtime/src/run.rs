//! One request on one chain: validate, render, and a responder for each of its answers.

use std::sync::Arc;

use crate::bindings;
use crate::bound::Bound;
use crate::chain::Chain;
use crate::error::ChainFailure;
use crate::fallback::Fallback;
use crate::guest::{Failure, Guest, message_bytes, sampling_bytes};
use crate::plugin::{Plugin, PluginId, Stage};
use crate::responder::Responder;
use crate::rooms::{Claim, Room};
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
        /// Who answered, or whose static answer it is.
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
    /// It failed, and the client gets the static answer of its binding, through the response
    /// stage; the model is not asked.
    Answered {
        /// The whole text.
        text: String,
        /// The reason that the client sees.
        finish: FinishReason,
        /// Whose static answer it is.
        plugin: PluginId,
    },
}

/// One request, pinned to the chain that it began with. Dropping it, at any await too, ends its
/// instances.
pub struct Run {
    chain: Arc<Chain>,
    scope: Arc<RequestScope>,
    /// The renderer's instance, where it has validated already.
    renderer: Option<Guest>,
    /// Room for this run's instances, which hold on to it themselves.
    room: Option<Arc<Room>>,
    /// A guest of another run waits for this one.
    is_nested: bool,
}

impl Run {
    pub(crate) fn new(chain: Arc<Chain>, services: Services, is_nested: bool) -> Self {
        Self {
            chain,
            scope: RequestScope::new(services),
            renderer: None,
            room: None,
            is_nested,
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
        let mut seen = Arc::new(bindings::chat(&chat));
        for (index, bound) in validators {
            let (verdict, plugin) = self.judge(bound, &seen, &chat, index == renderer).await?;
            self.scope.services.observer.judged(plugin.id(), &verdict);
            match verdict {
                Verdict::Accept => {}
                Verdict::Amend { messages, sampling } => {
                    chat.messages = messages.unwrap_or(chat.messages);
                    chat.sampling = sampling.unwrap_or(chat.sampling);
                    seen = Arc::new(bindings::chat(&chat));
                }
                Verdict::Refuse(refusal) => {
                    return Ok(Validated::Refused {
                        plugin: plugin.id().clone(),
                        refusal,
                    });
                }
                Verdict::Answer { text, finish } => {
                    return Ok(Validated::Answered {
                        chat,
                        text,
                        finish,
                        plugin: plugin.id().clone(),
                    });
                }
                Verdict::Reroute(route) => {
                    return Ok(Validated::Rerouted {
                        chat,
                        route,
                        plugin: plugin.id().clone(),
                    });
                }
            }
        }
        Ok(Validated::Continue(chat))
    }

    /// Renders `chat`. The instances of this run end here; what it started stays.
    ///
    /// # Errors
    /// The renderer failed. There is nothing to go on with, so it is never skipped.
    pub async fn render(&mut self, chat: &Chat) -> Result<Rendered, ChainFailure> {
        let chain = Arc::clone(&self.chain);
        let (_, bound) = chain.renderer();
        let rendered = self.render_or_fall_back(bound, chat).await;
        self.renderer = None;
        self.room = None;
        rendered
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
        let responder = self.responder_when_needed(context);
        async move {
            let mut responder = responder?;
            responder.begin().await?;
            Ok(responder)
        }
    }

    /// The same, whose processors are made when the first delta or the end comes to them. An answer
    /// that has yet to begin, behind others in the engine's queue, takes no instance from one that
    /// is under way.
    ///
    /// # Errors
    /// A processor that fails closed is left alone by its circuit breaker.
    pub fn responder_when_needed(&self, context: AnswerContext) -> Result<Responder, ChainFailure> {
        Responder::new(&self.chain, &self.scope, context)
    }

    /// The verdict of `bound`, or what its policy makes of its failure; and whose verdict it is.
    async fn judge(
        &mut self,
        bound: &Arc<Bound>,
        seen: &Arc<bindings::types::Chat>,
        chat: &Chat,
        keep: bool,
    ) -> Result<(Verdict, Plugin), ChainFailure> {
        const STAGE: Stage = Stage::Validate;
        let plugin = bound.binding.plugin.clone();
        let failure = match self.try_validate(bound, seen, chat, keep).await {
            Ok(verdict) => return Ok((verdict, plugin)),
            Err(failure) => failure,
        };
        match bound.fall_back(&self.scope, STAGE, failure, true)? {
            Fallback::Skip => Ok((Verdict::Accept, plugin)),
            Fallback::Answer(text) => {
                let finish = FinishReason::Stop;
                Ok((Verdict::Answer { text, finish }, plugin))
            }
            // Not kept for rendering, which its successor tries first.
            Fallback::Previous(bound) => match self.try_validate(&bound, seen, chat, false).await {
                Ok(verdict) => Ok((verdict, bound.binding.plugin.clone())),
                Err(failure) => Err(failure.in_chain(&bound, STAGE)),
            },
        }
    }

    async fn render_or_fall_back(
        &mut self,
        bound: &Arc<Bound>,
        chat: &Chat,
    ) -> Result<Rendered, ChainFailure> {
        const STAGE: Stage = Stage::Render;
        let kept = self.renderer.take();
        let failure = match self.try_render(bound, kept, chat).await {
            Ok(rendered) => return Ok(told(bound, rendered)),
            Err(failure) => failure,
        };
        match bound.fall_back(&self.scope, STAGE, failure, true)? {
            Fallback::Skip => unreachable!("`fall_back` skips no renderer"),
            Fallback::Answer(text) => Ok(Rendered::Answered {
                text,
                finish: FinishReason::Stop,
                plugin: bound.binding.plugin.id().clone(),
            }),
            Fallback::Previous(bound) => match self.try_render(&bound, None, chat).await {
                Ok(rendered) => Ok(told(&bound, rendered)),
                Err(failure) => Err(failure.in_chain(&bound, STAGE)),
            },
        }
    }

    async fn try_validate(
        &mut self,
        bound: &Arc<Bound>,
        seen: &Arc<bindings::types::Chat>,
        chat: &Chat,
        keep: bool,
    ) -> Result<Verdict, Failure> {
        const STAGE: Stage = Stage::Validate;
        let room = self.make_room(bound, STAGE).await?;
        let permit = bound.admit(&self.scope, STAGE)?;
        let judged = {
            let (bound, scope) = (Arc::clone(bound), Arc::clone(&self.scope));
            let (seen, input_bytes) = (Arc::clone(seen), chat_bytes(chat));
            async move {
                let mut guest = bound.guest(&scope, &seen.request_id, STAGE, room).await?;
                let artifact = bound.binding.plugin.artifact();
                let verdict = guest.validate(artifact, &seen, input_bytes).await?;
                Ok((guest, verdict))
            }
        };
        let judged = bound.run(judged).await;
        permit.conclude(&self.scope, judged.as_ref().err());
        let (guest, verdict) = judged?;
        match keep {
            true => self.renderer = Some(guest),
            false => bound.give_back(&self.scope, guest),
        }
        Ok(verdict)
    }

    /// `kept` is the instance that has validated, if it is still there.
    async fn try_render(
        &mut self,
        bound: &Arc<Bound>,
        kept: Option<Guest>,
        chat: &Chat,
    ) -> Result<Result<Prompt, Refusal>, Failure> {
        const STAGE: Stage = Stage::Render;
        let room = self.make_room(bound, STAGE).await?;
        let permit = bound.admit(&self.scope, STAGE)?;
        let rendered = {
            let (bound, scope) = (Arc::clone(bound), Arc::clone(&self.scope));
            let (seen, input_bytes) = (bindings::chat(chat), chat_bytes(chat));
            async move {
                let mut guest = match kept {
                    Some(guest) => guest,
                    None => bound.guest(&scope, &seen.request_id, STAGE, room).await?,
                };
                let artifact = bound.binding.plugin.artifact();
                let rendered = guest.render(artifact, &seen, input_bytes).await?;
                bound.give_back(&scope, guest);
                Ok(rendered)
            }
        };
        let rendered = bound.run(rendered).await;
        permit.conclude(&self.scope, rendered.as_ref().err());
        rendered
    }

    /// Takes the room that this run can need at once: one instance, and one more where the
    /// renderer, kept from its validation, waits for validators after it.
    async fn make_room(&mut self, bound: &Bound, stage: Stage) -> Result<Arc<Room>, Failure> {
        if let Some(room) = &self.room {
            return Ok(Arc::clone(room));
        }
        bound.check_breaker(&self.scope, stage)?;
        let (_, renderer) = self.chain.renderer();
        let kept = renderer.binding.plugin.has(Stage::Validate);
        let count = if kept && self.chain.stage(Stage::Validate).count() > 1 {
            2
        } else {
            1
        };
        let reserved = bound.binding.plugin.artifact().shared.reserve(Claim {
            route: &bound.profile.route,
            count,
            is_nested: self.is_nested,
        });
        let reserved = reserved.await;
        let room = reserved.inspect_err(|failure| self.scope.failed(bound, stage, failure))?;
        self.room = Some(Arc::clone(&room));
        Ok(room)
    }
}

fn told(bound: &Bound, rendered: Result<Prompt, Refusal>) -> Rendered {
    match rendered {
        Ok(prompt) => Rendered::Prompt(prompt),
        Err(refusal) => Rendered::Refused {
            plugin: bound.binding.plugin.id().clone(),
            refusal,
        },
    }
}

/// The bytes of text that a guest is given with `chat`.
fn chat_bytes(chat: &Chat) -> usize {
    chat.messages.iter().map(message_bytes).sum::<usize>()
        + sampling_bytes(&chat.sampling)
        + chat.extra.len()
}
