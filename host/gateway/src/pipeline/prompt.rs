//! From a judged chat to the tokens that the model reads.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use gapura_engine::{TokenId, Tokenizer};
use gapura_plugin_runtime::{Chain, Chat, Rendered, Role, Run, Segment, Stage};
use tokio::sync::Semaphore;

use crate::error::ApiError;
use crate::pipeline::call::PromptSource;
use crate::pipeline::grammar::Imposed;
use crate::pipeline::judge::Reply;
use crate::pipeline::services::Watch;
use crate::state::LoadedModel;
use crate::telemetry::RequestRecord;

/// Text longer than this is tokenized where it cannot hold up other connections.
const MAX_INLINE_BYTES: usize = 32 * 1024;

/// As many long texts are tokenized at once as there are cores: each takes a multiple of its own
/// size in memory.
static LONG_TEXTS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(cores))
});

/// A prompt as the engine takes it.
pub(super) struct Tokens {
    pub(super) ids: Vec<TokenId>,
    /// Stop strings of the template.
    pub(super) stop: Vec<String>,
    /// Tokens before the template's last `prefix-end`: the same for other requests of the
    /// route. 0 where it names none.
    pub(super) num_prefix: usize,
    /// What the template wants the answer to match.
    pub(super) grammar: Option<Imposed>,
    /// The field of the request that holds the prompt.
    pub(super) param: &'static str,
}

/// What comes of a chat.
pub(super) enum Prompted {
    /// What the model is to read.
    Tokens(Tokens),
    /// An answer that needs no model, such as the static one of a template that failed.
    Reply(Reply),
}

impl Prompted {
    /// The tokens, where nothing else will do.
    ///
    /// # Errors
    /// The template of `chain` failed.
    pub(super) fn into_tokens(self, chain: &Chain) -> Result<Tokens, ApiError> {
        match self {
            Self::Tokens(tokens) => Ok(tokens),
            Self::Reply(_) => {
                let problem = "failed in render; its static answer has no tokens of a prompt";
                Err(ApiError::plugin(
                    template(chain),
                    problem,
                    "plugin_static_answer",
                ))
            }
        }
    }
}

/// Refuses a chat that cannot fit the model's context however its text falls into tokens, before
/// anything works through it. `param` is the field that holds it.
///
/// # Errors
/// 400 with both lengths.
pub(super) fn check_length(
    model: &LoadedModel,
    chat: &Chat,
    param: &'static str,
) -> Result<(), ApiError> {
    let texts = chat.messages.iter().flat_map(|message| &message.content);
    let num_bytes: usize = texts.map(String::len).sum();
    let least = model.tokenizer.least_count(num_bytes);
    let context_length = model.engine.model().context_length;
    if least > context_length {
        let least = format!("at least {least}");
        return Err(ApiError::context_overflow(context_length, least, 1, param));
    }
    Ok(())
}

/// Makes the prompt that `source` says.
///
/// # Errors
/// A refusal or failure of the template, or a control token that the model does not have.
pub(super) async fn tokens(
    model: &LoadedModel,
    run: &mut Run,
    chat: &Chat,
    source: PromptSource,
    watch: &Watch,
    record: &mut RequestRecord,
) -> Result<Prompted, ApiError> {
    let param = source.param();
    let prompt = match source {
        PromptSource::Template => match run.render(chat).await? {
            Rendered::Refused { plugin: _, refusal } => return Err(refusal.into()),
            Rendered::Prompt(prompt) => {
                if let Some(recorder) = &watch.recorder {
                    recorder.rendered(&prompt);
                }
                prompt
            }
            Rendered::Answered { text, finish, .. } => {
                return Ok(Prompted::Reply(Reply { text, finish }));
            }
        },
        PromptSource::Tokens { ids, text } if text_of(chat) == text => {
            return Ok(Prompted::Tokens(Tokens {
                ids,
                stop: Vec::new(),
                num_prefix: 0,
                param,
                grammar: None,
            }));
        }
        PromptSource::Text | PromptSource::Tokens { .. } => {
            return raw_text(model, chat, record).await.map(Prompted::Tokens);
        }
    };
    let ids = tokenize(model, prompt.segments, record)
        .await?
        .map_err(|name| {
            let problem =
                format!("named the control token `{name}`, which the model does not have");
            ApiError::plugin(template(run.chain()), &problem, "plugin_control_token")
        })?;
    Ok(Prompted::Tokens(Tokens {
        ids: ids.all,
        stop: prompt.stop,
        num_prefix: ids.num_prefix,
        param,
        grammar: prompt.grammar.map(|grammar| Imposed {
            grammar,
            plugin: template(run.chain()).to_owned(),
        }),
    }))
}

