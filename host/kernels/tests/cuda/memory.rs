//! Bytes arrive, and memory is given back.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use gapura_kernels::device::{
    Address, CudaDevice, Device, DeviceError, Gemm, Op, Region, Transfer,
};

use super::{bytes_of, double, open, pattern, product, read, refused, with_all};

#[test]
fn transfers_arrive() {
    with_all("memory::transfers_arrive", &[], |place| {
        let mut device = open(place);
        // Rows and their bytes: odd ones, more than both buffers hold, a row longer than one.
        let sizes = [
            (3, 17),
            (1, 1),
            (70_001, 1003),
            (0, 5),
            (5, 0),
            (2, 33 << 20),
            (1000, 4096),
        ];
        let data: Vec<_> = (0..)
            .zip(sizes)
            .map(|(i, (rows, bytes))| pattern(i, rows * bytes))
            .collect();
        let regions: Vec<_> = data
            .iter()
            .map(|data| device.allocate(data.len() as u64).unwrap())
            .collect();
        let threads = Mutex::new(BTreeSet::new());
        let filled: Vec<Mutex<Vec<_>>> = sizes.map(|(rows, _)| Mutex::new(vec![0; rows])).into();
        let transfers: Vec<_> = (0..sizes.len())
            .map(|i| Transfer {
                to: regions[i],
                rows: sizes[i].0,
                row_bytes: sizes[i].1,
                fill: {
                    let (data, threads, filled, row_bytes) =
                        (&data[i], &threads, &filled[i], sizes[i].1);
                    Box::new(move |rows, out| {
                        threads
                            .lock()
                            .unwrap()
                            .insert(format!("{:?}", std::thread::current().id()));
                        filled.lock().unwrap()[rows.clone()]
                            .iter_mut()
                            .for_each(|times| *times += 1);
                        out.copy_from_slice(&data[rows.start * row_bytes..rows.end * row_bytes]);
                    })
                },
            })
            .collect();
        let mut progress = Vec::new();
        device
            .transfer(&transfers, &mut |done| progress.push(done))
            .unwrap();
        let total: u64 = data.iter().map(|data| data.len() as u64).sum();
        let copies = place.logged("copy ").into_iter();
        let copied: u64 = copies.map(|line| line[5..].parse::<u64>().unwrap()).sum();
        assert_eq!(copied, total, "all is there when it returns");
        for (i, (rows, bytes)) in sizes.into_iter().enumerate() {
            assert!(read(&mut device, regions[i]) == data[i], "transfer {i}");
            if bytes > 0 {
                assert_eq!(*filled[i].lock().unwrap(), vec![1; rows]);
            }
        }
        assert!(progress.is_sorted());
        assert_eq!(progress.last(), Some(&total));
        let num_threads = std::thread::available_parallelism().unwrap().get().min(2);
        assert!(threads.lock().unwrap().len() >= num_threads);
        // Again, with the same buffers.
        device.transfer(&transfers[2..3], &mut |_| ()).unwrap();
        assert!(read(&mut device, regions[2]) == data[2]);
    });
}

#[test]
fn written_bytes_are_taken_at_once() {
    with_all("memory::written_bytes_are_taken_at_once", &[], |place| {
        let mut device = open(place);
        let sizes = [3, 4096, 1, 70_000, 9 << 20, 8, 0, 5, 5, 5, 5, 300_001];
        let regions: Vec<_> = sizes.map(|size| device.allocate(size + 2).unwrap()).into();
        let mut bytes = Vec::new();
        for (seed, region) in (0..).zip(&regions) {
            // The same memory each time, and nothing waits in between.
            bytes.clear();
            bytes.extend(pattern(seed, region.bytes as usize - 2));
            device
                .write(region.slice(1, region.bytes - 1), &bytes)
                .unwrap();
        }
        bytes.fill(0);
        for (seed, region) in (0..).zip(&regions) {
            let read = read(&mut device, *region);
            let end = read.len() - 1;
            assert!(read[1..end] == pattern(seed, end - 1), "write {seed}");
            assert_eq!(
                (read[0], read[end]),
                (0xab, 0xab),
                "neighbours of write {seed}"
            );
        }
    });
}

