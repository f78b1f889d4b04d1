//! [`KvLayer`]: the paged keys and values of one layer.

use crate::error::{KernelError, check_length, checked_product};

/// Tokens per block, and lanes of a vector of scores.
pub const BLOCK_TOKENS: usize = 16;

/// Keys and values of one layer, in blocks of 16 tokens, f32.
///
/// Keys lie as `[num_blocks, kv_heads, head_dim, 16]`: a dimension of all 16 tokens side by
/// side, so that one vector holds the scores of a whole block. Values lie as `[num_blocks,
/// kv_heads, 16, padded head_dim]`, padded to whole vectors of 16. Memory is taken zeroed
/// from the system, which hands it out as blocks are first written.
#[derive(Debug)]
pub struct KvLayer {
    num_blocks: usize,
    kv_heads: usize,
    head_dim: usize,
    padded_dim: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvLayer {
    /// An empty cache.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] if `block_tokens` is not 16 or a size is 0,
    /// [`KernelError::TooLarge`] if the whole does not fit the address space.
    pub fn new(
        num_blocks: usize,
        block_tokens: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Result<Self, KernelError> {
        if block_tokens != BLOCK_TOKENS {
            return Err(KernelError::Unsupported {
                what: "block_tokens",
                value: block_tokens,
                requirement: "16",
            });
        }
        for (what, value) in [("kv_heads", kv_heads), ("head_dim", head_dim)] {
            if value == 0 {
                return Err(KernelError::Unsupported {
                    what,
                    value,
                    requirement: "positive",
                });
            }
        }
        let padded_dim = head_dim.next_multiple_of(16);
        let length = |dim| {
            let block = checked_product("KV block", kv_heads, dim)?;
            let block = checked_product("KV block", block, BLOCK_TOKENS)?;
            checked_product("KV cache", num_blocks, block)
        };
        Ok(Self {
            num_blocks,
            kv_heads,
            head_dim,
            padded_dim,
            keys: vec![0.0; length(head_dim)?],
            values: vec![0.0; length(padded_dim)?],
        })
    }

    /// Bytes that one block takes.
    pub fn block_bytes(kv_heads: usize, head_dim: usize) -> usize {
        (head_dim + head_dim.next_multiple_of(16)) * kv_heads * BLOCK_TOKENS * size_of::<f32>()
    }

    /// Blocks, in use or not.
    pub fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Dimensions of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Writes the keys and values of some tokens of one sequence.
    ///
    /// `k`, `v`: `[n, kv_heads, head_dim]`. `positions`: `[n]`, in the sequence.
    /// `block_table[i]` is the block of positions `16 i .. 16 i + 16`.
    ///
    /// # Errors
    /// [`KernelError::Length`] if `k` or `v` has another length,
    /// [`KernelError::OutOfRange`] if a position has no block or a block is none of this
    /// cache's. Nothing is written then.
    pub fn store(
        &mut self,
        k: &[f32],
        v: &[f32],
        block_table: &[u32],
        positions: &[usize],
    ) -> Result<(), KernelError> {
        let row = self.kv_heads * self.head_dim;
        let length = checked_product("k", positions.len(), row)?;
        check_length("k", k.len(), length)?;
        check_length("v", v.len(), length)?;
        for &position in positions {
            self.checked_block(block_table, position / BLOCK_TOKENS)?;
        }
        let rows = k.chunks_exact(row).zip(v.chunks_exact(row));
        for ((k, v), &position) in rows.zip(positions) {
            let block = block_table[position / BLOCK_TOKENS] as usize;
            let slot = position % BLOCK_TOKENS;
            let heads = k
                .chunks_exact(self.head_dim)
                .zip(v.chunks_exact(self.head_dim));
            for (head, (k, v)) in heads.enumerate() {
                let index = block * self.kv_heads + head;
                let keys = &mut self.keys[index * self.head_dim * BLOCK_TOKENS..];
                for (d, &k) in k.iter().enumerate() {
                    keys[d * BLOCK_TOKENS + slot] = k;
                }
                let start = (index * BLOCK_TOKENS + slot) * self.padded_dim;
                self.values[start..start + self.head_dim].copy_from_slice(v);
            }
        }
        Ok(())
    }

    /// The block of a table's entry `index`.
    pub(crate) fn checked_block(&self, table: &[u32], index: usize) -> Result<usize, KernelError> {
        let Some(&block) = table.get(index) else {
            let limit = table.len();
            return Err(KernelError::OutOfRange {
                what: "block table index",
                value: index,
                limit,
            });
        };
        let block = block as usize;
        if block >= self.num_blocks {
            let limit = self.num_blocks;
            return Err(KernelError::OutOfRange {
                what: "block id",
                value: block,
                limit,
            });
        }
        Ok(block)
    }

    /// Values are padded to so many dimensions.
    pub(crate) fn padded_dim(&self) -> usize {
        self.padded_dim
    }

    /// `[head_dim, 16]` of one head of one block.
    pub(crate) fn keys(&self, block: usize, kv_head: usize) -> &[f32] {
        let length = self.head_dim * BLOCK_TOKENS;
        &self.keys[(block * self.kv_heads + kv_head) * length..][..length]
    }

    /// `[16, padded_dim]` of one head of one block.
    pub(crate) fn values(&self, block: usize, kv_head: usize) -> &[f32] {
        let length = BLOCK_TOKENS * self.padded_dim;
        &self.values[(block * self.kv_heads + kv_head) * length..][..length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_lie_where_the_layout_says() {
        let (heads, dim) = (2, 5);
        let mut kv = KvLayer::new(4, 16, heads, dim).unwrap();
        let positions = [3, 16, 18];
        let k: Vec<f32> = (0..30).map(|i| i as f32).collect();
        let v: Vec<f32> = k.iter().map(|k| -k).collect();
        kv.store(&k, &v, &[2, 1], &positions).unwrap();
        for (i, position) in positions.into_iter().enumerate() {
            let (block, slot) = ([2, 1][position / 16], position % 16);
            for head in 0..heads {
                for d in 0..dim {
                    let value = k[(i * heads + head) * dim + d];
                    assert_eq!(kv.keys(block, head)[d * 16 + slot], value);
                    assert_eq!(kv.values(block, head)[slot * 16 + d], -value);
                }
            }
        }
        assert!(
            kv.keys(0, 0)
                .iter()
                .chain(kv.keys(3, 1))
                .all(|&key| key == 0.0)
        );
        assert_eq!(KvLayer::block_bytes(heads, dim), (5 + 16) * 2 * 16 * 4);
    }

    #[test]
    fn nothing_is_stored_where_something_is_wrong() {
        let mut kv = KvLayer::new(2, 16, 1, 4).unwrap();
        let ones = [1.0; 8];
        let mut message = |k: &[f32], table: &[u32], positions: &[usize]| {
            kv.store(k, &ones, table, positions)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            message(&ones[1..], &[0], &[0, 1]),
            "k holds 7 elements where its shape needs 8"
        );
        assert_eq!(
            message(&ones, &[0], &[15, 16]),
            "block table index is 1, the limit is 1"
        );
        assert_eq!(
            message(&ones, &[0, 2], &[15, 16]),
            "block id is 2, the limit is 2"
        );
        assert!(kv.keys(0, 0).iter().all(|&key| key == 0.0));
    }

    #[test]
    fn shapes_without_a_kernel_are_named() {
        let message =
            |n, tokens, heads, dim| KvLayer::new(n, tokens, heads, dim).unwrap_err().to_string();
        assert_eq!(message(1, 32, 1, 4), "block_tokens is 32, which must be 16");
        assert_eq!(
            message(1, 16, 0, 4),
            "kv_heads is 0, which must be positive"
        );
        assert_eq!(
            message(1, 16, 1, 0),
            "head_dim is 0, which must be positive"
        );
        assert!(message(usize::MAX / 8, 16, 1, 4).contains("does not fit the address space"));
    }
}
