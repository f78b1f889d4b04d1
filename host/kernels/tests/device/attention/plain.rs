//! The parts of attention by matrix products.

use gapura_kernels::device::{GatherKv, MaskedSoftmax, Op};

use super::{KV_HEADS, Sequences, heads};
use crate::support::{self, Tolerance};

#[test]
fn gathered_keys_and_values_are_those_of_the_pages() {
    for for_ in heads() {
        for (first, count) in [(0, 1), (0, 40), (15, 2), (17, 100)] {
            let name = format!("{for_:?}: {count} from {first} on");
            support::compare(for_, &name, Tolerance::EXACT, |device| {
                let mut rng = support::rng(5);
                let positions = first..first + count;
                let sequences = Sequences::new(&mut rng, for_, std::slice::from_ref(&positions));
                let bytes =
                    (KV_HEADS * count * for_.head_dim) as usize * for_.precision.bytes() as usize;
                let outs = [(); 2].map(|()| support::allocate(device, bytes));
                let op = GatherKv {
                    k_cache: support::upload(device, &sequences.k).address,
                    v_cache: support::upload(device, &sequences.v).address,
                    table: support::upload(device, &support::u32_bytes(&sequences.tables)).address,
                    k_out: outs[0].address,
                    v_out: outs[1].address,
                    first,
                    count,
                    kv_heads: KV_HEADS,
                    reserved: 0,
                };
                device.run(&[Op::GatherKv(op)]).unwrap();
                outs.map(|out| support::read_acts(device, for_.precision, out))
                    .concat()
            });
        }
    }
}

#[test]
fn softmax_of_scores_is_over_what_each_query_sees() {
    let heads = 3;
    for for_ in [support::bf16(16, 1), support::f32(64, 1)] {
        // Rows, columns, first position, first key.
        for (rows, columns, first_position, first_key) in [
            (1, 1, 0, 0),
            (5, 5, 0, 0),
            (7, 300, 293, 0),
            (40, 530, 900, 410),
            (3, 4, 0, 2),
        ] {
            for (window, cap) in [(0, 0.0), (0, 5.0), (1, 0.0), (17, 5.0), (513, 0.0)] {
                let name = format!("{for_:?}: {rows} x {columns}, window {window}, cap {cap}");
                let results =
                    support::compare(for_, &name, Tolerance::of(for_.precision), |device| {
                        let count = heads * rows * columns;
                        let mut rng = support::rng(1);
                        let mut scores = support::normal(&mut rng, count as usize, 20.0);
                        // What is masked may be anything.
                        for (index, score) in (0..).zip(&mut scores) {
                            if first_key + index % columns > first_position + index / columns % rows
                            {
                                *score = f32::NAN;
                            }
                        }
                        let out = support::allocate(
                            device,
                            count as usize * for_.precision.bytes() as usize,
                        );
                        let op = MaskedSoftmax {
                            scores: support::upload(device, &support::f32_bytes(&scores)).address,
                            out: out.address,
                            heads,
                            rows,
                            columns,
                            first_position,
                            first_key,
                            window,
                            scale: 0.25,
                            cap,
                        };
                        device.run(&[Op::MaskedSoftmax(op)]).unwrap();
                        support::read_acts(device, for_.precision, out)
                    });
                for (index, weights) in (0..).zip(results.chunks_exact(columns as usize)) {
                    let position = first_position + index % rows;
                    let seen = |column: u32| {
                        let key = first_key + column;
                        key <= position && (window == 0 || position - key < window)
                    };
                    let sum: f32 = weights.iter().sum();
                    let expected = f32::from((0..columns).any(seen));
                    assert!(
                        (sum - expected).abs() < 0.02,
                        "{name}: row {index} adds up to {sum}"
                    );
                    let is_zero = |(column, weight): (u32, &f32)| seen(column) || *weight == 0.0;
                    assert!((0..).zip(weights).all(is_zero), "{name}: row {index}");
                }
            }
        }
    }
}
