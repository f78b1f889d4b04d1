//! The caller's end of one request: events in order, exactly one of them the last.

use std::{
    sync::{Arc, Mutex, PoisonError},
    vec,
};

use tokio::sync::mpsc;

use crate::{error::EngineError, request::TokenEvent, sequence::SequenceId};

/// Steps whose events may wait for a caller. A sequence whose caller falls so far behind pauses; it
/// holds up nobody else.
pub(crate) const STEPS_IN_FLIGHT: usize = 64;

/// What one step tells a caller, in order: together, so that he is woken once.
pub(crate) type StepEvents = Vec<TokenEvent>;

/// The events of one request: prompt logprobs where asked for, tokens, then exactly one
/// [`TokenEvent::Finished`] or [`TokenEvent::Failed`]. Dropping it cancels the request.
#[derive(Debug)]
pub struct TokenStream {
    steps: mpsc::Receiver<StepEvents>,
    /// The rest of a step.
    events: vec::IntoIter<TokenEvent>,
    ended: bool,
    id: SequenceId,
    dropped: DroppedStreams,
}

/// The streams that were dropped before their end, for the engine thread to take: so that it
/// need not ask every stream in every step.
#[derive(Debug, Clone, Default)]
pub(crate) struct DroppedStreams(Arc<Mutex<Vec<SequenceId>>>);

impl DroppedStreams {
    /// Those dropped since the last call.
    pub(crate) fn take(&self) -> Vec<SequenceId> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for TokenStream {
    fn drop(&mut self) {
        if !self.ended {
            let mut dropped = self
                .dropped
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            dropped.push(self.id);
        }
    }
}

impl TokenStream {
    /// The two ends of the request `id`; `dropped` learns of it when nobody reads any more.
    pub(crate) fn channel(
        id: SequenceId,
        dropped: DroppedStreams,
    ) -> (mpsc::Sender<StepEvents>, Self) {
        let (sender, steps) = mpsc::channel(STEPS_IN_FLIGHT);
        let stream = Self {
            steps,
            events: Vec::new().into_iter(),
            ended: false,
            id,
            dropped,
        };
        (sender, stream)
    }

    /// The next event; `None` after the last one. Cancel safe.
    pub async fn next(&mut self) -> Option<TokenEvent> {
        if self.ended {
            return None;
        }
        if self.events.len() == 0 {
            let step = self.steps.recv().await;
            self.events = step.unwrap_or_default().into_iter();
        }
        Some(self.take())
    }

    /// [`next`](Self::next) for callers outside an async runtime.
    ///
    /// # Panics
    /// If called from async code, whose thread must not block.
    pub fn blocking_next(&mut self) -> Option<TokenEvent> {
        if self.ended {
            return None;
        }
        if self.events.len() == 0 {
            let step = self.steps.blocking_recv();
            self.events = step.unwrap_or_default().into_iter();
        }
        Some(self.take())
    }

    /// The next event of the step. A channel closed without a last event means that the engine
    /// thread is gone.
    fn take(&mut self) -> TokenEvent {
        let event = self.events.next().unwrap_or_else(|| {
            TokenEvent::Failed(EngineError::Step {
                message: "the engine thread has ended".into(),
            })
        });
        self.ended = matches!(event, TokenEvent::Finished { .. } | TokenEvent::Failed(_));
        event
    }
}
