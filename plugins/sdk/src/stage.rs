//! The traits that a plugin implements, one per stage.

use crate::bindings::{
    Action, Chat, Context, Delta, Failure, FinishReason, Prompt, Refusal, Summary, Verdict,
};

/// Judges a chat before it is rendered.
///
/// A plugin should keep nothing between calls: the gateway may use a fresh instance for
/// each.
pub trait Validator {
    /// Called once per request.
    ///
    /// # Errors
    /// A [`Failure`] says that the plugin could not do its work, which is nothing about the
    /// request: the route's failure policy decides what happens. To turn a request away,
    /// answer [`Verdict::Refuse`].
    fn validate(chat: Chat) -> Result<Verdict, Failure>;
}

/// Turns a chat into the prompt that the tokenizer reads. A route has exactly one.
pub trait Template {
    /// Called once per request, after all validators.
    ///
    /// # Errors
    /// A [`Refusal`] ends the request with the client's error (status 400 to 499).
    fn render(chat: Chat) -> Result<Prompt, Refusal>;
}

/// Sees an answer while it is generated, streamed or not, and decides what the client gets
/// of it. One value is made per answer and dropped when the answer ends, however it ends.
pub trait Responder: Sized + 'static {
    /// Called before the first delta.
    fn new(context: Context) -> Self;

    /// Called with every piece of the answer, in order. [`HoldBack`](crate::HoldBack) does
    /// the work where what one piece means depends on the next.
    fn push(&mut self, delta: Delta) -> Action;

    /// Called once after the last delta, unless a plugin cut the answer. Text still held
    /// must be emitted here or it is lost.
    fn finish(&mut self, reason: FinishReason) -> Action {
        let _ = reason;
        Action::Hold
    }
}

/// Hears how answers ended. It runs after the client has its answer: nothing waits for it, and
/// its failures are counted and no more.
///
/// ```
/// use gapura_plugin_sdk::{Observer, Outcome, Summary, log};
///
/// struct Failures;
///
/// impl Observer for Failures {
///     fn completed(summary: Summary) {
///         if let Outcome::Failed(code) = summary.outcome {
///             log::warn(format!("{} failed: {code}", summary.request_id));
///         }
///     }
/// }
///
/// gapura_plugin_sdk::export!(observer: Failures);
/// # fn main() {}
/// ```
pub trait Observer {
    /// Called once for each answer of the engine.
    fn completed(summary: Summary);
}
