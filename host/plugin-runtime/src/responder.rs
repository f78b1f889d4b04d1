//! The processors of one answer, in order: what one emits is what the next one sees.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::chain::{Bound, Chain};
use crate::error::{ChainFailure, FailureKind};
use crate::guest::{Failure, Processor};
use crate::held::Held;
use crate::plugin::Stage;
use crate::run::survive;
use crate::state::RequestScope;
use crate::types::{AnswerContext, Delta, FinishReason, Output};

/// Runs the processors of one answer. Owns its instances; one per choice, each may live on a task
/// of its own.
pub struct Responder {
    links: Vec<Link>,
    end: Option<End>,
    /// Room for the instances. Last, since it must be given back after them.
    _room: Option<OwnedSemaphorePermit>,
}

/// One processor of the answer.
struct Link {
    bound: Arc<Bound>,
    /// `None` once it failed and is skipped.
    processor: Option<Processor>,
    held: Held,
    /// The most bytes held so far.
    most_held: usize,
    scope: Arc<RequestScope>,
}

/// How the answer ended before or with `finish`.
#[derive(Clone)]
enum End {
    Finished,
    Cut(FinishReason),
    Failed(ChainFailure),
}

/// What goes from one processor to the next.
struct Flow {
    delta: Option<Delta>,
    /// Set when the answer ends with this step.
    end: Option<FinishReason>,
    /// Whether a processor ended it, or changed its end.
    cut: bool,
}

impl Responder {
    pub(crate) async fn new(
        chain: &Chain,
        scope: &Arc<RequestScope>,
        context: &AnswerContext,
    ) -> Result<Self, ChainFailure> {
        let bound: Vec<_> = chain
            .stage(Stage::Respond)
            .map(|(_, bound)| bound)
            .collect();
        let Some(first) = bound.first() else {
            return Ok(Self {
                links: Vec::new(),
                end: None,
                _room: None,
            });
        };
        let count = u32::try_from(bound.len()).unwrap_or(u32::MAX);
        let reserved = first.binding.plugin.artifact().shared.reserve(count).await;
        let room = match reserved {
            Ok(room) => Some(room),
            Err(failure) => {
                // Open bindings are skipped; one closed one fails the answer.
                for bound in bound {
                    scope.failed(bound, Stage::Respond, &failure);
                    survive(bound, Stage::Respond, failure.clone())?;
                }
                return Ok(Self {
                    links: Vec::new(),
                    end: None,
                    _room: None,
                });
            }
        };
        let mut links = Vec::with_capacity(bound.len());
        for bound in bound {
            match processor(bound, scope, context).await {
                Ok(processor) => links.push(Link {
                    bound: Arc::clone(bound),
                    processor: Some(processor),
                    held: Held::default(),
                    most_held: 0,
                    scope: Arc::clone(scope),
                }),
                Err(failure) => survive(bound, Stage::Respond, failure)?,
            }
        }
        Ok(Self {
            links,
            end: None,
            _room: room,
        })
    }

    /// Whether no processor looks at the answer: every delta is emitted as it is.
    pub fn is_passthrough(&self) -> bool {
        self.links
            .iter()
            .all(|link| link.processor.is_none() && link.held.len() == 0)
    }

    /// Passes the next delta through the processors. A delta without text reaches none of them.
    /// After a cut, and after `finish`, nothing more is emitted.
    ///
    /// # Errors
    /// A processor failed that fails closed; the answer is over.
    pub async fn push(&mut self, delta: Delta) -> Result<Output, ChainFailure> {
        self.step(Flow {
            delta: Some(delta),
            end: None,
            cut: false,
        })
        .await
    }

    /// Ends the answer: what processors still hold comes out. A [`Output::Cut`] means that a
    /// plugin changed the reason.
    ///
    /// # Errors
    /// A processor failed that fails closed; what it held is withheld.
    pub async fn finish(&mut self, reason: FinishReason) -> Result<Output, ChainFailure> {
        self.step(Flow {
            delta: None,
            end: Some(reason),
            cut: false,
        })
        .await
    }

    async fn step(&mut self, mut flow: Flow) -> Result<Output, ChainFailure> {
        match &self.end {
            None => {}
            Some(End::Finished) => return Ok(Output::Emit(String::new())),
            Some(End::Cut(reason)) => {
                return Ok(Output::Cut {
                    reason: *reason,
                    text: String::new(),
                });
            }
            Some(End::Failed(failure)) => return Err(failure.clone()),
        }
        for link in &mut self.links {
            if let Err(failure) = link.step(&mut flow).await {
                self.end = Some(End::Failed(failure.clone()));
                return Err(failure);
            }
        }
        let text = flow.delta.map(|delta| delta.text).unwrap_or_default();
        if flow.end.is_some() {
            self.release().await;
        }
        match flow.end {
            None => Ok(Output::Emit(text)),
            Some(reason) if flow.cut => {
                self.end = Some(End::Cut(reason));
                Ok(Output::Cut { reason, text })
            }
            Some(_) => {
                self.end = Some(End::Finished);
                Ok(Output::Emit(text))
            }
        }
    }
}

