//! A request's logprobs do not depend on what runs beside it: alone, batched, in other chunks and
//! after preemption they are the same, bit for bit.

use gapura_engine::{Engine, EngineConfig, GenerateRequest, SamplingParams};

use crate::support::{Answer, FIXTURES, fixture, greedy, run_together, scored, start};

const ANSWER_TOKENS: u32 = 60;

/// Prompts of many lengths, about the edges of pages and windows; that of 20 and its answer end with
/// a page.
fn prompts() -> Vec<Vec<u32>> {
    [1, 2, 15, 16, 17, 20, 31, 47, 48, 49, 99, 150]
        .into_iter()
        .enumerate()
        .map(|(n, len)| {
            // Any fixed spread over the text tokens 6 to 261 will do.
            let token = |i: usize| ((i * i * 31 + i * 17 + n * 101) % 256 + 6) as u32;
            std::iter::once(2).chain((1..len).map(token)).collect()
        })
        .collect()
}

fn requests() -> Vec<GenerateRequest> {
    prompts()
        .iter()
        .map(|prompt| greedy(prompt, ANSWER_TOKENS))
        .collect()
}

/// One after the other, each prompt whole in one step, with nothing to be found computed.
fn alone(name: &str) -> Vec<Answer> {
    let cold = EngineConfig {
        prefix_cache: false,
        ..EngineConfig::default()
    };
    let engine = start(&fixture(name), cold);
    requests()
        .into_iter()
        .flat_map(|request| run_together(&engine, vec![request]))
        .collect()
}

fn together(name: &str, config: EngineConfig) -> (Vec<Answer>, Engine) {
    let engine = start(&fixture(name), config);
    (run_together(&engine, requests()), engine)
}

/// Ids and logprobs are equal, bit for bit.
#[track_caller]
fn same(gate: &str, name: &str, found: &[Answer], expected: &[Answer]) {
    let scores = |answer: &Answer| answer.tokens.len() + answer.prompt.len();
    let total: usize = expected.iter().map(scores).sum();
    let pairs = found.iter().zip(expected);
    let differing = pairs.filter(|(found, expected)| found != expected).count();
    println!("gate: {gate}, {name}, {total} tokens | {differing} answers differ | 0");
    assert_eq!(found, expected, "{name}");
}

#[test]
fn batched_answers_equal_those_alone() {
    for name in FIXTURES {
        let (batched, _) = together(name, EngineConfig::default());
        same("alone = batched", name, &batched, &alone(name));
    }
}

/// The seed and the position decide a draw; the place in the batch, the neighbours and the order
/// of arrival do not.
#[test]
fn seeded_draws_do_not_depend_on_company() {
    let drawn = |prompt: &Vec<u32>| GenerateRequest {
        sampling: SamplingParams {
            temperature: 1.5,
            seed: Some(prompt.len() as u64),
            ..SamplingParams::default()
        },
        ..greedy(prompt, ANSWER_TOKENS)
    };
    for name in FIXTURES {
        let engine = start(&fixture(name), EngineConfig::default());
        let alone: Vec<Answer> = prompts()
            .iter()
            .flat_map(|prompt| run_together(&engine, vec![drawn(prompt)]))
            .collect();
        let together = run_together(&engine, prompts().iter().map(drawn).collect());
        same("seeded: alone = batched", name, &together, &alone);
        let greedy = run_together(&engine, requests());
        assert_ne!(together, greedy, "{name} draws nothing");
    }
}

#[test]
fn small_chunks_equal_whole_prompts() {
    for name in FIXTURES {
        let config = EngineConfig {
            max_num_seqs: 5,
            max_batched_tokens: 13,
            ..EngineConfig::default()
        };
        let (chunked, _) = together(name, config);
        same("chunked = whole", name, &chunked, &alone(name));
    }
}

#[test]
fn preempted_answers_equal_those_alone() {
    for name in FIXTURES {
        // Room for two or three sequences where eleven want to run.
        let layout = start(&fixture(name), EngineConfig::default()).model().kv;
        let kv_bytes = 32 * (layout.full_block_bytes + layout.windowed_block_bytes);
        let config = EngineConfig {
            kv_bytes,
            max_batched_tokens: 64,
            context_length: Some(256),
            ..EngineConfig::default()
        };
        let (preempted, engine) = together(name, config);
        assert!(
            engine.stats().preemptions > 0,
            "{name} was never short of blocks"
        );
        same("preempted = not", name, &preempted, &alone(name));
    }
}

