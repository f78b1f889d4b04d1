//! Answers as server-sent events. Frames are `data: <json>` and a blank line, nothing else but
//! comments that keep the connection open; the last is `data: [DONE]`, after an error too.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Serialize;

use crate::openai::usage::Tokens;
use crate::pipeline::{Piece, Pieces};

/// Turns pieces into the chunks of one endpoint.
pub(super) trait Chunks: Send + 'static {
    /// The chunks of a piece of the answer `index`. `tokens` is what the request has taken so
    /// far.
    fn piece(&mut self, index: usize, piece: Piece, tokens: Tokens, frames: &mut Frames);

    /// The chunks after the end of all answers.
    fn end(&mut self, tokens: Tokens, frames: &mut Frames);
}

/// Frames on their way to the client.
#[derive(Default)]
pub(super) struct Frames(VecDeque<Event>);

impl Frames {
    /// Adds one frame.
    pub(super) fn push(&mut self, chunk: &impl Serialize) {
        let json = serde_json::to_string(chunk);
        self.0
            .push_back(Event::default().data(json.expect("chunks have string keys alone")));
    }

    fn done(&mut self) {
        self.0.push_back(Event::default().data("[DONE]"));
    }
}

/// Streams `pieces`. Nothing is generated ahead of the client by more than the engine's bound
/// on events in flight; dropping the body drops all that works for it.
pub(super) fn stream(pieces: Pieces, chunks: impl Chunks, keep_alive: Duration) -> Response {
    let state = Stream {
        pieces,
        chunks,
        frames: Frames::default(),
        ended: false,
    };
    let events = stream::unfold(state, |mut state| async move {
        let event = state.next().await?;
        Some((Ok::<_, Infallible>(event), state))
    });
    let mut response = Sse::new(events)
        .keep_alive(KeepAlive::new().interval(keep_alive))
        .into_response();
    // Proxies that collect an answer before they pass it on would defeat the purpose.
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct Stream<C> {
    pieces: Pieces,
    chunks: C,
    frames: Frames,
    ended: bool,
}

impl<C: Chunks> Stream<C> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.frames.0.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.pieces.next().await {
                Some(Ok((index, piece))) => {
                    let tokens = self.pieces.tokens();
                    self.chunks.piece(index, piece, tokens, &mut self.frames);
                }
                Some(Err(error)) => {
                    self.frames.push(&error.body());
                    self.frames.done();
                    self.ended = true;
                }
                None => {
                    self.chunks.end(self.pieces.tokens(), &mut self.frames);
                    self.frames.done();
                    self.ended = true;
                }
            }
        }
    }
}