impl Responder {
    /// The answer is over: instances that may serve on are given back.
    async fn release(&mut self) {
        for link in &mut self.links {
            if link.bound.binding.reuse > 0
                && let Some(processor) = link.processor.take()
                && let Some(guest) = processor.release().await
            {
                link.bound.give_back(guest);
            }
        }
    }
}

impl Link {
    /// Turns what comes from before this processor into what goes behind it.
    async fn step(&mut self, flow: &mut Flow) -> Result<(), ChainFailure> {
        let mut out: Option<Delta> = None;
        if let Some(delta) = flow.delta.take().filter(|delta| !delta.text.is_empty()) {
            let pushed = self.push(delta).await?;
            match pushed {
                Pushed::On(delta) => out = delta,
                Pushed::Cut { reason, text } => {
                    // It has said its last word, so it is not asked to finish.
                    flow.delta = plain(text);
                    (flow.end, flow.cut) = (Some(reason), true);
                    return Ok(());
                }
            }
        }
        if let Some(reason) = flow.end {
            let (text, changed) = self.finish(reason).await?;
            out = join(out, text);
            if let Some(reason) = changed {
                (flow.end, flow.cut) = (Some(reason), true);
            }
        }
        flow.delta = out;
        Ok(())
    }

    async fn push(&mut self, delta: Delta) -> Result<Pushed, ChainFailure> {
        let Some(processor) = &mut self.processor else {
            return Ok(Pushed::On(Some(delta)));
        };
        let result = processor.push(delta.clone(), self.held.len()).await;
        match result {
            Ok(Some(Output::Cut { reason, text })) => {
                // Anything it held goes with it: that is what a cut is for.
                self.held.take();
                Ok(Pushed::Cut { reason, text })
            }
            Ok(Some(Output::Emit(text))) => {
                let unchanged = self.held.emit(&delta.text, &text);
                let out = if unchanged { Some(delta) } else { plain(text) };
                let flushed = self.bound_held()?;
                Ok(Pushed::On(join(out, flushed)))
            }
            Ok(None) => {
                self.held.hold(&delta.text);
                let flushed = self.bound_held()?;
                Ok(Pushed::On(plain(flushed)))
            }
            Err(failure) => {
                self.held.hold(&delta.text);
                Ok(Pushed::On(plain(self.skip(failure)?)))
            }
        }
    }

    /// The processor's last text, and the reason if it changed it.
    async fn finish(
        &mut self,
        reason: FinishReason,
    ) -> Result<(String, Option<FinishReason>), ChainFailure> {
        let Some(processor) = &mut self.processor else {
            return Ok((String::new(), None));
        };
        let result = processor.finish(reason, self.held.len()).await;
        match result {
            Ok(Some(Output::Emit(text))) => Ok((text, None)),
            Ok(Some(Output::Cut { reason, text })) => Ok((text, Some(reason))),
            Ok(None) => Ok((String::new(), None)),
            Err(failure) => Ok((self.skip(failure)?, None)),
        }
    }

    /// Ends the processor if it holds more than it may; answers what is to be flushed.
    fn bound_held(&mut self) -> Result<String, ChainFailure> {
        let limit = self.bound.binding.limits.held_bytes;
        let held = self.held.len();
        if held > self.most_held {
            self.most_held = held;
            let observer = &self.scope.services.observer;
            observer.held(self.bound.binding.plugin.id(), held as u64);
        }
        if held as u64 <= limit {
            return Ok(String::new());
        }
        let message = format!("holds back {held} bytes of the answer, {limit} are allowed");
        let failure = Failure::new(FailureKind::HeldTooMuch, message);
        self.scope.failed(&self.bound, Stage::Respond, &failure);
        self.skip(failure)
    }

    /// The processor failed. If it fails open, text passes it by from now on, and what it held is
    /// answered so that nothing of it is lost.
    fn skip(&mut self, failure: Failure) -> Result<String, ChainFailure> {
        self.processor = None;
        survive(&self.bound, Stage::Respond, failure)?;
        Ok(self.held.take())
    }
}

/// What a processor made of a delta.
enum Pushed {
    On(Option<Delta>),
    Cut { reason: FinishReason, text: String },
}

async fn processor(
    bound: &Bound,
    scope: &Arc<RequestScope>,
    context: &AnswerContext,
) -> Result<Processor, Failure> {
    let artifact = bound.binding.plugin.artifact();
    let guest = bound.guest(scope, &context.request_id, Stage::Respond);
    guest.await?.processor(artifact, context).await
}

/// Text whose tokens are not known any more; `None` where there is none.
fn plain(text: String) -> Option<Delta> {
    (!text.is_empty()).then(|| Delta {
        text,
        ..Delta::default()
    })
}

fn join(delta: Option<Delta>, text: String) -> Option<Delta> {
    match delta {
        Some(delta) if text.is_empty() => Some(delta),
        Some(delta) => plain(delta.text + &text),
        None => plain(text),
    }
}
