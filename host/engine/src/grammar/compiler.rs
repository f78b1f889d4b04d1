//! From a source to a grammar, within limits of size, time and stack.
//!
//! llguidance recurses along a schema's references, so each source is compiled on a thread of
//! its own with a stack that the largest schema allowed cannot exhaust.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, mpsc},
    time::{Duration, Instant},
};

use llguidance::{Matcher, api::TopLevelGrammar};
use serde_json::{Value, json};
use tracing::warn;

use super::{Allowed, Grammar, GrammarError, GrammarSource, blame, schema, vocabulary::Vocabulary};
use crate::{error::EngineError, request::TokenId, tokenizer::Tokenizer};

/// Longest source. Real schemas stay below 200 KiB.
const MAX_SOURCE_BYTES: usize = 512 * 1024;
/// Regular expressions and Lark grammars are written by hand.
const MAX_RULES_BYTES: usize = 64 * 1024;
/// Most choices of a list.
const MAX_CHOICES: usize = 10_000;
/// Longest time that a caller waits for one grammar.
const MAX_COMPILE_TIME: Duration = Duration::from_secs(5);
/// For the deepest chain of references that [`schema`] lets through. Only what is used takes
/// memory.
const STACK_BYTES: usize = 512 << 20;
/// Compiled grammars kept; clients send the same schema again and again.
const MAX_CACHED: usize = 32;
/// Sources longer than this are not kept.
const MAX_CACHED_BYTES: usize = 64 * 1024;
/// Blank space between the tokens of JSON: enough to be indented, too little for a model to
/// lose itself in.
const JSON_BLANK: &str = r" |\r?\n( {0,20}|\t{0,6})";

/// Compiles grammars for one model. Cheap to clone.
#[derive(Clone)]
pub struct GrammarCompiler {
    shared: Arc<Shared>,
}

struct Shared {
    tokenizer: Tokenizer,
    eos_token_ids: Vec<TokenId>,
    vocabulary: OnceLock<Result<Arc<Vocabulary>, GrammarError>>,
    permits: Arc<Permits>,
    /// Most recently used last.
    cache: Mutex<Vec<(GrammarSource, Grammar)>>,
}

impl GrammarCompiler {
    /// For a model with `tokenizer`'s vocabulary whose answers end with one of
    /// `eos_token_ids`. Costs nothing until the first grammar.
    #[must_use]
    pub fn new(tokenizer: &Tokenizer, eos_token_ids: &[TokenId]) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            shared: Arc::new(Shared {
                tokenizer: tokenizer.clone(),
                eos_token_ids: eos_token_ids.to_vec(),
                vocabulary: OnceLock::new(),
                permits: Arc::new(Permits::new(cores.clamp(2, 8))),
                cache: Mutex::default(),
            }),
        }
    }

    /// Compiles `source`. Blocks, for milliseconds as a rule and five seconds at most: not for
    /// the engine's thread nor for async code.
    ///
    /// # Errors
    /// [`GrammarError`]; a schema's names the keyword at fault and where it stands.
    pub fn compile(&self, source: &GrammarSource) -> Result<Grammar, GrammarError> {
        check_size(source)?;
        if let Some(grammar) = self.cached(source) {
            return Ok(grammar);
        }
        let vocabulary = self.vocabulary()?;
        let permit = Permits::take(&self.shared.permits).ok_or(GrammarError::Busy)?;
        let work = source.clone();
        let grammar = within(MAX_COMPILE_TIME, permit, move || {
            compile(&work, &vocabulary)
        })?;
        self.cache(source, &grammar);
        Ok(grammar)
    }

    fn vocabulary(&self) -> Result<Arc<Vocabulary>, GrammarError> {
        let shared = &self.shared;
        let made = shared.vocabulary.get_or_init(|| {
            Vocabulary::new(&shared.tokenizer, &shared.eos_token_ids).map(Arc::new)
        });
        made.clone()
    }

    fn cached(&self, source: &GrammarSource) -> Option<Grammar> {
        let mut cache = self.lock_cache();
        let found = cache.iter().position(|(known, _)| known == source)?;
        let entry = cache.remove(found);
        let grammar = entry.1.clone();
        cache.push(entry);
        Some(grammar)
    }

    fn cache(&self, source: &GrammarSource, grammar: &Grammar) {
        if num_bytes(source) > MAX_CACHED_BYTES {
            return;
        }
        let mut cache = self.lock_cache();
        if cache.len() >= MAX_CACHED {
            cache.remove(0);
        }
        cache.push((source.clone(), grammar.clone()));
    }

    fn lock_cache(&self) -> std::sync::MutexGuard<'_, Vec<(GrammarSource, Grammar)>> {
        let cache = &self.shared.cache;
        cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GrammarCompiler({:?})", self.shared.tokenizer)
    }
}

