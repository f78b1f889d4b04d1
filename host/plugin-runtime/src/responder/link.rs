//! One processor of an answer, and what becomes of the answer when it fails.

use std::sync::Arc;

use crate::bound::Bound;
use crate::breaker::Permit;
use crate::error::{ChainFailure, FailureKind};
use crate::fallback::Fallback;
use crate::guest::{Failure, Processor};
use crate::held::Held;
use crate::plugin::Stage;
use crate::rooms::Room;
use crate::state::RequestScope;
use crate::types::{AnswerContext, Delta, FinishReason, Output};

const STAGE: Stage = Stage::Respond;

/// What goes from one processor to the next.
pub(super) struct Flow {
    pub(super) delta: Option<Delta>,
    /// Set when the answer ends with this step.
    pub(super) end: Option<FinishReason>,
    /// Whether a processor ended it, or changed its end.
    pub(super) cut: bool,
}

/// One place in the row of processors.
pub(super) struct Link {
    bound: Arc<Bound>,
    scope: Arc<RequestScope>,
    /// `None` once it failed: text passes, unless there are last words.
    active: Option<Active>,
    held: Held,
    /// The most bytes held so far.
    most_held: usize,
    /// The static answer in place of a processor that could not be made.
    last_words: Option<String>,
    /// What another version would be made for, and where; kept until the processor has answered
    /// once, for from then on it knows what no other does.
    repeatable: Option<(Arc<AnswerContext>, Arc<Room>)>,
}

struct Active {
    processor: Processor,
    permit: Permit,
}

/// What a processor made of a delta, or of the end.
enum Step {
    On(Option<Delta>),
    Cut { reason: FinishReason, text: String },
}

/// How the answer goes on after a failure.
enum Rescue {
    /// Another version has the call to answer.
    Again,
    /// Text passes from now on; this was held.
    Passing(String),
    /// The answer ends with this.
    Ending(String),
}

impl Link {
    /// Makes the processor of `bound`, or what its policy wants instead.
    pub(super) async fn new(
        bound: &Arc<Bound>,
        scope: &Arc<RequestScope>,
        context: &Arc<AnswerContext>,
        room: &Arc<Room>,
    ) -> Result<Self, ChainFailure> {
        let mut link = Self::empty(bound, scope);
        if let Err(failure) = link.make(context, room).await {
            match bound.fall_back(scope, STAGE, failure, true)? {
                Fallback::Skip => {}
                Fallback::Answer(text) => link.last_words = Some(text),
                Fallback::Previous(previous) => link.make_previous(previous, context, room).await?,
            }
        }
        Ok(link)
    }

    /// There is no room for an instance.
    pub(super) fn without_room(
        bound: &Arc<Bound>,
        scope: &Arc<RequestScope>,
        failure: Failure,
    ) -> Result<Self, ChainFailure> {
        scope.failed(bound, STAGE, &failure);
        let mut link = Self::empty(bound, scope);
        match bound.fall_back(scope, STAGE, failure.clone(), false)? {
            Fallback::Skip => Ok(link),
            Fallback::Answer(text) => {
                link.last_words = Some(text);
                Ok(link)
            }
            Fallback::Previous(previous) => Err(failure.in_chain(&previous, STAGE)),
        }
    }

    fn empty(bound: &Arc<Bound>, scope: &Arc<RequestScope>) -> Self {
        Self {
            bound: Arc::clone(bound),
            scope: Arc::clone(scope),
            active: None,
            held: Held::default(),
            most_held: 0,
            last_words: None,
            repeatable: None,
        }
    }

    async fn make(
        &mut self,
        context: &Arc<AnswerContext>,
        room: &Arc<Room>,
    ) -> Result<(), Failure> {
        let bound = &self.bound;
        let permit = bound.admit(&self.scope, STAGE)?;
        let made = {
            let (bound, scope) = (Arc::clone(bound), Arc::clone(&self.scope));
            let (context, room) = (Arc::clone(context), Arc::clone(room));
            async move {
                let request_id = &context.request_id;
                let guest = bound.guest(&scope, request_id, STAGE, room).await?;
                let artifact = bound.binding.plugin.artifact();
                guest.processor(artifact, &context).await
            }
        };
        match bound.run(made).await {
            Ok(processor) => {
                self.active = Some(Active { processor, permit });
                let repeatable = || (Arc::clone(context), Arc::clone(room));
                self.repeatable = bound.previous.is_some().then(repeatable);
                Ok(())
            }
            Err(failure) => {
                permit.conclude(&self.scope, Some(&failure));
                Err(failure)
            }
        }
    }

    /// Its own failure is the answer's: there is no version before it.
    async fn make_previous(
        &mut self,
        previous: Arc<Bound>,
        context: &Arc<AnswerContext>,
        room: &Arc<Room>,
    ) -> Result<(), ChainFailure> {
        self.bound = previous;
        let made = self.make(context, room).await;
        made.map_err(|failure| failure.in_chain(&self.bound, STAGE))
    }

    /// Whether every delta goes on as it is.
    pub(super) fn is_passthrough(&self) -> bool {
        self.active.is_none() && self.held.len() == 0 && self.last_words.is_none()
    }

