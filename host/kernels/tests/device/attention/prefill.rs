//! Attention of many query rows a sequence.

use gapura_kernels::device::{
    AttendDecode, AttendPrefill, Device, Op, PREFILL_TILE_ROWS, Precision, PrefillTile,
    Specialization, Upload,
};

use super::{KV_HEADS, Sequences, first_visible, heads, queries, scale};
use crate::support::{self, Tolerance};

struct PrefillCase {
    /// First position and query rows of each sequence.
    sequences: Vec<(u32, u32)>,
    window: u32,
    cap: f32,
}

impl PrefillCase {
    fn rows(&self) -> u32 {
        self.sequences.iter().map(|(_, count)| count).sum()
    }

    /// Tiles, the last rows first: their order is nobody's business.
    fn tiles(&self) -> Vec<PrefillTile> {
        let mut tiles = Vec::new();
        let mut row = 0;
        for (table, &(first_position, count)) in self.sequences.iter().enumerate() {
            for start in (0..count).step_by(PREFILL_TILE_ROWS as usize) {
                tiles.push(PrefillTile {
                    row: row + start,
                    count: (count - start).min(PREFILL_TILE_ROWS),
                    first_position: first_position + start,
                    table: table as u32,
                });
            }
            row += count;
        }
        tiles.reverse();
        tiles
    }

    fn data(&self, for_: Specialization) -> (Sequences, Vec<u8>) {
        let mut rng = support::rng(11);
        let positions: Vec<_> = self
            .sequences
            .iter()
            .map(|(first, count)| first_visible(first + 1, self.window)..first + count)
            .collect();
        let sequences = Sequences::new(&mut rng, for_, &positions);
        let queries = queries(&mut rng, for_, self.rows() as usize);
        (sequences, queries)
    }
}

fn prefill(device: &mut dyn Device, for_: Specialization, case: &PrefillCase) -> Vec<f32> {
    let (sequences, queries) = case.data(for_);
    let tiles = case.tiles();
    // A row more, which is nobody's.
    let row_bytes = queries.len() / case.rows() as usize;
    let out = support::allocate(device, queries.len() + row_bytes);
    let op = AttendPrefill {
        q: support::upload(device, &queries).address,
        k_cache: support::upload(device, &sequences.k).address,
        v_cache: support::upload(device, &sequences.v).address,
        tables: support::upload(device, &support::u32_bytes(&sequences.tables)).address,
        tiles: support::upload(device, tiles.as_bytes()).address,
        out: out.address,
        num_tiles: tiles.len() as u32,
        kv_heads: KV_HEADS,
        table_stride: sequences.table_stride,
        window: case.window,
        scale: scale(for_),
        cap: case.cap,
    };
    device.run(&[Op::AttendPrefill(op)]).unwrap();
    let mut results = support::read_acts(device, for_.precision, out);
    let behind =
        results.split_off(results.len() / (case.rows() as usize + 1) * case.rows() as usize);
    assert!(
        behind.iter().all(|value| value.is_nan()),
        "a row that is not there was written"
    );
    results
}

/// Weights are rounded to bf16, whose error is 2^-9 of a weight; values are about 1, and the
/// result is rounded too.
const PREFILL: Tolerance = Tolerance {
    absolute: 0.012,
    relative: 0.008,
};

fn check_prefill(for_: Specialization, case: &PrefillCase) {
    let name = format!(
        "{for_:?}: sequences {:?}, window {}, cap {}",
        case.sequences, case.window, case.cap
    );
    support::compare(for_, &name, PREFILL, |device| prefill(device, for_, case));
}

#[test]
fn attends_to_all_keys_up_to_its_own() {
    for for_ in heads() {
        if for_.precision != Precision::Bf16 {
            continue;
        }
        for cap in [0.0, 5.0] {
            check_prefill(
                for_,
                &PrefillCase {
                    sequences: vec![
                        (0, 1),
                        (0, 15),
                        (0, 16),
                        (0, 17),
                        (0, 63),
                        (0, 64),
                        (0, 130),
                    ],
                    window: 0,
                    cap,
                },
            );
        }
        // Behind a prefix that is there already.
        check_prefill(
            for_,
            &PrefillCase {
                sequences: vec![(1, 16), (31, 1), (32, 65), (33, 17), (250, 20)],
                window: 0,
                cap: 50.0,
            },
        );
    }
}

