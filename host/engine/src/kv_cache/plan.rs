//! How many blocks each group gets. All KV memory is planned here and allocated once, so that
//! a running engine never asks for more.

use crate::{
    error::StartError,
    runner::{BLOCK_TOKENS, KvLayout, KvPlan},
};

/// What a plan has to serve, and with how much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlanDemand {
    pub(crate) budget_bytes: u64,
    pub(crate) max_num_seqs: usize,
    pub(crate) max_batched_tokens: usize,
    pub(crate) context_length: usize,
}

/// Most blocks of the windowed group that one sequence holds: those that a chunk of
/// `chunk_tokens` fills and those that its first query still sees, each end in a block that
/// is used in part.
pub(super) fn most_windowed_blocks(window_tokens: usize, chunk_tokens: usize) -> usize {
    (window_tokens + chunk_tokens).div_ceil(BLOCK_TOKENS) + 1
}

impl KvPlan {
    /// Divides the budget. Both groups get the same number of blocks, because short sequences
    /// use both alike; what the windowed group can never use goes to the full one, and what
    /// neither can use is not taken.
    ///
    /// # Errors
    /// [`StartError::KvBudget`] if a block of each group is more than the budget.
    pub(crate) fn for_demand(layout: &KvLayout, demand: &PlanDemand) -> Result<Self, StartError> {
        let step_bytes = layout.full_block_bytes + layout.windowed_block_bytes;
        if step_bytes > demand.budget_bytes {
            return Err(StartError::KvBudget {
                budget_bytes: demand.budget_bytes,
                required_bytes: step_bytes,
            });
        }
        let useful_full = demand.context_length.div_ceil(BLOCK_TOKENS);
        let useful_windowed = useful_full.min(most_windowed_blocks(
            layout.window_tokens,
            demand.max_batched_tokens,
        ));
        let for_all = |per_sequence: usize| {
            u32::try_from(per_sequence.saturating_mul(demand.max_num_seqs)).unwrap_or(u32::MAX)
        };

        let num_windowed_blocks = blocks_in(demand.budget_bytes, step_bytes)
            .min(for_all(useful_windowed))
            .min(blocks_in(u64::MAX, layout.windowed_block_bytes));
        let left =
            demand.budget_bytes - u64::from(num_windowed_blocks) * layout.windowed_block_bytes;
        let num_full_blocks = blocks_in(left, layout.full_block_bytes).min(for_all(useful_full));
        Ok(Self {
            num_full_blocks,
            num_windowed_blocks,
        })
    }

    /// Bytes that both groups take.
    #[must_use]
    pub fn bytes(&self, layout: &KvLayout) -> u64 {
        u64::from(self.num_full_blocks) * layout.full_block_bytes
            + u64::from(self.num_windowed_blocks) * layout.windowed_block_bytes
    }

    /// Most tokens that each of `num_sequences` can have at the same time, `shared_tokens` at
    /// their beginning being held once for all; unlimited where no group grows with it.
    pub(crate) fn tokens_each(
        &self,
        layout: &KvLayout,
        num_sequences: usize,
        shared_tokens: usize,
        chunk_tokens: usize,
    ) -> usize {
        let num_sequences = num_sequences.max(1);
        let shared_blocks = shared_tokens / BLOCK_TOKENS;
        let each = |num_blocks: u32| {
            let own = (num_blocks as usize).saturating_sub(shared_blocks) / num_sequences;
            (shared_blocks + own) * BLOCK_TOKENS
        };
        let mut tokens = usize::MAX;
        if layout.full_block_bytes > 0 {
            tokens = tokens.min(each(self.num_full_blocks));
        }
        let slides = self.num_windowed_blocks as usize / num_sequences
            >= most_windowed_blocks(layout.window_tokens, chunk_tokens);
        if layout.windowed_block_bytes > 0 && !slides {
            tokens = tokens.min(each(self.num_windowed_blocks));
        }
        tokens
    }

