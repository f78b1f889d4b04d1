//! Attention by kernels and by the reference. Pages lie in any order; whatever no query sees, in
//! the caches or in the block tables, is not a number or not a block.

mod decode;
mod plain;
mod prefill;

use gapura_kernels::device::{KV_BLOCK, Specialization};
use rand::{rngs::StdRng, seq::SliceRandom};

use crate::support;

/// Key heads of every case.
const KV_HEADS: u32 = 2;

/// What a table entry holds that nobody may read.
const NO_BLOCK: u32 = u32::MAX;

/// Sequences in pages: activations as bytes, and block tables.
struct Sequences {
    k: Vec<u8>,
    v: Vec<u8>,
    tables: Vec<u32>,
    table_stride: u32,
}

impl Sequences {
    /// Of each sequence the positions that are there.
    fn new(rng: &mut StdRng, for_: Specialization, positions: &[std::ops::Range<u32>]) -> Self {
        let entries =
            |range: &std::ops::Range<u32>| range.start / KV_BLOCK..range.end.div_ceil(KV_BLOCK);
        let table_stride = positions
            .iter()
            .map(|range| entries(range).end)
            .max()
            .unwrap_or(0)
            + 3;
        let used: u32 = positions
            .iter()
            .map(|range| entries(range).len() as u32)
            .sum();
        // Blocks that belong to nobody lie in between.
        let mut blocks: Vec<u32> = (0..used + 5).collect();
        blocks.shuffle(rng);
        let mut tables = vec![NO_BLOCK; positions.len() * table_stride as usize];
        let dim = for_.head_dim;
        let row_bytes = dim as usize * for_.precision.bytes() as usize;
        let rows = (used + 5) * KV_HEADS * KV_BLOCK;
        let mut caches = [(); 2].map(|()| vec![0xff_u8; rows as usize * row_bytes]);
        for (sequence, range) in positions.iter().enumerate() {
            for entry in entries(range) {
                let block = blocks.pop().unwrap();
                tables[sequence * table_stride as usize + entry as usize] = block;
                for position in
                    (entry * KV_BLOCK..(entry + 1) * KV_BLOCK).filter(|it| range.contains(it))
                {
                    for head in 0..KV_HEADS {
                        let row = (block * KV_HEADS + head) * KV_BLOCK + position % KV_BLOCK;
                        for cache in &mut caches {
                            let values = support::normal(rng, dim as usize, 1.0);
                            let bytes = support::act_bytes(for_.precision, &values);
                            cache[row as usize * row_bytes..][..row_bytes].copy_from_slice(&bytes);
                        }
                    }
                }
            }
        }
        let [k, v] = caches;
        Self {
            k,
            v,
            tables,
            table_stride,
        }
    }
}

fn first_visible(length: u32, window: u32) -> u32 {
    match window {
        0 => 0,
        window => length.saturating_sub(window),
    }
}

/// Queries whose scores differ by a few.
fn queries(rng: &mut StdRng, for_: Specialization, rows: usize) -> Vec<u8> {
    let count = rows * (KV_HEADS * for_.group * for_.head_dim) as usize;
    support::act_bytes(for_.precision, &support::normal(rng, count, 2.0))
}

fn scale(for_: Specialization) -> f32 {
    1.0 / (for_.head_dim as f32).sqrt()
}

/// Heads of models, and some that threads do not share evenly.
fn heads() -> Vec<Specialization> {
    let odd = [
        support::bf16(48, 5),
        support::f32(240, 2),
        support::bf16(208, 8),
    ];
    [support::specializations().as_slice(), &odd].concat()
}
