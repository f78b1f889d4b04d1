//! Answers as server-sent events. Frames are `data: <json>` and a blank line, nothing else but
//! comments: those that keep the connection open, and for clients that ask, one before the end that
//! says where the time went. The last frame is `data: [DONE]`, after an error too.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::openai::usage::Tokens;
use crate::pipeline::{Deadline, Piece, Pieces};

/// Frames that may wait for the client, beside the engine's own bound on tokens in flight.
const FRAMES_IN_FLIGHT: usize = 16;
/// Past the deadline, for the client to read what was sent.
const LAST_READ: Duration = Duration::from_secs(1);

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

    /// Where the time went, where that is wanted, and the end. Clients stop reading there.
    fn done(&mut self, timing: Option<String>) {
        if let Some(timing) = timing {
            let comment = format!("server-timing: {timing}");
            self.0.push_back(Event::default().comment(comment));
        }
        self.0.push_back(Event::default().data("[DONE]"));
    }
}

/// Streams `pieces` until `deadline`. A task of its own moves them, so that a client that does
/// not read is held to the deadline too; it ends, and with it all that works for the client,
/// as soon as the body is dropped.
pub(super) fn stream(
    pieces: Pieces,
    chunks: impl Chunks,
    deadline: Deadline,
    keep_alive: Duration,
) -> Response {
    let (sender, receiver) = mpsc::channel(FRAMES_IN_FLIGHT);
    let frames = Stream {
        pieces,
        chunks,
        frames: Frames::default(),
        ended: false,
    };
    tokio::spawn(pump(frames, deadline, sender));
    let events = stream::unfold(Some(receiver), |receiver| async {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Frame::Event(event)) => Some((Ok(event), Some(receiver))),
            Some(Frame::End) => None,
            // Broken off, not ended: a clean end would look like a whole answer.
            None => Some((Err(io::Error::from(io::ErrorKind::TimedOut)), None)),
        }
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

/// What goes from the task to the body.
enum Frame {
    Event(Event),
    End,
}

async fn pump<C: Chunks>(mut stream: Stream<C>, deadline: Deadline, sender: mpsc::Sender<Frame>) {
    let sending = async {
        while let Some(event) = stream.next().await {
            if sender.send(Frame::Event(event)).await.is_err() {
                return;
            }
        }
        // Nobody listens: nobody misses it.
        let _ = sender.send(Frame::End).await;
    };
    tokio::select! {
        () = sending => {}
        () = sender.closed() => {}
        // The answer itself says that the deadline has passed, if the client reads on.
        () = deadline.passed(LAST_READ) => {}
    }
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
                    self.frames.done(self.pieces.server_timing());
                    self.ended = true;
                }
                None => {
                    self.chunks.end(self.pieces.tokens(), &mut self.frames);
                    self.frames.done(self.pieces.server_timing());
                    self.ended = true;
                }
            }
        }
    }
}