    /// Most tokens that one sequence, alone in the pool, can have; at most what was demanded.
    pub(crate) fn context_length(&self, layout: &KvLayout, demand: &PlanDemand) -> usize {
        let mut tokens = demand.context_length;
        if layout.full_block_bytes > 0 {
            tokens = tokens.min(self.num_full_blocks as usize * BLOCK_TOKENS);
        }
        let windowed = self.num_windowed_blocks as usize;
        let slides =
            windowed >= most_windowed_blocks(layout.window_tokens, demand.max_batched_tokens);
        if layout.windowed_block_bytes > 0 && !slides {
            tokens = tokens.min(windowed * BLOCK_TOKENS);
        }
        tokens
    }
}

/// Blocks of `block_bytes` in `bytes`; none of a group without layers.
fn blocks_in(bytes: u64, block_bytes: u64) -> u32 {
    let blocks = bytes.checked_div(block_bytes).unwrap_or(0);
    u32::try_from(blocks).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEMMA: KvLayout = KvLayout {
        full_block_bytes: 1000,
        windowed_block_bytes: 5000,
        window_tokens: 512,
    };

    fn demand(budget_bytes: u64) -> PlanDemand {
        PlanDemand {
            budget_bytes,
            max_num_seqs: 4,
            max_batched_tokens: 512,
            context_length: 32_768,
        }
    }

    #[test]
    fn a_scarce_budget_gives_both_groups_as_many_blocks() {
        let plan = KvPlan::for_demand(&GEMMA, &demand(600_000)).unwrap();
        assert_eq!((plan.num_full_blocks, plan.num_windowed_blocks), (100, 100));
        assert_eq!(plan.bytes(&GEMMA), 600_000);
        assert_eq!(plan.context_length(&GEMMA, &demand(600_000)), 1600);
    }

    #[test]
    fn what_windows_cannot_use_goes_to_the_full_group_and_no_further() {
        // 4 sequences of (512 + 512) / 16 + 1 windowed blocks each.
        let plan = KvPlan::for_demand(&GEMMA, &demand(2_000_000)).unwrap();
        assert_eq!(plan.num_windowed_blocks, 260);
        assert_eq!(plan.num_full_blocks, 700);
        assert_eq!(plan.context_length(&GEMMA, &demand(2_000_000)), 11_200);
        let plan = KvPlan::for_demand(&GEMMA, &demand(u64::MAX)).unwrap();
        assert_eq!(plan.num_full_blocks, 4 * 2048);
        assert_eq!(plan.context_length(&GEMMA, &demand(u64::MAX)), 32_768);
    }

    #[test]
    fn a_model_with_one_group_gets_that_alone() {
        let full = KvLayout {
            windowed_block_bytes: 0,
            window_tokens: 0,
            ..GEMMA
        };
        let plan = KvPlan::for_demand(&full, &demand(100_500)).unwrap();
        assert_eq!((plan.num_full_blocks, plan.num_windowed_blocks), (100, 0));
        let windowed = KvLayout {
            full_block_bytes: 0,
            ..GEMMA
        };
        let plan = KvPlan::for_demand(&windowed, &demand(500_000)).unwrap();
        assert_eq!((plan.num_full_blocks, plan.num_windowed_blocks), (0, 100));
        assert_eq!(plan.context_length(&windowed, &demand(500_000)), 32_768);
    }

    #[test]
    fn several_sequences_divide_what_they_do_not_share() {
        let plan = KvPlan {
            num_full_blocks: 100,
            num_windowed_blocks: 130,
        };
        // Two windows of 65 blocks slide.
        assert_eq!(plan.tokens_each(&GEMMA, 1, 0, 512), 1600);
        assert_eq!(plan.tokens_each(&GEMMA, 2, 0, 512), 800);
        assert_eq!(plan.tokens_each(&GEMMA, 2, 333, 512), (20 + 40) * 16);
        // Three do not.
        assert_eq!(plan.tokens_each(&GEMMA, 3, 0, 512), 33 * 16);
        let few = KvPlan {
            num_windowed_blocks: 60,
            ..plan
        };
        assert_eq!(few.tokens_each(&GEMMA, 3, 0, 512), 20 * 16);
    }

    #[test]
    fn a_budget_below_one_block_each_is_refused() {
        let error = KvPlan::for_demand(&GEMMA, &demand(5999)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a KV budget of 5999 bytes is too small; at least 6000 are needed"
        );
    }
}
