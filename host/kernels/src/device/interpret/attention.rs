//! Attention over pages, and the parts of it where a library multiplies.

use super::{Memory, capped};
use crate::device::{
    Address, DeviceError,
    ops::{
        AttendDecode, AttendPrefill, GatherKv, KV_BLOCK, MaskedSoftmax, MergeSplits, PrefillTile,
    },
};

/// Keys of a tile, of which a split takes whole ones.
const DECODE_TILE_KEYS: usize = 64;

/// Where one sequence's keys and values are.
struct Pages {
    k_cache: Address,
    v_cache: Address,
    table: Address,
    kv_heads: usize,
    dim: usize,
}

impl Pages {
    /// Keys or values of positions `from..to` of one head.
    fn rows(
        &self,
        memory: &Memory<'_>,
        cache: Address,
        kv_head: usize,
        from: usize,
        to: usize,
    ) -> Result<Vec<Vec<f32>>, DeviceError> {
        (from..to)
            .map(|position| {
                let block = memory.u32_at(self.table, position / KV_BLOCK as usize)? as usize;
                let place = position % KV_BLOCK as usize;
                let row = (block * self.kv_heads + kv_head) * KV_BLOCK as usize + place;
                memory.acts(cache, row * self.dim, self.dim)
            })
            .collect()
    }

    /// Attention of one query over keys `from..to`: values weighed, not normalized; the greatest
    /// score; the sum of weights.
    fn attend(
        &self,
        memory: &Memory<'_>,
        q: &[f32],
        kv_head: usize,
        (from, to): (usize, usize),
        (scale, cap): (f32, f32),
    ) -> Result<(Vec<f64>, f64, f64), DeviceError> {
        let keys = self.rows(memory, self.k_cache, kv_head, from, to)?;
        let values = self.rows(memory, self.v_cache, kv_head, from, to)?;
        let scores: Vec<f64> = keys
            .iter()
            .map(|key| {
                let products = q
                    .iter()
                    .zip(key)
                    .map(|(q, k)| f64::from(*q) * f64::from(*k));
                capped(products.sum::<f64>() * f64::from(scale), cap)
            })
            .collect();
        let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        let mut out = vec![0.0; self.dim];
        for (score, value) in scores.iter().zip(&values) {
            let weight = (score - greatest).exp();
            sum += weight;
            for (out, value) in out.iter_mut().zip(value) {
                *out += weight * f64::from(*value);
            }
        }
        Ok((out, greatest, sum))
    }
}

fn first_visible(length: usize, window: u32) -> usize {
    match window {
        0 => 0,
        window => length.saturating_sub(window as usize),
    }
}

pub(super) fn decode(
    memory: &mut Memory<'_>,
    p: &AttendDecode,
    dim: usize,
    group: usize,
) -> Result<(), DeviceError> {
    let (kv_heads, splits) = (p.kv_heads as usize, p.splits as usize);
    let heads = kv_heads * group;
    for row in 0..p.n as usize {
        let length = memory.u32_at(p.lengths, row)? as usize;
        let start = first_visible(length, p.window);
        let pages = Pages {
            k_cache: p.k_cache,
            v_cache: p.v_cache,
            table: p.tables.offset(4 * row as u64 * u64::from(p.table_stride)),
            kv_heads,
            dim,
        };
        let tiles = (length - start).div_ceil(DECODE_TILE_KEYS);
        let keys_per_split = tiles.div_ceil(splits) * DECODE_TILE_KEYS;
        for head in 0..heads {
            let q = memory.acts(p.q, (row * heads + head) * dim, dim)?;
            for split in 0..splits {
                let from = (start + split * keys_per_split).min(length);
                let to = (from + keys_per_split).min(length);
                let (out, greatest, sum) =
                    pages.attend(memory, &q, head / group, (from, to), (p.scale, p.cap))?;
                let index = (row * heads + head) * splits + split;
                if splits == 1 {
                    memory.put_acts(p.out, index * dim, &normalized(&out, sum))?;
                    continue;
                }
                let out: Vec<f32> = out.iter().map(|out| *out as f32).collect();
                memory.put_f32s(p.partial, index * dim, &out)?;
                memory.put_f32s(p.partial_sums, 2 * index, &[greatest as f32, sum as f32])?;
            }
        }
    }
    Ok(())
}

