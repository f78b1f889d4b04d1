//! Products by the library are those of the reference: which side is transposed, what shares what,
//! where each lies.

use gapura_kernels::device::{CudaDevice, Device, Gemm, HostDevice, Op, Precision, Specialization};

use super::{BF16, F32, bytes_of, open, product, read, with_all};

/// Products as they come: plain ones, and those of attention, whose rows and batches lie askew.
fn products() -> Vec<Gemm> {
    let attention = |w_is_kn| Gemm {
        // 6 heads of 16, side by side in each row, in groups of 3.
        x_stride: 96,
        x_batch_stride: 16,
        w_is_kn,
        ..product([5, 7, 16], 6, 3)
    };
    let kn = Gemm {
        w_is_kn: 1,
        w_stride: 9,
        ..product([5, 9, 4], 1, 1)
    };
    vec![
        product([1, 1, 1], 1, 1),
        product([5, 3, 8], 1, 1),
        product([5, 3, 8], 4, 1),
        product([2, 3, 8], 4, 4),
        // The last w is shared by fewer.
        product([2, 3, 8], 5, 2),
        product([2, 3, 8], 2, 0),
        product([0, 3, 8], 2, 1),
        Gemm {
            x_stride: 11,
            w_stride: 12,
            out_stride: 13,
            ..product([5, 3, 8], 1, 1)
        },
        kn,
        attention(0),
        Gemm {
            w_stride: 10,
            w_batch_stride: 160,
            // Heads side by side again.
            out_stride: 42,
            out_batch_stride: 7,
            ..attention(1)
        },
    ]
}

/// Products that the device and the reference compute from the same bytes.
fn products_agree(device: &mut CudaDevice, for_: Specialization) {
    let bytes = 1 << 13;
    let mut reference = HostDevice::interpreter(for_, 1 << 20).unwrap();
    let values: Vec<f32> = (0..bytes / 4)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 16.0)
        .collect();
    let filling = match for_.precision {
        Precision::F32 => bytes_of(&values),
        Precision::Bf16 => values
            .iter()
            .flat_map(|value| half::bf16::from_f32(*value).to_le_bytes())
            .collect(),
    };
    // Addresses at the end of alignment: the library must be told how little there is.
    let offset = 2 * for_.precision.bytes();
    let mut results = Vec::new();
    for place in [device as &mut dyn Device, &mut reference] {
        let [x, w, out] = [0; 3].map(|_| place.allocate(2 * bytes).unwrap());
        place.write(x, &filling).unwrap();
        place.write(w, &filling).unwrap();
        for gemm in products() {
            for flags in 0..4 {
                place.write(out, &vec![0x77; 2 * bytes as usize]).unwrap();
                let gemm = Gemm {
                    x: x.address.offset(offset),
                    w: w.address.offset(offset),
                    out: out.address.offset(4),
                    out_is_f32: flags & 1,
                    allow_tf32: flags >> 1,
                    ..gemm
                };
                place.run(&[Op::Gemm(gemm)]).unwrap();
                let readback = place.read_back(out).unwrap();
                results.push((gemm, place.wait(readback).unwrap()));
            }
        }
    }
    let (ours, theirs) = results.split_at(results.len() / 2);
    for ((gemm, ours), (_, theirs)) in ours.iter().zip(theirs) {
        assert!(ours == theirs, "{gemm:?}");
    }
}

#[test]
fn products_are_row_major() {
    with_all("products::products_are_row_major", &[], |place| {
        products_agree(&mut open(place), BF16);
        assert!(place.logged("product tf32").is_empty());
        products_agree(&mut CudaDevice::open(0, F32, &place.cache()).unwrap(), F32);
        assert!(!place.logged("product tf32").is_empty());
        assert_eq!(
            place.logged("blas objects left").last().unwrap(),
            "blas objects left 0 0 0 0"
        );
    });
}

#[test]
fn products_are_planned_once() {
    with_all("products::products_are_planned_once", &[], |place| {
        let mut device = open(place);
        let [x, w, out] = [0; 3].map(|_| device.allocate(4096).unwrap().address);
        let gemm = |n| {
            Op::Gemm(Gemm {
                x,
                w,
                out,
                ..product([n, 8, 8], 4, 2)
            })
        };
        device.run(&[gemm(16), gemm(16)]).unwrap();
        let recording = device.record(&[gemm(16), gemm(32)]).unwrap();
        device.replay(recording).unwrap();
        device.replay(recording).unwrap();
        let memory = device.allocate(1).unwrap();
        read(&mut device, memory);
        // Columns, rows, inner, products: two batches of two, equally aligned.
        assert_eq!(place.logged("plan "), ["plan 8 16 8 2", "plan 8 32 8 2"]);
        assert_eq!(place.logged("product ").len(), 2 * (2 + 2 * 2));
        // So many shapes that older plans go.
        for n in 4..1200 {
            let unwritten = Gemm {
                x,
                w,
                out,
                ..product([n, 1, 1], 1, 1)
            };
            device.run(&[Op::Gemm(unwritten)]).unwrap();
        }
        device.run(&[gemm(16)]).unwrap();
        assert_eq!(place.logged("plan 8 16 8 2").len(), 2);
    });
}

#[test]
fn a_product_that_the_library_cannot_compute() {
    with_all(
        "products::a_product_that_the_library_cannot_compute",
        &[],
        |place| {
            let mut device = open(place);
            let wrong = Gemm {
                x_stride: 7,
                ..product([2, 3, 8], 1, 1)
            };
            let error = device.run(&[Op::Gemm(wrong)]).unwrap_err();
            let expected = "cublasLtMatmulAlgoGetHeuristic refused: CUBLAS_STATUS_INVALID_VALUE";
            assert_eq!(error.to_string(), expected);
        },
    );
}
