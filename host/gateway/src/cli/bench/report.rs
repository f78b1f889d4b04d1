//! From measured answers to numbers.

use std::time::Duration;

use comfy_table::Table;
use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::client::Answer;

/// Microseconds that the histograms can hold: an hour.
const MAX_MICROS: u64 = 3_600_000_000;

/// The numbers of one run.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Report {
    model: String,
    concurrency: usize,
    requests: usize,
    failures: usize,
    seconds: f64,
    prompt_tokens: u64,
    completion_tokens: u64,
    /// Name, p50, p90, p99 in milliseconds.
    latencies: Vec<(&'static str, [f64; 3])>,
    /// p50 and p1 over the answers, tokens per second after the first token.
    decode_rates: [f64; 2],
}

impl Report {
    /// `None` without answers.
    pub(crate) fn new(
        model: &str,
        concurrency: usize,
        elapsed: Duration,
        answers: &[Answer],
        failures: usize,
    ) -> Option<Self> {
        if answers.is_empty() {
            return None;
        }
        let mut rates: Vec<f64> = answers.iter().filter_map(decode_rate).collect();
        rates.sort_by(f64::total_cmp);
        let rate_at = |share: f64| {
            let index = (share * rates.len().saturating_sub(1) as f64).round() as usize;
            rates.get(index).copied().unwrap_or(0.0)
        };
        Some(Self {
            model: model.to_owned(),
            concurrency,
            requests: answers.len(),
            failures,
            seconds: elapsed.as_secs_f64(),
            prompt_tokens: answers.iter().map(|answer| answer.prompt_tokens).sum(),
            completion_tokens: answers.iter().map(|answer| answer.completion_tokens).sum(),
            latencies: vec![
                (
                    "time to first token",
                    quantiles(answers.iter().map(|answer| answer.first)),
                ),
                (
                    "inter-token latency",
                    quantiles(
                        answers
                            .iter()
                            .flat_map(|answer| answer.gaps.iter().copied()),
                    ),
                ),
                (
                    "whole answer",
                    quantiles(answers.iter().map(|answer| answer.whole)),
                ),
            ],
            decode_rates: [rate_at(0.5), rate_at(0.01)],
        })
    }

    fn throughput(&self) -> f64 {
        self.completion_tokens as f64 / self.seconds
    }

    /// For machines. Times in milliseconds.
    pub(crate) fn json(&self) -> Value {
        let mut value = json!({
            "model": self.model,
            "concurrency": self.concurrency,
            "requests": self.requests,
            "failures": self.failures,
            "seconds": self.seconds,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "output_tokens_per_second": self.throughput(),
            "decode_tokens_per_second": { "p50": self.decode_rates[0], "p1": self.decode_rates[1] },
        });
        for (name, [p50, p90, p99]) in &self.latencies {
            let key = format!("{}_ms", name.replace([' ', '-'], "_"));
            value[key] = json!({ "p50": p50, "p90": p90, "p99": p99 });
        }
        value
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.set_header(["", "p50", "p90", "p99"]);
        for (name, values) in &self.latencies {
            let mut row = vec![format!("{name} (ms)")];
            row.extend(values.iter().map(|value| format!("{value:.2}")));
            table.add_row(row);
        }
        format!(
            "{}: {} requests, {} at a time, {:.2} s, {} failed\n{table}\n\
             output {:.1} tok/s in all, {:.1} tok/s per stream (p50), {} tokens",
            self.model,
            self.requests,
            self.concurrency,
            self.seconds,
            self.failures,
            self.throughput(),
            self.decode_rates[0],
            self.completion_tokens,
        )
    }
}

/// Tokens per second after the first one.
fn decode_rate(answer: &Answer) -> Option<f64> {
    let seconds = answer.whole.saturating_sub(answer.first).as_secs_f64();
    let tokens = answer.completion_tokens.saturating_sub(1);
    (seconds > 0.0 && tokens > 0).then(|| tokens as f64 / seconds)
}

fn quantiles(times: impl Iterator<Item = Duration>) -> [f64; 3] {
    let mut histogram =
        Histogram::<u64>::new_with_bounds(1, MAX_MICROS, 3).expect("the bounds are constants");
    for time in times {
        histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(MAX_MICROS));
    }
    [0.5, 0.9, 0.99].map(|share| histogram.value_at_quantile(share) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(first_ms: u64, gap_ms: u64, gaps: usize) -> Answer {
        Answer {
            first: Duration::from_millis(first_ms),
            gaps: vec![Duration::from_millis(gap_ms); gaps],
            whole: Duration::from_millis(first_ms + gap_ms * gaps as u64),
            prompt_tokens: 10,
            completion_tokens: gaps as u64 + 1,
        }
    }

    #[test]
    fn numbers_add_up() {
        let answers = [answer(100, 10, 9), answer(200, 10, 9)];
        let report = Report::new("m", 2, Duration::from_secs(2), &answers, 1).unwrap();
        let json = report.json();
        assert_eq!(json["output_tokens_per_second"], 10.0);
        assert_eq!(json["failures"], 1);
        assert!((json["inter_token_latency_ms"]["p50"].as_f64().unwrap() - 10.0).abs() < 0.1);
        assert!((json["time_to_first_token_ms"]["p99"].as_f64().unwrap() - 200.0).abs() < 0.5);
        assert!((json["decode_tokens_per_second"]["p50"].as_f64().unwrap() - 100.0).abs() < 0.1);
    }

    #[test]
    fn nothing_answered_is_no_report() {
        assert_eq!(Report::new("m", 1, Duration::from_secs(1), &[], 3), None);
    }
}