/// Zeros where there was no key.
fn normalized(out: &[f64], sum: f64) -> Vec<f32> {
    let share = if sum > 0.0 { 1.0 / sum } else { 0.0 };
    out.iter().map(|out| (out * share) as f32).collect()
}

pub(super) fn merge(
    memory: &mut Memory<'_>,
    p: &MergeSplits,
    dim: usize,
) -> Result<(), DeviceError> {
    let splits = p.splits as usize;
    for index in 0..(p.n * p.heads) as usize {
        let first = index * splits;
        let sums = memory.f32s(p.partial_sums.offset(8 * first as u64), 2 * splits)?;
        let partial = memory.f32s(p.partial.offset(4 * (first * dim) as u64), splits * dim)?;
        let greatest = sums
            .iter()
            .step_by(2)
            .copied()
            .fold(f32::NEG_INFINITY, f32::max);
        let mut total = 0.0;
        let mut out = vec![0.0; dim];
        for (sums, partial) in sums.chunks_exact(2).zip(partial.chunks_exact(dim)) {
            if sums[1] == 0.0 {
                continue;
            }
            let share = (f64::from(sums[0]) - f64::from(greatest)).exp();
            total += share * f64::from(sums[1]);
            for (out, partial) in out.iter_mut().zip(partial) {
                *out += share * f64::from(*partial);
            }
        }
        memory.put_acts(p.out, index * dim, &normalized(&out, total))?;
    }
    Ok(())
}

pub(super) fn prefill(
    memory: &mut Memory<'_>,
    p: &AttendPrefill,
    dim: usize,
    group: usize,
) -> Result<(), DeviceError> {
    let kv_heads = p.kv_heads as usize;
    let heads = kv_heads * group;
    let words = size_of::<PrefillTile>() / 4;
    let tiles = memory.u32s(p.tiles, p.num_tiles as usize * words)?;
    for tile in tiles.chunks_exact(words) {
        let [row, count, first_position, table] = [tile[0], tile[1], tile[2], tile[3]];
        let pages = Pages {
            k_cache: p.k_cache,
            v_cache: p.v_cache,
            table: p
                .tables
                .offset(4 * u64::from(table) * u64::from(p.table_stride)),
            kv_heads,
            dim,
        };
        for i in 0..count {
            let length = (first_position + i + 1) as usize;
            let from = first_visible(length, p.window);
            for head in 0..heads {
                let index = (row + i) as usize * heads + head;
                let q = memory.acts(p.q, index * dim, dim)?;
                let (out, _, sum) =
                    pages.attend(memory, &q, head / group, (from, length), (p.scale, p.cap))?;
                memory.put_acts(p.out, index * dim, &normalized(&out, sum))?;
            }
        }
    }
    Ok(())
}

pub(super) fn gather(memory: &mut Memory<'_>, p: &GatherKv, dim: usize) -> Result<(), DeviceError> {
    let (first, count) = (p.first as usize, p.count as usize);
    let pages = Pages {
        k_cache: p.k_cache,
        v_cache: p.v_cache,
        table: p.table,
        kv_heads: p.kv_heads as usize,
        dim,
    };
    for head in 0..pages.kv_heads {
        for (cache, out) in [(p.k_cache, p.k_out), (p.v_cache, p.v_out)] {
            let rows = pages.rows(memory, cache, head, first, first + count)?;
            memory.put_acts(out, head * count * dim, &rows.concat())?;
        }
    }
    Ok(())
}

pub(super) fn masked_softmax(
    memory: &mut Memory<'_>,
    p: &MaskedSoftmax,
) -> Result<(), DeviceError> {
    let columns = p.columns as usize;
    for index in 0..(p.heads * p.rows) as usize {
        let position = p.first_position as usize + index % p.rows as usize;
        let from = first_visible(position + 1, p.window);
        let scores = memory.f32s(p.scores.offset(4 * (index * columns) as u64), columns)?;
        let visible = |column: usize| {
            let key = p.first_key as usize + column;
            (from..=position).contains(&key)
        };
        let score = |column: usize| capped(f64::from(scores[column] * p.scale), p.cap);
        let greatest = (0..columns)
            .filter(|column| visible(*column))
            .map(score)
            .fold(f64::NEG_INFINITY, f64::max);
        let weight = |column: usize| match visible(column) {
            true => (score(column) - greatest).exp(),
            false => 0.0,
        };
        let weights: Vec<f64> = (0..columns).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        memory.put_acts(p.out, index * columns, &normalized(&weights, sum))?;
    }
    Ok(())
}
