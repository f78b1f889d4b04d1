//! The ways in which a request to the model ends, as seen by its handler.

use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};

use crate::error::{ApiError, Unrecorded, X_GAPURA_CHAIN};
use crate::openai::sampling::{Delivery, StreamUsage};
use crate::pipeline::{Answer, Deadline, Pieces};
use crate::routes::sse::{self, Chunks};
use crate::state::AppState;
use crate::telemetry::RequestRecord;

/// Where the time went, for clients that ask.
pub(crate) const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Turns pieces into what one endpoint answers with.
pub(super) trait Writer {
    /// One JSON object, once everything has come.
    async fn whole(self, pieces: &mut Pieces) -> Result<Response, ApiError>;

    /// The chunks of a stream.
    fn chunks(self, pieces: &Pieces, usage: StreamUsage) -> impl Chunks;
}

/// Answers that are being generated.
pub(super) struct Begun<W> {
    /// One for each prompt; there is at least one.
    pub(super) answers: Vec<Answer>,
    pub(super) writer: W,
    pub(super) delivery: Delivery,
    pub(super) deadline: Deadline,
}

impl<W: Writer> Begun<W> {
    /// The answer, or the error that came while it was generated, with the plugins that made
    /// it.
    pub(super) async fn deliver(self, state: &AppState, record: RequestRecord) -> Response {
        let chain = self.answers[0].route.chain_header.clone();
        let mut pieces = Pieces::new(self.answers, record);
        let mut response = match self.delivery {
            Delivery::Whole => {
                let whole = self.writer.whole(&mut pieces).await;
                with_timing(whole.unwrap_or_else(recorded), pieces.server_timing())
            }
            Delivery::Stream(usage) => {
                let chunks = self.writer.chunks(&pieces, usage);
                // What is known by now; all of it stands in a comment before the stream's end.
                let timing = pieces.server_timing();
                let keep_alive = state.server.keep_alive;
                with_timing(
                    sse::stream(pieces, chunks, self.deadline, keep_alive),
                    timing,
                )
            }
        };
        response.headers_mut().insert(X_GAPURA_CHAIN, chain);
        response
    }
}

/// An error before the answer began, on the record.
pub(super) fn failed(error: ApiError, mut record: RequestRecord) -> Response {
    record.ended(Err(&error));
    with_timing(recorded(error), record.server_timing())
}

fn with_timing(mut response: Response, timing: Option<String>) -> Response {
    // Always a value: it is made of visible ASCII.
    if let Some(Ok(value)) = timing.map(HeaderValue::try_from) {
        response.headers_mut().insert(SERVER_TIMING, value);
    }
    response
}

/// The answer to an error whose request has a record, which writes the log line.
fn recorded(error: ApiError) -> Response {
    let mut response = error.into_response();
    response.extensions_mut().remove::<Unrecorded>();
    response
}