/// A prompt's beginning may have been computed by another request, in other chunks and beside
/// others: what follows does not show it. Beginnings of many lengths, about the edges of pages
/// and windows.
#[test]
fn answers_after_a_prefix_hit_equal_those_computed_cold() {
    for name in FIXTURES {
        let cold = alone(name);
        let engine = start(&fixture(name), EngineConfig::default());
        // The whole prompts once, in company, then each again, alone and in company.
        run_together(&engine, requests());
        let hits = engine.stats().prefix_hit_tokens;
        let again: Vec<Answer> = requests()
            .into_iter()
            .flat_map(|request| run_together(&engine, vec![request]))
            .collect();
        assert!(engine.stats().prefix_hit_tokens > hits, "{name}: no hit");
        same("prefix hit = cold", name, &again, &cold);
        same(
            "prefix hit = cold",
            name,
            &run_together(&engine, requests()),
            &cold,
        );
        // The answer so far belongs to the next turn's prompt. Its last token was never computed,
        // also where it fills a page.
        let longer = |answers: &[Answer]| -> Vec<GenerateRequest> {
            let turns = prompts().into_iter().zip(answers);
            turns
                .map(|(prompt, answer)| {
                    let said = prompt.into_iter().chain(answer.ids());
                    let tokens: Vec<u32> = said.chain([7, 8, 9]).collect();
                    greedy(&tokens, 20)
                })
                .collect()
        };
        let config = EngineConfig {
            prefix_cache: false,
            ..EngineConfig::default()
        };
        let expected = run_together(&start(&fixture(name), config), longer(&cold));
        same(
            "prefix hit of an answer = cold",
            name,
            &run_together(&engine, longer(&cold)),
            &expected,
        );
    }
}

/// The same where blocks are scarce: prefixes are given up, sequences preempted, and found again
/// in part.
#[test]
fn answers_with_scarce_blocks_and_prefix_hits_equal_those_computed_cold() {
    for name in FIXTURES {
        let cold = alone(name);
        let layout = start(&fixture(name), EngineConfig::default()).model().kv;
        let config = EngineConfig {
            kv_bytes: 32 * (layout.full_block_bytes + layout.windowed_block_bytes),
            max_batched_tokens: 29,
            context_length: Some(256),
            ..EngineConfig::default()
        };
        let engine = start(&fixture(name), config);
        // There and back, so that what was computed last is wanted first.
        for turns_back in [false, true, false] {
            let (mut asked, mut expected) = (requests(), cold.clone());
            if turns_back {
                asked.reverse();
                expected.reverse();
            }
            same(
                "prefix hit, scarce blocks = cold",
                name,
                &run_together(&engine, asked),
                &expected,
            );
        }
        let stats = engine.stats();
        assert!(stats.preemptions > 0, "{name} was never short of blocks");
        assert!(stats.prefix_hit_tokens > 0, "{name} found nothing");
        // The last answer is out a moment before its blocks are counted as free.
        let held = || {
            let stats = engine.stats();
            stats.full_blocks.used + stats.windowed_blocks.used
        };
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while held() > 0 && std::time::Instant::now() < patience {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(held(), 0, "{name}");
    }
}

/// Scoring computes the prompt's rows that generation skips; both see the same model.
#[test]
fn scoring_a_generated_text_gives_the_logprobs_it_was_generated_with() {
    for name in FIXTURES {
        let engine = start(&fixture(name), EngineConfig::default());
        let prompt = &prompts()[4];
        let answer = run_together(&engine, vec![greedy(prompt, ANSWER_TOKENS)]).remove(0);
        let text: Vec<u32> = prompt.iter().copied().chain(answer.ids()).collect();
        let scores = run_together(&engine, vec![scored(&text, 1)]).remove(0);
        let generated: Vec<_> = answer
            .tokens
            .into_iter()
            .map(|token| token.logprobs.unwrap())
            .collect();
        assert_eq!(scores.prompt[prompt.len() - 1..], generated, "{name}");
    }
}
