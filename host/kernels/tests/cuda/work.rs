//! Work is done in order, when it is waited for, and fails with a reason.

use gapura_kernels::device::{Device, DeviceError, Readback, Recording};

use super::{bytes_of, double, f32s, open, read, with_all};

#[test]
fn work_is_done_in_order() {
    with_all("work::work_is_done_in_order", &[], |place| {
        let mut device = open(place);
        let x = device.allocate(12).unwrap();
        device.write(x, &bytes_of(&[1.0, 2.0, 3.0])).unwrap();
        device.run(&[double(x, 0.5), double(x, 1.0)]).unwrap();
        let first = device.read_back(x).unwrap();
        device.write(x, &bytes_of(&[7.0])).unwrap();
        device.run(&[double(x.slice(0, 8), 0.0)]).unwrap();
        let second = device.read_back(x.slice(0, 8)).unwrap();
        let third = device.read_back(x.slice(8, 0)).unwrap();
        device.run(&[double(x, 0.0)]).unwrap();
        assert!(
            place.logged("run ").is_empty(),
            "nothing waits before it is told to"
        );
        assert_eq!(f32s(&device.wait(second).unwrap()), [14.0, 20.0]);
        // The last operation is still queued.
        assert_eq!(place.logged("run ").len(), 3);
        assert_eq!(f32s(&device.wait(first).unwrap()), [6.0, 10.0, 14.0]);
        assert_eq!(device.wait(third).unwrap(), [0; 0]);
        assert_eq!(place.logged("run ").len(), 3);
        for gone in [first, Readback(99)] {
            let error = device.wait(gone).unwrap_err();
            assert!(
                error.to_string().contains("there is no readback"),
                "{error}"
            );
        }
    });
}

#[test]
fn recordings_are_replayed() {
    with_all("work::recordings_are_replayed", &[], |place| {
        let mut device = open(place);
        let x = device.allocate(4).unwrap();
        device.write(x, &bytes_of(&[1.0])).unwrap();
        let once = device.record(&[double(x, 1.0)]).unwrap();
        let twice = device.record(&[double(x, 0.0), double(x, 0.0)]).unwrap();
        assert_ne!(once, twice);
        assert_eq!(f32s(&read(&mut device, x)), [1.0], "recording runs nothing");
        device.replay(once).unwrap();
        device.replay(twice).unwrap();
        device.write(x.slice(0, 0), &[]).unwrap();
        device.replay(once).unwrap();
        assert_eq!(f32s(&read(&mut device, x)), [25.0]);
        let error = device.replay(Recording(2)).unwrap_err();
        assert!(
            error.to_string().contains("there is no recording 2"),
            "{error}"
        );
        // What was looked up once is not looked up again.
        assert_eq!(place.logged("get soft_cap").len(), 1);
    });
}

#[test]
fn a_recording_that_fails_leaves_the_device_usable() {
    let settings = [("STAND_IN_FAIL", "cuLaunchKernel:2:1")];
    with_all(
        "work::a_recording_that_fails_leaves_the_device_usable",
        &settings,
        |place| {
            let mut device = open(place);
            let x = device.allocate(4).unwrap();
            device.write(x, &bytes_of(&[1.0])).unwrap();
            let ops = [double(x, 1.0), double(x, 1.0)];
            let error = device.record(&ops).unwrap_err();
            let expected =
                "cuLaunchKernel refused: soft_cap: CUDA_ERROR_INVALID_VALUE, invalid argument";
            assert_eq!(error.to_string(), expected);
            assert!(!error.is_fatal());
            let recording = device.record(&ops).unwrap();
            device.replay(recording).unwrap();
            assert_eq!(f32s(&read(&mut device, x)), [7.0]);
        },
    );
}

#[test]
fn what_is_refused_leaves_the_device_usable() {
    for (fail, call) in [
        ("cuMemHostAlloc:1:2", "cuMemHostAlloc"),
        ("cuEventCreate:3:2", "cuEventCreate"),
        (
            "cuGraphInstantiateWithFlags:1:2",
            "cuGraphInstantiateWithFlags",
        ),
    ] {
        // A process that acts a scene has its settings, which tell the scenes apart.
        if std::env::var("STAND_IN_FAIL").is_ok_and(|set| set != fail) {
            continue;
        }
        with_all(
            "work::what_is_refused_leaves_the_device_usable",
            &[("STAND_IN_FAIL", fail)],
            |place| {
                let mut device = open(place);
                let x = device.allocate(4).unwrap();
                let mut work = || {
                    device.write(x, &bytes_of(&[1.0]))?;
                    let recording = device.record(&[double(x, 1.0)])?;
                    device.replay(recording)?;
                    let readback = device.read_back(x)?;
                    device.wait(readback)
                };
                let error = work().unwrap_err();
                let is_refusal =
                    matches!(&error, DeviceError::Refused { call: it, .. } if *it == call);
                assert!(is_refusal && !error.is_fatal(), "{fail}: {error}");
                assert_eq!(f32s(&work().unwrap()), [3.0]);
            },
        );
    }
}

#[test]
fn time_is_the_devices() {
    with_all("work::time_is_the_devices", &[], |place| {
        let mut device = open(place);
        let x = device.allocate(4).unwrap();
        device.run(&[double(x, 0.0)]).unwrap();
        // A millisecond a launch.
        let seconds = device.time(&[double(x, 0.0), double(x, 0.0)], 3).unwrap();
        assert!((seconds - 0.006).abs() < 1e-9, "{seconds}");
    });
}

#[test]
fn a_lost_context_is_an_error_and_can_be_dropped() {
    let settings = [("STAND_IN_FAIL", "cuEventSynchronize:1:700")];
    with_all(
        "work::a_lost_context_is_an_error_and_can_be_dropped",
        &settings,
        |place| {
            let mut device = open(place);
            let x = device.allocate(64).unwrap();
            device.write(x, &[1; 64]).unwrap();
            device.run(&[double(x, 0.0)]).unwrap();
            let recording = device.record(&[double(x, 0.0)]).unwrap();
            device.replay(recording).unwrap();
            let [first, second] = [0; 2].map(|_| device.read_back(x).unwrap());
            let error = device.wait(first).unwrap_err();
            let expected = "cuEventSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS, an illegal memory \
                        access was encountered";
            assert_eq!(error.to_string(), expected);
            let is_sticky = matches!(error, DeviceError::Driver { is_sticky, .. } if is_sticky);
            assert!(is_sticky && error.is_fatal());
            // What runs nothing is no mere refusal there.
            assert!(device.record(&[double(x, 0.0)]).unwrap_err().is_fatal());
            assert!(device.wait(second).is_err());
            assert!(device.run(&[double(x, 0.0)]).is_err());
            assert!(device.free(x).is_err());
            drop(device);
            assert_eq!(place.logged("released").len(), 1);
        },
    );
}
