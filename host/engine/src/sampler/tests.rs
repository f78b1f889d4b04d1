use super::*;

const GREEDY: SamplingParams = SamplingParams {
    temperature: 0.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    seed: None,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    repetition_penalty: 1.0,
    logit_bias: Vec::new(),
};

fn context(params: &SamplingParams) -> DrawContext<'_> {
    DrawContext {
        params,
        seed: 7,
        position: 3,
        prompt: &[],
        generated: &[],
        forbidden: Vec::new(),
        allowed: None,
        logprobs: None,
    }
}

fn drawn(logits: &[f32], context: &DrawContext<'_>) -> u32 {
    sample(logits.to_vec(), context).unwrap().id.0
}

/// χ² of a million draws against `expected`; positions stand for independent draws.
fn chi_square(logits: &[f32], params: &SamplingParams, expected: &[f64]) -> f64 {
    chi_square_of(logits, &context(params), expected)
}

fn chi_square_of(logits: &[f32], context: &DrawContext<'_>, expected: &[f64]) -> f64 {
    const DRAWS: usize = 1_000_000;
    let mut counts = vec![0_u32; logits.len()];
    for position in 0..DRAWS {
        let context = DrawContext {
            position,
            ..context.clone()
        };
        counts[drawn(logits, &context) as usize] += 1;
    }
    let mut sum = 0.0;
    for (count, probability) in counts.into_iter().zip(expected) {
        if *probability == 0.0 {
            assert_eq!(count, 0);
            continue;
        }
        let wanted = probability * DRAWS as f64;
        sum += (f64::from(count) - wanted).powi(2) / wanted;
    }
    sum
}

/// χ² of a million draws is below its 99.9 % quantile.
fn gate(what: &str, found: f64, limit: f64) {
    println!("gate: sampler, a million draws, {what} | {found:.2} | {limit:.2}");
    assert!(found < limit, "χ² is {found}, the limit {limit}");
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| logit.exp() / total).collect()
}

#[test]
fn a_million_draws_follow_the_distribution() {
    let logits = [0.3, -1.2, 2.0, 0.0, 1.1, -0.4, 0.8, -2.5];
    let params = SamplingParams {
        temperature: 0.8,
        ..SamplingParams::default()
    };
    let expected = softmax(&logits.map(|logit| f64::from(logit) / 0.8));
    // 7 degrees of freedom, p = 1e-3.
    let found = chi_square(&logits, &params, &expected);
    gate("temperature 0.8", found, 24.32);
}