#[test]
fn sees_as_far_as_its_window() {
    for for_ in [support::bf16(16, 1), support::bf16(64, 3)] {
        for window in [1, 5, 16, 17, 31, 32, 33, 64, 100] {
            check_prefill(
                for_,
                &PrefillCase {
                    sequences: vec![(0, 70), (15, 17), (16, 64), (40, 66), (99, 5), (100, 1)],
                    window,
                    cap: 50.0,
                },
            );
        }
    }
    check_prefill(
        support::bf16(16, 1),
        &PrefillCase {
            sequences: vec![(4090, 12)],
            window: 4096,
            cap: 50.0,
        },
    );
    // Up to 4095 a row sees all keys; later ones leave out the oldest.
    check_prefill(
        support::bf16(64, 3),
        &PrefillCase {
            sequences: vec![(4094, 1), (4095, 2), (4096, 1), (4100, 17)],
            window: 4096,
            cap: 50.0,
        },
    );
}

/// What a prompt's rows come to does not depend on how they are computed.
#[test]
fn equals_decode_row_by_row() {
    let for_ = support::bf16(256, 2);
    let Some(mut device) = support::kernels(for_, 0) else {
        return;
    };
    let case = PrefillCase {
        sequences: vec![(37, 40)],
        window: 50,
        cap: 50.0,
    };
    let at_once = prefill(&mut *device, for_, &case);
    let (sequences, queries) = case.data(for_);
    let (first, count) = case.sequences[0];
    let tables = sequences.tables.repeat(count as usize);
    let lengths: Vec<u32> = (0..count).map(|row| first + row + 1).collect();
    let out = support::allocate(&mut *device, queries.len());
    let op = AttendDecode {
        q: support::upload(&mut *device, &queries).address,
        k_cache: support::upload(&mut *device, &sequences.k).address,
        v_cache: support::upload(&mut *device, &sequences.v).address,
        tables: support::upload(&mut *device, &support::u32_bytes(&tables)).address,
        lengths: support::upload(&mut *device, &support::u32_bytes(&lengths)).address,
        out: out.address,
        n: count,
        kv_heads: KV_HEADS,
        table_stride: sequences.table_stride,
        window: case.window,
        splits: 1,
        scale: scale(for_),
        cap: case.cap,
        ..AttendDecode::default()
    };
    device.run(&[Op::AttendDecode(op)]).unwrap();
    let one_by_one = support::read_acts(&mut *device, for_.precision, out);
    PREFILL.check("prefill and decode", &one_by_one, &at_once);
}

/// Pieces begin and end anywhere: tiles know nothing of pages.
#[test]
fn a_prompt_in_pieces_attends_as_in_one() {
    let for_ = support::bf16(64, 3);
    let Some(mut device) = support::kernels(for_, 0) else {
        return;
    };
    let whole = PrefillCase {
        sequences: vec![(0, 128)],
        window: 40,
        cap: 50.0,
    };
    let at_once = prefill(&mut *device, for_, &whole);
    let (sequences, queries) = whole.data(for_);
    let row_len = queries.len() / 128;
    let mut pieces = Vec::new();
    for (first, count) in [(0, 7), (7, 64), (71, 57)] {
        let tile = PrefillTile {
            row: 0,
            count,
            first_position: first,
            table: 0,
        };
        let bytes = &queries[first as usize * row_len..][..count as usize * row_len];
        let out = support::allocate(&mut *device, bytes.len());
        let op = AttendPrefill {
            q: support::upload(&mut *device, bytes).address,
            k_cache: support::upload(&mut *device, &sequences.k).address,
            v_cache: support::upload(&mut *device, &sequences.v).address,
            tables: support::upload(&mut *device, &support::u32_bytes(&sequences.tables)).address,
            tiles: support::upload(&mut *device, [tile].as_bytes()).address,
            out: out.address,
            num_tiles: 1,
            kv_heads: KV_HEADS,
            table_stride: sequences.table_stride,
            window: whole.window,
            scale: scale(for_),
            cap: whole.cap,
        };
        device.run(&[Op::AttendPrefill(op)]).unwrap();
        pieces.extend(support::read_acts(&mut *device, for_.precision, out));
    }
    PREFILL.check("pieces", &at_once, &pieces);
}
