//! Any text as a JSON Schema, a regular expression, a Lark grammar or a list of choices, and a
//! walk through what it allows. The first byte says which, the text goes up to the first zero
//! byte, and each byte after that draws a token.
//!
//! A source is a grammar or an error, within the compiler's own time. Every state of a grammar
//! allows a token or the end, never a control token, takes in what it allows and refuses what it
//! does not. A state may fail where a limit of the grammar is met.
#![no_main]

use std::{
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use gapura_engine::{
    Allowed, EngineError, Grammar, GrammarCompiler, GrammarError, GrammarSource, TokenId,
    sim::{SimToken, sim_tokenizer},
};
use libfuzzer_sys::fuzz_target;

/// A token for every byte, so that whatever text a grammar allows can be spelled.
static COMPILER: LazyLock<GrammarCompiler> =
    LazyLock::new(|| GrammarCompiler::new(&sim_tokenizer(), &END_TOKENS));
const END_TOKENS: [TokenId; 2] = [SimToken::EOS.id(), SimToken::IM_END.id()];

/// Tokens of a walk at least; where the input has no more to say, the first that is allowed.
const MIN_STEPS: usize = 32;
/// The compiler's threads wait five seconds for a permit and work for five; a walk adds masks.
const MAX_COMPILE_TIME: Duration = Duration::from_secs(11);
const MAX_WALK_TIME: Duration = Duration::from_secs(8);
/// What the mask workers have: the standard library's stack. The sanitizer's frames are larger.
const STACK_BYTES: usize = 2 * (2 << 20);

fn source(kind: u8, text: String) -> GrammarSource {
    match kind % 5 {
        0 => GrammarSource::JsonSchema(text),
        1 => GrammarSource::Regex(text),
        2 => GrammarSource::Lark(text),
        3 => GrammarSource::Choice(text.split('\n').map(str::to_owned).collect()),
        // As the first, since most is written for it.
        _ => GrammarSource::JsonSchema(text),
    }
}

fn walk(grammar: &Grammar, draws: &[u8]) {
    let mut state = grammar.start();
    let default = [0; MIN_STEPS];
    let default = &default[draws.len().min(MIN_STEPS)..];
    for draw in draws.iter().chain(default) {
        let mask = match state.allowed() {
            Ok(Allowed::Tokens(mask)) => mask,
            Ok(Allowed::End) => return,
            Err(EngineError::Grammar { reason }) => {
                assert_ne!(reason, "no token of the vocabulary fits");
                return;
            }
            Err(other) => panic!("{other}"),
        };
        let (allowed, refused): (Vec<TokenId>, Vec<TokenId>) = (0..SimToken::VOCAB_SIZE as u32)
            .map(TokenId)
            .partition(|id| mask.contains(*id));
        assert!(!allowed.is_empty());
        assert_eq!(allowed.len(), mask.len(), "ids beyond the vocabulary");
        for id in &allowed {
            assert!(!SimToken::is_special(*id) || END_TOKENS.contains(id));
        }
        // The last draw is of what must be refused; after that the state is of no use.
        if *draw == 0xff {
            let drawn = refused[usize::from(*draw) % refused.len()];
            assert!(state.accept(drawn).is_err(), "{drawn:?} was refused");
            return;
        }
        let drawn = allowed[usize::from(*draw) % allowed.len()];
        match state.accept(drawn) {
            Ok(()) if END_TOKENS.contains(&drawn) => {
                assert!(matches!(state.allowed(), Ok(Allowed::End)));
                return;
            }
            Ok(()) => {}
            Err(error) => panic!("{drawn:?} was allowed: {error}"),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    gapura_fuzz::folder(|_| {});
    let Some((kind, rest)) = data.split_first() else {
        return;
    };
    let end = rest.iter().position(|byte| *byte == 0);
    let (text, draws) = rest.split_at(end.unwrap_or(rest.len()));
    let source = source(*kind, String::from_utf8_lossy(text).into_owned());

    let started = Instant::now();
    let compiled = COMPILER.compile(&source);
    assert!(
        started.elapsed() < MAX_COMPILE_TIME,
        "{:?}",
        started.elapsed()
    );
    let grammar = match compiled {
        Ok(grammar) => grammar,
        // The threads of what was given up have not come to their end.
        Err(GrammarError::Busy) => panic!("compiling goes on for ever"),
        Err(_) => return,
    };
    let draws = draws.to_vec();
    let started = Instant::now();
    let walked = thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || walk(&grammar, draws.get(1..).unwrap_or_default()))
        .expect("a thread")
        .join();
    if let Err(panic) = walked {
        std::panic::resume_unwind(panic);
    }
    assert!(started.elapsed() < MAX_WALK_TIME, "{:?}", started.elapsed());
});