/// The chat's text as the prompt.
async fn raw_text(
    model: &LoadedModel,
    chat: &Chat,
    record: &mut RequestRecord,
) -> Result<Tokens, ApiError> {
    let ids = text_tokens(model, text_of(chat), true, record).await?;
    Ok(Tokens {
        ids,
        stop: Vec::new(),
        num_prefix: 0,
        param: "prompt",
        grammar: None,
    })
}

/// The tokens of a raw text, after the model's `<bos>` where it has one and `with_bos` says so.
///
/// # Errors
/// 500 where the tokenizer has a defect.
pub(crate) async fn text_tokens(
    model: &LoadedModel,
    text: String,
    with_bos: bool,
    record: &mut RequestRecord,
) -> Result<Vec<TokenId>, ApiError> {
    let ids = tokenize(model, vec![Segment::Text(text)], record).await?;
    let ids = ids.map_err(|_| ApiError::internal())?.all;
    let bos = model.engine.model().bos_token_id.filter(|_| with_bos);
    Ok(bos.into_iter().chain(ids).collect())
}

/// The text of the last user message: a raw prompt is a chat of one such message. Turns that
/// validators put before it have no place in a prompt without turns.
fn text_of(chat: &Chat) -> String {
    let user = chat
        .messages
        .iter()
        .rev()
        .find(|message| message.role == Role::User);
    user.map(|message| message.content.concat())
        .unwrap_or_default()
}

/// The tokens of a prompt.
#[derive(Debug, Default)]
pub(super) struct Ids {
    pub(super) all: Vec<TokenId>,
    /// Those before the last `prefix-end`.
    pub(super) num_prefix: usize,
}

/// [`ids`] whose time counts as the request's.
async fn tokenize(
    model: &LoadedModel,
    segments: Vec<Segment>,
    record: &mut RequestRecord,
) -> Result<Result<Ids, String>, ApiError> {
    let started = Instant::now();
    let ids = ids(model, segments).await?;
    record.tokenized(started.elapsed());
    Ok(ids)
}

/// The tokens of `segments`, or the name of a control token that the model does not have.
///
/// # Errors
/// 500 where the tokenizer has a defect.
pub(super) async fn ids(
    model: &LoadedModel,
    segments: Vec<Segment>,
) -> Result<Result<Ids, String>, ApiError> {
    let num_bytes: usize = segments.iter().map(num_text_bytes).sum();
    if num_bytes <= MAX_INLINE_BYTES {
        return Ok(encode(&model.tokenizer, &segments));
    }
    let turn = Arc::clone(&LONG_TEXTS).acquire_owned().await;
    let tokenizer = model.tokenizer.clone();
    let work = tokio::task::spawn_blocking(move || {
        // Held to the end: the work goes on when its client has left.
        let _turn = turn;
        encode(&tokenizer, &segments)
    });
    work.await.map_err(|error| {
        tracing::error!(%error, "tokenizing panicked");
        ApiError::internal()
    })
}

fn num_text_bytes(segment: &Segment) -> usize {
    match segment {
        Segment::Text(text) => text.len(),
        Segment::Control(_) | Segment::PrefixEnd => 0,
    }
}

/// Text with special tokens off, control tokens by name. The error is the name of one that
/// the model does not have.
pub(super) fn encode(tokenizer: &Tokenizer, segments: &[Segment]) -> Result<Ids, String> {
    let mut ids = Ids::default();
    for segment in segments {
        match segment {
            Segment::Text(text) => ids.all.extend(tokenizer.encode(text)),
            Segment::Control(name) => {
                ids.all
                    .push(tokenizer.token_id(name).ok_or_else(|| name.clone())?);
            }
            Segment::PrefixEnd => ids.num_prefix = ids.all.len(),
        }
    }
    Ok(ids)
}

fn template(chain: &Chain) -> &str {
    let mut plugins = chain.bindings().iter().map(|binding| &binding.plugin);
    plugins
        .find(|plugin| plugin.has(Stage::Render))
        .map_or(chain.label(), |plugin| plugin.label())
}
