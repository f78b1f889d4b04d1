//! How many prompt tokens a step may take while answers run. A step is as slow as all that is
//! in it, and every running stream waits for it; so prompts get what leaves a step at most so
//! many times longer than one that only decodes. What a token costs depends on the model, the
//! machine and the context that it attends to, and is therefore measured.

use std::time::Duration;

/// Prompt tokens of a step before it is known what one costs.
const FIRST_TOKENS: usize = 16;

/// Fewest prompt tokens of a step, so that a prompt comes to its end on any machine: at the end
/// of a long context on a slow one, one token can cost half of what eight decodes do.
const FEWEST_TOKENS: usize = 4;

/// Steps shorter than this disturb nobody; and clocks are no good for them.
const SHORT: Duration = Duration::from_millis(2);

/// How much one measurement moves the estimate.
const WEIGHT: f64 = 0.25;

/// After so many steps with prompts in them what a decode alone takes is measured anew.
const STALE_AFTER: u32 = 128;

/// What steps have taken.
#[derive(Debug)]
pub(super) struct Pace {
    /// How many times as long as a step that only decodes one with prompts may take.
    max_slowdown: f64,
    decode: Option<DecodeTime>,
    /// Seconds that each prompt token adds to a step.
    per_token: Option<f64>,
}

#[derive(Debug)]
struct DecodeTime {
    num_decodes: usize,
    seconds: f64,
    /// Steps since.
    age: u32,
}

/// What a step was made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct StepMix {
    pub(super) num_decodes: usize,
    pub(super) num_prompt_tokens: usize,
}

impl Pace {
    pub(super) fn new(max_slowdown: f32) -> Self {
        Self {
            max_slowdown: f64::from(max_slowdown),
            decode: None,
            per_token: None,
        }
    }

    /// Most prompt tokens beside `num_decodes` running answers, of `most` that there is room
    /// for. None at all where it is not known what these decodes take by themselves: the step
    /// that follows tells.
    pub(super) fn prompt_tokens(&self, num_decodes: usize, most: usize) -> usize {
        if num_decodes == 0 || !self.max_slowdown.is_finite() {
            return most;
        }
        let Some(decode) = self
            .decode
            .as_ref()
            .filter(|time| time.holds_for(num_decodes))
        else {
            return 0;
        };
        let Some(per_token) = self.per_token else {
            return FIRST_TOKENS.min(most);
        };
        let spare = (decode.seconds * (self.max_slowdown - 1.0)).max(SHORT.as_secs_f64());
        let tokens = spare / per_token.max(1e-9);
        // Far below what a float or a usize holds: `most` bounds it.
        let tokens = if tokens < most as f64 {
            tokens as usize
        } else {
            most
        };
        tokens.max(FEWEST_TOKENS).min(most)
    }

    /// Takes in what a step took.
    pub(super) fn note(&mut self, mix: StepMix, took: Duration) {
        let seconds = took.as_secs_f64();
        let StepMix {
            num_decodes,
            num_prompt_tokens,
        } = mix;
        if num_prompt_tokens == 0 {
            self.note_decode(num_decodes, seconds);
            return;
        }
        let decode = match &mut self.decode {
            _ if num_decodes == 0 => 0.0,
            None => return,
            Some(decode) => {
                decode.age += 1;
                decode.seconds
            }
        };
        let per_token = (seconds - decode).max(0.0) / num_prompt_tokens as f64;
        self.per_token = Some(moved(self.per_token, per_token));
    }

    fn note_decode(&mut self, num_decodes: usize, seconds: f64) {
        let known = self
            .decode
            .as_ref()
            .filter(|time| time.holds_for(num_decodes));
        self.decode = Some(DecodeTime {
            num_decodes,
            seconds: moved(known.map(|time| time.seconds), seconds),
            age: 0,
        });
    }
}

impl DecodeTime {
    /// Whether it tells what `num_decodes` take: it is new, and they are about as many.
    fn holds_for(&self, num_decodes: usize) -> bool {
        self.age < STALE_AFTER && num_decodes.abs_diff(self.num_decodes) <= self.num_decodes / 4 + 1
    }
}

fn moved(known: Option<f64>, measured: f64) -> f64 {
    known.map_or(measured, |known| known + WEIGHT * (measured - known))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which `n` decodes take 10 ms and each prompt token `per_token_us`.
    fn took(mix: StepMix, per_token_us: u64) -> Duration {
        let decode = Duration::from_millis(if mix.num_decodes > 0 { 10 } else { 0 });
        decode + Duration::from_micros(per_token_us * mix.num_prompt_tokens as u64)
    }

    /// Runs `count` steps with eight answers; prompt tokens of each.
    fn steps(pace: &mut Pace, count: usize, per_token_us: impl Fn(usize) -> u64) -> Vec<usize> {
        (0..count)
            .map(|step| {
                let num_prompt_tokens = pace.prompt_tokens(8, 512);
                let mix = StepMix {
                    num_decodes: 8,
                    num_prompt_tokens,
                };
                pace.note(mix, took(mix, per_token_us(step)));
                num_prompt_tokens
            })
            .collect()
    }

    #[test]
    fn a_step_with_prompts_takes_as_long_as_is_allowed() {
        let mut pace = Pace::new(2.5);
        // 15 ms to spare at 100 µs a token.
        let tokens = steps(&mut pace, 60, |_| 100);
        assert_eq!(tokens[..2], [0, FIRST_TOKENS]);
        assert_eq!(tokens[2..], [150; 58]);
    }

    #[test]
    fn it_follows_a_cost_that_grows_with_the_context() {
        let mut pace = Pace::new(2.5);
        let cost = |step: usize| 100 + step as u64;
        let tokens = steps(&mut pace, 120, cost);
        for (step, tokens) in tokens.iter().enumerate().skip(2) {
            let mix = StepMix {
                num_decodes: 8,
                num_prompt_tokens: *tokens,
            };
            assert!(took(mix, cost(step)) <= Duration::from_millis(26));
        }
    }

    #[test]
    fn it_measures_anew_after_a_while_and_when_the_company_changes() {
        let mut pace = Pace::new(2.5);
        let tokens = steps(&mut pace, 2 * STALE_AFTER as usize + 10, |_| 100);
        assert_eq!(tokens.iter().filter(|tokens| **tokens == 0).count(), 3);
        assert!(pace.prompt_tokens(9, 512) > 0);
        assert_eq!(pace.prompt_tokens(16, 512), 0);
        assert_eq!(pace.prompt_tokens(0, 512), 512);
    }

    #[test]
    fn steps_that_take_no_time_are_not_held_back() {
        let mut pace = Pace::new(2.5);
        pace.note(
            StepMix {
                num_decodes: 1,
                num_prompt_tokens: 0,
            },
            Duration::from_micros(3),
        );
        pace.note(
            StepMix {
                num_decodes: 0,
                num_prompt_tokens: 64,
            },
            Duration::from_micros(9),
        );
        assert_eq!(pace.prompt_tokens(1, 4096), 4096);
        let never = Pace::new(f32::INFINITY);
        assert_eq!(never.prompt_tokens(8, 512), 512);
    }

    #[test]
    fn a_slow_machine_still_reads_its_prompts() {
        let mut pace = Pace::new(2.0);
        let tokens = steps(&mut pace, 20, |_| 100_000);
        assert_eq!(tokens[..2], [0, FIRST_TOKENS]);
        assert_eq!(tokens[2..], [FEWEST_TOKENS; 18]);
        assert_eq!(pace.prompt_tokens(8, 3), 3);
    }
}
