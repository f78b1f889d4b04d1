//! Logprobs and greedy text of tiny random models against transformers in float32.
//!
//! The prompts of a golden run together, in chunks and over pages, as traffic would. Weights are
//! scaled so that any missing piece (a soft cap, the window, the scale, a norm) is far above the
//! tolerance; see `tests/fixtures/make_golden.py`.

use std::{fs, path::Path};

use gapura_engine::{EngineConfig, TokenLogprobs};
use serde::Deserialize;

use crate::support::{Answer, fixture, greedy, run_together, scored, start};

/// float64 and float32 transformers differ by up to 2.4e-4 on these models.
const TOLERANCE: f32 = 1e-3;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Case {
    Scored {
        ids: Vec<u32>,
        next_logprob: Vec<f32>,
        top_ids: Vec<[u32; 5]>,
        top_logprobs: Vec<[f32; 5]>,
    },
    Greedy {
        greedy_from: Vec<u32>,
        greedy: Vec<u32>,
    },
}

#[test]
fn gemma2_matches_transformers() {
    check(&fixture("tiny-gemma2-b"), &fixture("tiny-gemma2-b"));
}

#[test]
fn gemma3_matches_its_reference() {
    check(&fixture("tiny-gemma3"), &fixture("tiny-gemma3"));
}

#[test]
fn llama_matches_transformers() {
    check(&fixture("tiny-llama"), &fixture("tiny-llama"));
}

/// Goldens from elsewhere: every folder inside the one that `GAPURA_GOLDENS` names.
#[test]
fn further_goldens_match() {
    let Some(folder) = std::env::var_os("GAPURA_GOLDENS") else {
        eprintln!("GAPURA_GOLDENS is not set: only the repository's own goldens are checked");
        return;
    };
    let mut checked = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.join("golden.json").exists() {
            check(&path, &path);
            checked += 1;
        }
    }
    assert!(
        checked > 0,
        "{} holds no folder with a golden.json",
        folder.display()
    );
}

/// Compares the model at `path` with the `golden.json` in `folder`.
pub(crate) fn check(path: &Path, folder: &Path) {
    let golden: Golden =
        serde_json::from_str(&fs::read_to_string(folder.join("golden.json")).unwrap()).unwrap();
    // Less than the longest prompt in a step, so that prompts come in chunks beside decodes.
    let config = EngineConfig {
        max_num_seqs: 16,
        max_batched_tokens: 100,
        ..EngineConfig::default()
    };
    let engine = start(path, config);
    let requests = golden
        .cases
        .iter()
        .map(|case| match case {
            Case::Scored { ids, .. } => scored(ids, 1),
            Case::Greedy {
                greedy_from,
                greedy: tokens,
            } => greedy(greedy_from, tokens.len() as u32),
        })
        .collect();
    let answers = run_together(&engine, requests);

    let mut largest = 0.0f32;
    let mut positions = 0;
    for (case, answer) in golden.cases.iter().zip(&answers) {
        match case {
            Case::Scored {
                ids,
                next_logprob,
                top_ids,
                top_logprobs,
            } => {
                assert_eq!(answer.prompt.len(), ids.len() - 1);
                for (i, expected) in next_logprob.iter().enumerate() {
                    let scored = &answer.prompt[i];
                    assert_eq!(scored.id.0, ids[i + 1]);
                    largest = largest.max((scored.logprob - expected).abs());
                }
                for i in 0..ids.len() {
                    let top = &at(answer, i).top;
                    largest = largest.max(top_deviation(top, &top_ids[i], &top_logprobs[i]));
                }
                positions += ids.len();
            }
            Case::Greedy { greedy: tokens, .. } => assert_eq!(&answer.ids(), tokens),
        }
    }
    let name = path.file_name().unwrap().display();
    println!("gate: f32, {name}, {positions} positions | {largest:.2e} | {TOLERANCE:.0e}");
    assert!(largest <= TOLERANCE, "{}: off by {largest}", path.display());
}

/// The distribution after the prompt's token `i`.
fn at(answer: &Answer, i: usize) -> &TokenLogprobs {
    answer
        .prompt
        .get(i)
        .unwrap_or_else(|| answer.tokens[0].logprobs.as_ref().unwrap())
}

/// The largest difference of the five best logprobs, rank by rank. Ids must agree, but for two
/// whose logprobs are closer than the tolerance and may change places.
fn top_deviation(
    top: &[(gapura_engine::TokenId, f32)],
    ids: &[u32; 5],
    logprobs: &[f32; 5],
) -> f32 {
    assert_eq!(top.len(), 5);
    let mut largest = 0.0f32;
    for (rank, (id, logprob)) in top.iter().enumerate() {
        largest = largest.max((logprob - logprobs[rank]).abs());
        let close = |other: usize| (logprobs[rank] - logprobs[other]).abs() < TOLERANCE;
        let may_differ = rank == 4 || close(rank + 1) || rank > 0 && close(rank - 1);
        assert!(
            id.0 == ids[rank] || may_differ,
            "rank {rank}: {top:?} against {ids:?} {logprobs:?}"
        );
    }
    largest
}