#[test]
fn memory_is_what_was_allocated() {
    let settings = [("STAND_IN_MEMORY", "50000000")];
    with_all("memory::memory_is_what_was_allocated", &settings, |place| {
        let mut device = open(place);
        let free = device.free_bytes().unwrap();
        let region = device.allocate(1000).unwrap();
        assert_eq!(region.address.0 % 256, 0);
        assert_eq!(device.free_bytes().unwrap(), free - 1000);
        let error = device.allocate(free).unwrap_err();
        let expected = DeviceError::OutOfMemory {
            required: free,
            available: free - 1000,
        };
        assert_eq!(error, expected);

        let beyond = Region {
            address: region.address.offset(1),
            bytes: 1000,
        };
        let before = Region {
            address: Address(region.address.0 - 1),
            bytes: 1,
        };
        let is_outside =
            |result: Result<(), DeviceError>| matches!(result, Err(DeviceError::Outside { .. }));
        for wrong in [beyond, before] {
            assert!(is_outside(
                device.write(wrong, &vec![0; wrong.bytes as usize])
            ));
            assert!(is_outside(device.read_back(wrong).map(|_| ())));
            assert!(is_outside(device.free(wrong)));
        }
        assert!(is_outside(device.write(region, &[0; 1001])));
        let is_called = AtomicBool::new(false);
        let transfer = |rows, row_bytes| Transfer {
            to: region,
            rows,
            row_bytes,
            fill: Box::new(|_, _| is_called.store(true, Ordering::Relaxed)),
        };
        for (rows, row_bytes) in [(7, 143), (usize::MAX, usize::MAX)] {
            assert!(is_outside(device.transfer(
                &[transfer(1, 8), transfer(rows, row_bytes)],
                &mut |_| ()
            )));
        }
        assert!(!is_called.load(Ordering::Relaxed));

        // Work that uses it is done before it goes.
        device.run(&[double(region, 0.0)]).unwrap();
        device.free(region).unwrap();
        assert!(is_outside(device.free(region)));
        assert_eq!(device.free_bytes().unwrap(), free);
    });
}

#[test]
fn dropping_frees_everything() {
    with_all("memory::dropping_frees_everything", &[], |place| {
        let mut device = open(place);
        let regions = [1 << 20, 64, 0].map(|bytes| device.allocate(bytes).unwrap());
        device.write(regions[0], &[1; 1000]).unwrap();
        let transfer = Transfer {
            to: regions[0],
            rows: 1000,
            row_bytes: 1000,
            fill: Box::new(|_, out| out.fill(1)),
        };
        device.transfer(&[transfer], &mut |_| ()).unwrap();
        device.free(regions[1]).unwrap();
        let recording = device.record(&[double(regions[0], 0.0)]).unwrap();
        device.replay(recording).unwrap();
        let gemm = Gemm {
            x: regions[0].address,
            w: regions[0].address,
            out: regions[0].address.offset(4096),
            ..product([2, 3, 8], 1, 1)
        };
        device.run(&[Op::Gemm(gemm)]).unwrap();
        // One copy is asked for, one is not.
        read(&mut device, regions[0]);
        device.read_back(regions[0]).unwrap();
        device.run(&[double(regions[0], 0.0)]).unwrap();
        // Another thread takes it over, and drops it.
        std::thread::spawn(move || {
            assert_eq!(read(&mut device, regions[0]).len(), 1 << 20);
            device.run(&[double(regions[0], 0.0)]).unwrap();
        })
        .join()
        .unwrap();
        assert_eq!(
            place.logged("released"),
            ["released: memory 0 pinned 0 events 0 streams 0 modules 0 graphs 0 executables 0"]
        );
        assert_eq!(place.logged("run ").len(), 3);
    });
}

#[test]
fn opening_that_fails_frees_everything() {
    let settings = [("STAND_IN_FAIL", "cuEventCreate:2:2")];
    with_all(
        "memory::opening_that_fails_frees_everything",
        &settings,
        |place| {
            let error = refused(place).to_string();
            assert_eq!(error, "cuEventCreate failed: CUDA_ERROR_OUT_OF_MEMORY");
            assert_eq!(
                place.logged("released"),
                ["released: memory 0 pinned 0 events 0 streams 0 modules 0 graphs 0 executables 0"]
            );
        },
    );
}

/// Calls `f` in a thread that has never used the device.
fn elsewhere<T: Send>(device: &mut CudaDevice, f: impl FnOnce(&mut CudaDevice) -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(move || f(device)).join().unwrap())
}

#[test]
fn any_thread_may_use_it() {
    with_all("memory::any_thread_may_use_it", &[], |place| {
        let device = &mut open(place);
        let x = elsewhere(device, |device| device.allocate(4).unwrap());
        let other = elsewhere(device, |device| device.allocate(4).unwrap());
        let data = bytes_of(&[1.0]);
        elsewhere(device, |device| device.write(x, &data).unwrap());
        elsewhere(device, |device| {
            let transfer = Transfer {
                to: other,
                rows: 1,
                row_bytes: 4,
                fill: Box::new(|_, out| out.copy_from_slice(&data)),
            };
            device.transfer(&[transfer], &mut |_| ()).unwrap();
        });
        elsewhere(device, |device| device.run(&[double(x, 0.0)]).unwrap());
        let recording = elsewhere(device, |device| device.record(&[double(x, 0.0)]).unwrap());
        elsewhere(device, |device| device.replay(recording).unwrap());
        elsewhere(device, |device| device.time(&[double(x, 0.0)], 1).unwrap());
        let readback = elsewhere(device, |device| device.read_back(x).unwrap());
        let bytes = elsewhere(device, |device| device.wait(readback).unwrap());
        assert_eq!(bytes, bytes_of(&[8.0]));
        assert_eq!(read(device, other), data);
        elsewhere(device, |device| device.free(x).unwrap());
        elsewhere(device, |device| device.free_bytes().unwrap());
    });
}
