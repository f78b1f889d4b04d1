//! Logprobs of the model's own distribution: before bias, penalties and temperature, after
//! the final soft cap, which is part of the logits.

use super::{filter, weights};
use crate::request::{TokenId, TokenLogprobs};

/// A row as it came, reduced to what a report needs.
pub(super) struct RawDistribution {
    logits: Vec<f32>,
    log_total: f32,
    top: Vec<(TokenId, f32)>,
}

impl RawDistribution {
    /// Reads `logits`, `[vocab_size]`, before anything changes them.
    pub(super) fn of(logits: &[f32], num_alternatives: u32) -> Self {
        let log_total = log_sum_exp(logits);
        Self {
            top: top(logits, num_alternatives as usize, log_total),
            log_total,
            logits: logits.to_vec(),
        }
    }

    pub(super) fn report(self, id: TokenId) -> TokenLogprobs {
        TokenLogprobs {
            id,
            logprob: logprob_of(&self.logits, id, self.log_total),
            top: self.top,
        }
    }
}

/// The logprob of `id` under `logits`, `[vocab_size]`, with the most likely alternatives.
pub(crate) fn score(logits: &[f32], id: TokenId, num_alternatives: u32) -> TokenLogprobs {
    let log_total = log_sum_exp(logits);
    TokenLogprobs {
        id,
        logprob: logprob_of(logits, id, log_total),
        top: top(logits, num_alternatives as usize, log_total),
    }
}

fn logprob_of(logits: &[f32], id: TokenId, log_total: f32) -> f32 {
    logits
        .get(id.0 as usize)
        .map_or(f32::NEG_INFINITY, |logit| logit - log_total)
}

fn log_sum_exp(logits: &[f32]) -> f32 {
    let greatest = gapura_kernels::greatest(logits);
    let total = weights::total(logits, |logit| weights::exp(logit - greatest));
    (f64::from(greatest) + total.ln()) as f32
}

/// The `count` most likely, most likely first, the lower id first among equals.
fn top(logits: &[f32], count: usize, log_total: f32) -> Vec<(TokenId, f32)> {
    if count == 0 {
        return Vec::new();
    }
    let mut top = filter::heaviest(logits, count);
    top.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let logprob = |(id, logit)| (TokenId(id), logit - log_total);
    top.into_iter().map(logprob).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logprobs_are_those_of_a_softmax() {
        let logits = [1.0, 3.0, 2.0];
        let report = score(&logits, TokenId(2), 2);
        let total = (1.0_f32.exp() + 3.0_f32.exp() + 2.0_f32.exp()).ln();
        assert!((report.logprob - (2.0 - total)).abs() < 1e-6);
        assert_eq!(report.top[0].0, TokenId(1));
        assert_eq!(report.top[1], (TokenId(2), report.logprob));
    }

    #[test]
    fn equals_are_listed_by_id_and_impossible_ones_not_at_all() {
        let report = score(&[0.0, 1.0, 1.0, f32::NEG_INFINITY], TokenId(3), 20);
        let ids: Vec<u32> = report.top.iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [1, 2, 0]);
        assert_eq!(report.logprob, f32::NEG_INFINITY);
        assert_eq!(score(&[0.0, 1.0], TokenId(0), 0).top, []);
    }

    #[test]
    fn great_logits_do_not_overflow() {
        let report = score(&[10_000.0, 10_000.0], TokenId(0), 0);
        assert!((report.logprob - 0.5_f32.ln()).abs() < 1e-3);
    }
}
