//! The caller's end of one request: events in order, exactly one of them the last.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::{error::EngineError, request::TokenEvent, sequence::SequenceId};

/// Events that may wait for a caller. A sequence whose caller falls so far behind pauses; it
/// holds up nobody else.
pub(crate) const EVENTS_IN_FLIGHT: usize = 64;

/// The events of one request: prompt logprobs where asked for, tokens, then exactly one
/// [`TokenEvent::Finished`] or [`TokenEvent::Failed`]. Dropping it cancels the request.
#[derive(Debug)]
pub struct TokenStream {
    events: mpsc::Receiver<TokenEvent>,
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
    ) -> (mpsc::Sender<TokenEvent>, Self) {
        let (sender, events) = mpsc::channel(EVENTS_IN_FLIGHT);
        let stream = Self {
            events,
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
        let event = self.events.recv().await;
        Some(self.note_end(event))
    }

    /// [`next`](Self::next) for callers outside an async runtime.
    ///
    /// # Panics
    /// If called from async code, whose thread must not block.
    pub fn blocking_next(&mut self) -> Option<TokenEvent> {
        if self.ended {
            return None;
        }
        let event = self.events.blocking_recv();
        Some(self.note_end(event))
    }

    /// A channel closed without a last event means that the engine thread is gone.
    fn note_end(&mut self, event: Option<TokenEvent>) -> TokenEvent {
        let event = event.unwrap_or_else(|| {
            TokenEvent::Failed(EngineError::Step {
                message: "the engine thread has ended".into(),
            })
        });
        self.ended = matches!(event, TokenEvent::Finished { .. } | TokenEvent::Failed(_));
        event
    }
}