fn num_bytes(source: &GrammarSource) -> usize {
    match source {
        GrammarSource::JsonObject => 0,
        GrammarSource::JsonSchema(text)
        | GrammarSource::Regex(text)
        | GrammarSource::Lark(text) => text.len(),
        GrammarSource::Choice(choices) => choices.iter().map(String::len).sum(),
    }
}

fn check_size(source: &GrammarSource) -> Result<(), GrammarError> {
    let check = |what, value, limit| match value > limit {
        true => Err(GrammarError::TooLarge { what, value, limit }),
        false => Ok(()),
    };
    let value = num_bytes(source);
    match source {
        GrammarSource::JsonObject => Ok(()),
        GrammarSource::JsonSchema(_) => check("bytes of the schema:", value, MAX_SOURCE_BYTES),
        GrammarSource::Regex(_) => check("bytes of the expression:", value, MAX_RULES_BYTES),
        GrammarSource::Lark(_) => check("bytes of the grammar:", value, MAX_RULES_BYTES),
        GrammarSource::Choice(choices) => {
            check("number of choices:", choices.len(), MAX_CHOICES)?;
            check("bytes of the choices:", value, MAX_SOURCE_BYTES)
        }
    }
}

/// What `work` makes on a thread with a stack of its own, waited for as long as `time`. Whoever
/// gives up waiting leaves the thread its permit.
fn within<T: Send + 'static>(
    time: Duration,
    permit: Permit,
    work: impl FnOnce() -> Result<T, GrammarError> + Send + 'static,
) -> Result<T, GrammarError> {
    let (sender, made) = mpsc::channel();
    let spawned = std::thread::Builder::new()
        .name("gapura-grammar".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let result =
                catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic)));
            drop(permit);
            let _ = sender.send(result);
        });
    if let Err(cause) = spawned {
        warn!(%cause, "cannot start a thread to compile a grammar");
        return Err(GrammarError::Busy);
    }
    made.recv_timeout(time).map_err(|_| {
        let reason = format!("it takes more than {} s", time.as_secs_f32());
        GrammarError::TooComplex { reason }
    })?
}

fn compile(source: &GrammarSource, vocabulary: &Arc<Vocabulary>) -> Result<Grammar, GrammarError> {
    let matcher = match source {
        GrammarSource::JsonObject => schema_matcher(json!({"type": "object"}), vocabulary),
        GrammarSource::JsonSchema(text) => schema_matcher(schema::prepare(text)?, vocabulary),
        GrammarSource::Regex(regex) => rules_matcher(
            "regular expression",
            TopLevelGrammar::from_regex(regex),
            vocabulary,
        ),
        GrammarSource::Lark(lark) => rules_matcher(
            "Lark grammar",
            TopLevelGrammar::from_lark(lark.clone()),
            vocabulary,
        ),
        GrammarSource::Choice(choices) => {
            rules_matcher("list of choices", one_of(choices)?, vocabulary)
        }
    }?;
    Ok(Grammar::new(matcher, Arc::clone(vocabulary)))
}

fn one_of(choices: &[String]) -> Result<TopLevelGrammar, GrammarError> {
    let invalid = |reason: &str| GrammarError::Syntax {
        kind: "list of choices",
        reason: reason.to_owned(),
    };
    if choices.is_empty() {
        return Err(invalid("it is empty"));
    }
    if choices.iter().any(String::is_empty) {
        return Err(invalid("a choice is empty"));
    }
    // Lark's strings are JSON's.
    let quoted = choices
        .iter()
        .map(|choice| Value::from(choice.as_str()).to_string());
    let alternatives = quoted.collect::<Vec<_>>().join(" | ");
    Ok(TopLevelGrammar::from_lark(format!("start: {alternatives}")))
}