    /// Turns what comes from before this processor into what goes behind it.
    pub(super) async fn step(&mut self, flow: &mut Flow) -> Result<(), ChainFailure> {
        if let Some(text) = self.last_words.take() {
            flow.cut(FinishReason::ContentFilter, text);
            return Ok(());
        }
        let mut out: Option<Delta> = None;
        if let Some(delta) = flow.delta.take().filter(|delta| !delta.text.is_empty()) {
            match self.push(delta).await? {
                Step::On(delta) => out = delta,
                Step::Cut { reason, text } => {
                    // It has said its last word, so it is not asked to finish.
                    flow.cut(reason, text);
                    return Ok(());
                }
            }
        }
        if let Some(reason) = flow.end {
            match self.finish(reason).await? {
                Step::On(last) => out = join(out, last.map(|last| last.text).unwrap_or_default()),
                Step::Cut { reason, text } => {
                    out = join(out, text);
                    (flow.end, flow.cut) = (Some(reason), true);
                }
            }
        }
        flow.delta = out;
        Ok(())
    }

    async fn push(&mut self, delta: Delta) -> Result<Step, ChainFailure> {
        loop {
            let Some(active) = &mut self.active else {
                return Ok(Step::On(Some(delta)));
            };
            let result = active.processor.push(delta.clone(), self.held.len()).await;
            let out = match result {
                Ok(Some(Output::Cut { reason, text })) => {
                    // Anything it held goes with it: that is what a cut is for.
                    self.held.take();
                    return Ok(Step::Cut { reason, text });
                }
                Ok(Some(Output::Emit(text))) => match self.held.emit(&delta.text, &text) {
                    true => Some(delta),
                    false => plain(text),
                },
                Ok(None) => {
                    self.held.hold(&delta.text);
                    None
                }
                Err(failure) => match self.rescue(failure).await? {
                    Rescue::Again => continue,
                    Rescue::Passing(held) => return Ok(Step::On(plain(held + &delta.text))),
                    Rescue::Ending(text) => return Ok(Step::ending(text)),
                },
            };
            self.repeatable = None;
            let Some(failure) = self.holds_too_much() else {
                return Ok(Step::On(out));
            };
            return Ok(match self.rescue(failure).await? {
                // What it has answered cannot be repeated, so that this does not happen.
                Rescue::Again => Step::On(out),
                Rescue::Passing(held) => Step::On(join(out, held)),
                Rescue::Ending(text) => {
                    let out = out.map(|out| out.text).unwrap_or_default();
                    Step::ending(out + &text)
                }
            });
        }
    }

    async fn finish(&mut self, reason: FinishReason) -> Result<Step, ChainFailure> {
        loop {
            let Some(active) = &mut self.active else {
                return Ok(Step::On(None));
            };
            return Ok(
                match active.processor.finish(reason, self.held.len()).await {
                    Ok(Some(Output::Emit(text))) => Step::On(plain(text)),
                    Ok(Some(Output::Cut { reason, text })) => Step::Cut { reason, text },
                    Ok(None) => Step::On(None),
                    Err(failure) => match self.rescue(failure).await? {
                        Rescue::Again => continue,
                        Rescue::Passing(held) => Step::On(plain(held)),
                        Rescue::Ending(text) => Step::ending(text),
                    },
                },
            );
        }
    }

    /// The failure of a processor that holds more than it may.
    fn holds_too_much(&mut self) -> Option<Failure> {
        let limit = self.bound.binding.limits.held_bytes;
        let held = self.held.len();
        if held > self.most_held {
            self.most_held = held;
            let observer = &self.scope.services.observer;
            observer.held(self.bound.binding.plugin.id(), held as u64);
        }
        if held as u64 <= limit {
            return None;
        }
        let message = format!("holds back {held} bytes of the answer, {limit} are allowed");
        let failure = Failure::new(FailureKind::HeldTooMuch, message);
        self.scope.failed(&self.bound, STAGE, &failure);
        Some(failure)
    }

    /// The processor failed and is no more.
    async fn rescue(&mut self, failure: Failure) -> Result<Rescue, ChainFailure> {
        if let Some(Active { processor, permit }) = self.active.take() {
            permit.conclude(&self.scope, Some(&failure));
            // Before another is made in its room.
            drop(processor);
        }
        let held = self.held.take();
        let repeatable = self.repeatable.take();
        let is_repeatable = repeatable.is_some();
        let fallback = self
            .bound
            .fall_back(&self.scope, STAGE, failure, is_repeatable)?;
        Ok(match (fallback, repeatable) {
            (Fallback::Skip, _) => Rescue::Passing(held),
            // What it held it may have held for a reason.
            (Fallback::Answer(text), _) => Rescue::Ending(text),
            (Fallback::Previous(previous), repeatable) => {
                if let Some((context, room)) = repeatable {
                    self.make_previous(previous, &context, &room).await?;
                }
                Rescue::Again
            }
        })
    }

    /// The answer is over: the instance is given back, if it may serve on.
    pub(super) async fn release(&mut self) {
        let Some(Active { processor, permit }) = self.active.take() else {
            return;
        };
        permit.conclude(&self.scope, None);
        if self.bound.binding.reuse > 0
            && let Some(guest) = processor.release().await
        {
            self.bound.give_back(&self.scope, guest);
        }
    }
}

impl Step {
    /// The end of an answer whose rest is withheld.
    fn ending(text: String) -> Self {
        Self::Cut {
            reason: FinishReason::ContentFilter,
            text,
        }
    }
}

impl Flow {
    fn cut(&mut self, reason: FinishReason, text: String) {
        self.delta = plain(text);
        (self.end, self.cut) = (Some(reason), true);
    }
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
