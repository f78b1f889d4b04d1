//! What the sampler does to a real model's logits, through the whole engine.

use gapura_engine::{
    EngineConfig, FinishReason, GenerateRequest, SamplingParams, TokenEvent, TokenId,
};

use crate::support::{FIXTURES, fixture, greedy, run_together, start};

/// The final soft cap comes first, the temperature second. The four most likely tokens are then
/// drawn by their reported logprobs over the temperature; this model's raw logits lie far
/// beyond the cap, so the other order is another distribution.
#[test]
fn temperature_acts_on_capped_logits() {
    const TEMPERATURE: f32 = 2.0;
    const TOP_K: u32 = 4;
    const DRAWS: u64 = 3000;
    let engine = start(&fixture("tiny-gemma2-b"), EngineConfig::default());
    let prompt: Vec<u32> = std::iter::once(2).chain(40..57).collect();
    let reported = run_together(&engine, vec![greedy(&prompt, 1)]).remove(0);
    let top = &reported.tokens[0].logprobs.as_ref().unwrap().top[..TOP_K as usize];
    let weights: Vec<f64> = top
        .iter()
        .map(|(_, logprob)| f64::from(logprob / TEMPERATURE).exp())
        .collect();
    let total: f64 = weights.iter().sum();

    let mut counts = [0u32; TOP_K as usize];
    let seeds: Vec<u64> = (0..DRAWS).collect();
    for seeds in seeds.chunks(200) {
        let draw = |seed: &u64| GenerateRequest {
            sampling: SamplingParams {
                temperature: TEMPERATURE,
                top_k: TOP_K,
                seed: Some(*seed),
                ..SamplingParams::default()
            },
            logprobs: None,
            ..greedy(&prompt, 1)
        };
        for answer in run_together(&engine, seeds.iter().map(draw).collect()) {
            let id = answer.tokens[0].id;
            let rank = top.iter().position(|(other, _)| *other == id).unwrap();
            counts[rank] += 1;
        }
    }
    let chi_squared: f64 = weights
        .iter()
        .zip(counts)
        .map(|(weight, count)| {
            let expected = weight / total * DRAWS as f64;
            (f64::from(count) - expected).powi(2) / expected
        })
        .sum();
    println!("gate: temperature after the cap | {chi_squared:.2} | 16.27");
    // Three degrees of freedom, p = 1e-3.
    assert!(
        chi_squared < 16.27,
        "{chi_squared}: {counts:?} of {weights:?}"
    );
}

#[test]
fn every_end_token_ends_an_answer() {
    for name in FIXTURES {
        let engine = start(&fixture(name), EngineConfig::default());
        for end in engine.model().eos_token_ids.clone() {
            let mut request = greedy(&[2, 40, 41], 3);
            request.stop.ignore_eos = false;
            request.sampling.logit_bias = vec![(end, 100.0)];
            let mut stream = engine.submit(request).unwrap();
            let mut ids: Vec<TokenId> = Vec::new();
            let reason = loop {
                match stream.blocking_next().unwrap() {
                    TokenEvent::Token(token) => ids.push(token.id),
                    TokenEvent::Finished { reason, .. } => break reason,
                    TokenEvent::Prompt(_) => {}
                    TokenEvent::Failed(error) => panic!("{error}"),
                }
            };
            assert_eq!((ids, reason), (vec![end], FinishReason::Stop), "{name}");
        }
    }
}