fn schema_matcher(
    mut schema: Value,
    vocabulary: &Arc<Vocabulary>,
) -> Result<Matcher, GrammarError> {
    if let Value::Object(root) = &mut schema {
        root.insert(
            "x-guidance".to_owned(),
            json!({ "whitespace_pattern": JSON_BLANK }),
        );
    }
    let started = Instant::now();
    let grammar = TopLevelGrammar::from_json_schema(schema.clone());
    let error = match matcher(grammar, vocabulary) {
        Ok(matcher) => return Ok(matcher),
        Err(error) => error,
    };
    // What took long once is not compiled again to see why.
    let may_blame = started.elapsed() < blame::MAX_TIME / 10;
    match blame::find(&schema, &error, may_blame) {
        Some(found) => Err(found),
        None => Err(GrammarError::TooComplex { reason: error }),
    }
}

fn rules_matcher(
    kind: &'static str,
    grammar: TopLevelGrammar,
    vocabulary: &Arc<Vocabulary>,
) -> Result<Matcher, GrammarError> {
    matcher(grammar, vocabulary).map_err(|reason| GrammarError::Syntax { kind, reason })
}

/// A matcher that allows at least one answer to begin, or why there is none.
fn matcher(grammar: TopLevelGrammar, vocabulary: &Arc<Vocabulary>) -> Result<Matcher, String> {
    let parser = vocabulary
        .factory
        .create_parser(grammar)
        .map_err(|error| blame::reason(&error))?;
    let matcher = Matcher::new(Ok(parser));
    let probe = Grammar::new(matcher.deep_clone(), Arc::clone(vocabulary));
    match probe.start().allowed() {
        Ok(Allowed::Tokens(_)) => Ok(matcher),
        Ok(Allowed::End) => Err("it allows nothing but the empty text".to_owned()),
        Err(EngineError::Grammar { reason }) => Err(reason),
        Err(other) => Err(other.to_string()),
    }
}

fn panicked(panic: &(dyn Any + Send)) -> GrammarError {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    warn!(panic = text, "compiling a grammar panicked");
    GrammarError::TooComplex {
        reason: "it cannot be compiled".to_owned(),
    }
}

/// How many grammars may be compiled at a time.
struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

/// One of them, given back on drop.
struct Permit(Arc<Permits>);

impl Permits {
    fn new(count: usize) -> Self {
        Self {
            free: Mutex::new(count),
            returned: Condvar::new(),
        }
    }

    /// Waits as long as a grammar may take; `None` if nothing was given back by then.
    fn take(permits: &Arc<Self>) -> Option<Permit> {
        let free = permits.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut free, _) = permits
            .returned
            .wait_timeout_while(free, MAX_COMPILE_TIME, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        if *free == 0 {
            return None;
        }
        *free -= 1;
        Some(Permit(Arc::clone(permits)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step of a recursion that takes 1 KiB of stack at least.
    fn descend(depth: usize) -> usize {
        let frame = std::hint::black_box([depth; 128]);
        match depth {
            0 => 0,
            _ => descend(depth - 1) + usize::from(frame[depth % 128] == depth),
        }
    }

    fn take(permits: &Arc<Permits>) -> Permit {
        Permits::take(permits).expect("a permit is free")
    }

    #[test]
    fn whatever_happens_while_compiling_is_an_error_and_gives_its_permit_back() {
        let permits = Arc::new(Permits::new(1));
        let minute = Duration::from_secs(60);
        let panics = within(minute, take(&permits), || -> Result<(), _> {
            panic!("a bug")
        });
        let reason = |error: GrammarError| error.to_string();
        assert_eq!(
            panics.map_err(reason).unwrap_err(),
            "the grammar is too complex: it cannot be compiled"
        );
        // Some 200 MiB of frames, of which a thread has 2 by default.
        let deep = within(minute, take(&permits), || Ok(descend(200_000)));
        assert_eq!(deep.unwrap(), 200_000);

        let (end, ended) = mpsc::channel::<()>();
        let late = within(Duration::from_millis(500), take(&permits), move || {
            let _ = ended.recv();
            Ok(())
        });
        assert_eq!(
            late.map_err(reason).unwrap_err(),
            "the grammar is too complex: it takes more than 0.5 s"
        );
        // It still works, and holds its permit until it ends.
        assert_eq!(*permits.free.lock().unwrap(), 0);
        drop(end);
        drop(take(&permits));
    }
}