#[test]
fn a_million_filtered_draws_follow_the_renormalised_distribution() {
    // Probabilities .4 .3 .15 .1 .05: top-k drops the last, top-p .8 of the .95 left is
    // reached by the first three (.85), min-p of half the best drops the third.
    let probabilities = [0.15_f32, 0.4, 0.05, 0.3, 0.1];
    let logits = probabilities.map(f32::ln);
    let params = SamplingParams {
        top_k: 4,
        top_p: 0.8,
        ..SamplingParams::default()
    };
    let expected = [0.15 / 0.85, 0.4 / 0.85, 0.0, 0.3 / 0.85, 0.0];
    // 2 degrees of freedom, p = 1e-3.
    let found = chi_square(&logits, &params, &expected);
    gate("top-k and top-p", found, 13.82);
    let params = SamplingParams {
        min_p: 0.5,
        ..params
    };
    // 1 degree of freedom, p = 1e-3.
    let found = chi_square(&logits, &params, &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
    gate("top-k, top-p and min-p", found, 10.83);
}

/// Everything that changes a distribution, at once: bias, penalties, a grammar, a ban,
/// temperature and the three filters, on a vocabulary wider than a block.
#[test]
fn a_million_draws_through_everything_follow_the_exact_distribution() {
    const LEN: usize = 1500;
    let logits: Vec<f32> = (0..LEN).map(|id| ((id * 37) % 101) as f32 / 25.0).collect();
    let params = SamplingParams {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.9,
        min_p: 0.3,
        seed: None,
        presence_penalty: 0.4,
        frequency_penalty: 0.3,
        repetition_penalty: 1.2,
        logit_bias: vec![
            (TokenId(5), 1.44),
            (TokenId(1400), 2.0),
            (TokenId(30), -1.0),
        ],
    };
    let prompt = [TokenId(30), TokenId(100)];
    let generated = [TokenId(100), TokenId(1400), TokenId(100)];
    let allowed: Vec<TokenId> = (0..LEN as u32)
        .filter(|id| id % 3 != 1)
        .map(TokenId)
        .collect();
    let forbidden = TokenId(60);
    let context = DrawContext {
        prompt: &prompt,
        generated: &generated,
        forbidden: vec![forbidden],
        allowed: Some(TokenMask::from_ids(&allowed)),
        ..context(&params)
    };

    // The definition, in float64 and by sorting.
    let mut exact: Vec<(usize, f64)> = Vec::new();
    for (id, logit) in logits.iter().enumerate() {
        let token = TokenId(id as u32);
        let mut logit = f64::from(*logit);
        let bias = params
            .logit_bias
            .iter()
            .find(|(biased, _)| *biased == token);
        logit += bias.map_or(0.0, |(_, bias)| f64::from(*bias));
        if prompt.contains(&token) || generated.contains(&token) {
            logit = if logit > 0.0 {
                logit / 1.2
            } else {
                logit * 1.2
            };
        }
        let count = generated.iter().filter(|id| **id == token).count();
        if count > 0 {
            logit -= 0.4 + 0.3 * count as f64;
        }
        if id % 3 != 1 && token != forbidden {
            exact.push((id, logit / 0.7));
        }
    }
    exact.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    exact.truncate(40);
    let greatest = exact[0].1;
    let total: f64 = exact.iter().map(|(_, logit)| logit.exp()).sum();
    let mut reached = 0.0;
    let nucleus = exact.iter().take_while(|(_, logit)| {
        let is_in = reached < 0.9;
        reached += logit.exp() / total;
        is_in
    });
    let survivors: Vec<_> = nucleus
        .filter(|(_, logit)| (logit - greatest).exp() >= 0.3)
        .collect();
    let total: f64 = survivors.iter().map(|(_, logit)| logit.exp()).sum();
    let mut expected = vec![0.0; LEN];
    for (id, logit) in &survivors {
        expected[*id] = logit.exp() / total;
    }
    assert!(
        (10..40).contains(&survivors.len()),
        "{} survive",
        survivors.len()
    );

    let found = chi_square_of(&logits, &context, &expected);
    gate(
        "everything at once",
        found,
        chi_square_limit(survivors.len() - 1),
    );
}

/// Without filters draws come from all of the vocabulary, block by block.
#[test]
fn a_million_draws_from_a_wide_vocabulary_follow_the_distribution() {
    let logits: Vec<f32> = (0..5000)
        .map(|id| ((id * 7919) % 977) as f32 / 500.0)
        .collect();
    let params = SamplingParams {
        temperature: 1.3,
        ..SamplingParams::default()
    };
    let scaled: Vec<f64> = logits.iter().map(|logit| f64::from(*logit) / 1.3).collect();
    let found = chi_square(&logits, &params, &softmax(&scaled));
    gate("5,000 entries", found, chi_square_limit(4999));
}

/// The quantile of p = 1e-3, by Wilson and Hilferty; within 1 % from ten degrees on.
fn chi_square_limit(degrees: usize) -> f64 {
    let ninth = 2.0 / (9.0 * degrees as f64);
    degrees as f64 * (1.0 - ninth + 3.0902 * ninth.sqrt()).powi(3)
}

#[test]
fn greedy_takes_the_lowest_id_of_the_greatest() {
    assert_eq!(drawn(&[1.0, 5.0, f32::NAN, 5.0], &context(&GREEDY)), 1);
}

#[test]
fn temperatures_near_zero_are_as_good_as_greedy() {
    let params = SamplingParams {
        temperature: 1e-40,
        ..SamplingParams::default()
    };
    assert_eq!(drawn(&[1.0, 5.0, 4.999], &context(&params)), 1);
}

#[test]
fn a_draw_depends_on_seed_and_position_alone() {
    let params = SamplingParams::default();
    let logits = [0.0; 1000];
    let at = |seed, position| {
        let context = DrawContext {
            seed,
            position,
            ..context(&params)
        };
        drawn(&logits, &context)
    };
    assert_eq!(at(1, 1), at(1, 1));
    assert_ne!(at(1, 1), at(2, 1));
    assert_ne!(at(1, 1), at(1, 2));
}

#[test]
fn a_row_without_numbers_is_an_error_and_not_a_token() {
    for row in [[f32::NAN; 2], [f32::NEG_INFINITY; 2], [f32::INFINITY; 2]] {
        let error = sample(row.to_vec(), &context(&GREEDY)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the model could not run a step: no logit at position 3 is finite"
        );
    }
}

#[test]
fn bias_comes_before_everything_and_ignores_unknown_ids() {
    let params = SamplingParams {
        logit_bias: vec![(TokenId(0), 100.0), (TokenId(99), 100.0)],
        ..GREEDY
    };
    assert_eq!(drawn(&[1.0, 5.0], &context(&params)), 0);
}

#[test]
fn presence_counts_once_and_frequency_each_time() {
    let generated = [TokenId(1), TokenId(1), TokenId(0)];
    let presence = SamplingParams {
        presence_penalty: 1.0,
        ..GREEDY
    };
    let frequency = SamplingParams {
        frequency_penalty: 1.0,
        ..GREEDY
    };
    let logits = [3.5, 5.0, 2.0];
    let with = |params| DrawContext {
        generated: &generated,
        ..context(params)
    };
    // 2.5, 4.0, 2.0 against 2.5, 3.0, 2.0.
    assert_eq!(drawn(&logits, &with(&presence)), 1);
    assert_eq!(drawn(&[4.2, 5.0, 2.0], &with(&frequency)), 0);
    assert_eq!(drawn(&[4.2, 5.0, 2.0], &with(&presence)), 1);
    // The prompt does not count.
    let prompt_only = DrawContext {
        prompt: &generated,
        ..context(&frequency)
    };
    assert_eq!(drawn(&[4.2, 5.0, 2.0], &prompt_only), 1);
}

#[test]
fn repetition_weakens_seen_tokens_of_either_sign_in_prompt_and_answer() {
    let params = SamplingParams {
        repetition_penalty: 2.0,
        ..GREEDY
    };
    let context = DrawContext {
        prompt: &[TokenId(0)],
        generated: &[TokenId(2)],
        ..context(&params)
    };
    assert_eq!(drawn(&[5.0, 3.0, 5.0], &context), 1);
    assert_eq!(drawn(&[-1.0, -1.5, -1.0], &context), 1);
}

#[test]
fn forbidden_tokens_never_come() {
    let params = SamplingParams {
        logit_bias: vec![(TokenId(1), 100.0)],
        ..GREEDY
    };
    let context = DrawContext {
        forbidden: vec![TokenId(1), TokenId(77)],
        ..context(&params)
    };
    assert_eq!(drawn(&[1.0, 5.0], &context), 0);
}

#[test]
fn reported_logprobs_are_those_before_temperature_and_penalties() {
    let params = SamplingParams {
        temperature: 0.1,
        logit_bias: vec![(TokenId(0), 100.0)],
        ..SamplingParams::default()
    };
    let context = DrawContext {
        logprobs: Some(1),
        ..context(&params)
    };
    let token = sample(vec![0.0, 0.0], &context).unwrap();
    let report = token.logprobs.unwrap();
    assert_eq!((token.id, report.id), (TokenId(0), TokenId(0)));
    assert!((report.logprob - 0.5_f32.ln()).abs() < 1e-6);
    assert_eq!(report.top.len(), 1);
}

#[test]
fn parameters_out_of_range_are_named() {
    let nan = SamplingParams {
        temperature: f32::NAN,
        ..SamplingParams::default()
    };
    let bias = SamplingParams {
        logit_bias: vec![(TokenId(0), 101.0)],
        ..SamplingParams::default()
    };
    let top_p = SamplingParams {
        top_p: 0.0,
        ..SamplingParams::default()
    };
    let text = |params: SamplingParams| params.check().unwrap_err().to_string();
    assert_eq!(text(nan), "temperature is NaN, allowed is 0 to 2");
    assert_eq!(text(bias), "logit_bias is 101, allowed is -100 to 100");
    assert_eq!(text(top_p), "top_p is 0, allowed is above 0, up to 1");
    assert!(SamplingParams::default().check().is_ok());
}
