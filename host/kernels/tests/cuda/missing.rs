//! What is said where something is missing, and what is found where nothing is.

use gapura_kernels::device::{CudaDevice, Device, probe};

use super::{BF16, open, refused, with_all};
use crate::stand_in::{ALL, Scene, act, skipped};

/// Shows what the device says where only `libraries` are there. Where the machine has the missing
/// one itself, nothing can be shown.
fn is_refused(test: &str, libraries: &[&str], settings: &[(&str, &str)], expected: &[&str]) {
    let scene = Scene {
        libraries,
        settings,
    };
    act(test, &[scene], |_, place| {
        if libraries != ALL && probe(&place.cache()).iter().all(|finding| finding.ok) {
            skipped("this machine has all of CUDA");
            return;
        }
        let message = refused(place).to_string();
        for part in expected {
            assert!(message.contains(part), "`{part}` in `{message}`");
        }
    });
}

#[test]
fn no_driver() {
    let expected = ["libcuda.so.1", "NVIDIA's driver", "--gpus all"];
    is_refused("missing::no_driver", &[], &[], &expected);
}

#[test]
fn half_a_driver() {
    is_refused(
        "missing::half_a_driver",
        &["bare"],
        &[],
        &["libcuda.so.1 has no cu", "not a whole driver"],
    );
}

#[test]
fn an_old_driver() {
    let settings = [("STAND_IN_VERSION", "11080")];
    is_refused(
        "missing::an_old_driver",
        ALL,
        &settings,
        &["CUDA 11.8", "CUDA 12.0 is needed", "525"],
    );
}

#[test]
fn a_driver_without_gpu() {
    let settings = [("STAND_IN_INIT", "100")];
    is_refused(
        "missing::a_driver_without_gpu",
        ALL,
        &settings,
        &["finds no GPU", "nvidia-smi"],
    );
}

#[test]
fn a_driver_that_does_not_start() {
    let settings = [("STAND_IN_INIT", "803")];
    let expected = ["does not start", "SYSTEM_DRIVER_MISMATCH"];
    is_refused(
        "missing::a_driver_that_does_not_start",
        ALL,
        &settings,
        &expected,
    );
}

#[test]
fn a_driver_that_counts_no_gpu() {
    let settings = [("STAND_IN_DEVICES", "0")];
    is_refused(
        "missing::a_driver_that_counts_no_gpu",
        ALL,
        &settings,
        &["finds no GPU"],
    );
}

#[test]
fn a_gpu_without_bfloat16() {
    let settings = [("STAND_IN_CAPABILITY", "75")];
    let expected = ["compute capability 7.5", "8.0", "GGUF", "Ampere"];
    is_refused("missing::a_gpu_without_bfloat16", ALL, &settings, &expected);
}

#[test]
fn no_compiler_and_no_kernels() {
    let expected = [
        "libnvrtc.so cannot be loaded",
        "nvidia-cuda-nvrtc",
        "LD_LIBRARY_PATH",
    ];
    is_refused(
        "missing::no_compiler_and_no_kernels",
        &["driver", "blas"],
        &[],
        &expected,
    );
}

#[test]
fn an_old_compiler() {
    let settings = [("STAND_IN_NVRTC", "11.8")];
    is_refused(
        "missing::an_old_compiler",
        ALL,
        &settings,
        &["NVRTC 11.8", "NVRTC 12.0 is needed"],
    );
}

#[test]
fn a_compiler_that_is_newer_than_the_driver() {
    let scene = |settings| Scene {
        libraries: ALL,
        settings,
    };
    let scenes = [
        scene(&[("STAND_IN_NVRTC", "13.0")]),
        // The driver is newer, too; then the compiler is not, and has nothing to do.
        scene(&[("STAND_IN_NVRTC", "13.0"), ("STAND_IN_VERSION", "13000")]),
        scene(&[("STAND_IN_NVRTC", "13.0")]),
    ];
    act(
        "missing::a_compiler_that_is_newer_than_the_driver",
        &scenes,
        |number, place| {
            let findings = probe(&place.cache());
            let finding = findings.iter().find(|finding| finding.what == "NVRTC");
            assert_eq!(finding.unwrap().ok, number == 1);
            if number > 0 {
                drop(open(place));
                return;
            }
            let error = refused(place);
            assert!(error.is_absence() && !error.is_fatal());
            let expected = "NVRTC 13.0 needs a driver for CUDA 13, and NVIDIA's driver is for CUDA \
                            12.0: install the library of CUDA 12 (`pip install \
                            \"nvidia-cuda-nvrtc-cu12\"`) and set LD_LIBRARY_PATH to its folder, or \
                            install a newer driver";
            assert_eq!(error.to_string(), expected);
            assert_eq!(finding.unwrap().detail, expected);
            assert!(place.logged("compile ").is_empty());
        },
    );
}

#[test]
fn a_matrix_library_that_is_newer_than_the_driver() {
    let settings = [("STAND_IN_BLAS", "130001")];
    with_all(
        "missing::a_matrix_library_that_is_newer_than_the_driver",
        &settings,
        |place| {
            let message = refused(place).to_string();
            let expected = "cuBLASLt, version 130001, needs a driver for CUDA 13, and NVIDIA's driver \
                            is for CUDA 12.0: install the library of CUDA 12 (`pip install \
                            \"nvidia-cublas-cu12\"`)";
            assert!(message.starts_with(expected), "{message}");
            let findings = probe(&place.cache());
            let finding = findings.iter().find(|finding| finding.what == "cuBLASLt");
            assert!(!finding.unwrap().ok);
            assert_eq!(finding.unwrap().detail, message);
        },
    );
}

#[test]
fn no_matrix_library() {
    let expected = ["libcublasLt.so cannot be loaded", "nvidia-cublas"];
    is_refused(
        "missing::no_matrix_library",
        &["driver", "nvrtc"],
        &[],
        &expected,
    );
}

#[test]
fn no_such_gpu() {
    with_all(
        "missing::no_such_gpu",
        &[("STAND_IN_DEVICES", "2")],
        |place| {
            assert!(CudaDevice::open(1, BF16, &place.cache()).is_ok());
            let error = CudaDevice::open(2, BF16, &place.cache()).err().unwrap();
            let message = "there is no GPU 2: there are 2, counted from 0";
            assert_eq!(error.to_string(), message);
        },
    );
}

#[test]
fn a_whole_machine_is_found() {
    let settings = [("STAND_IN_DEVICES", "2")];
    with_all("missing::a_whole_machine_is_found", &settings, |place| {
        let findings = probe(&place.cache());
        let found: Vec<_> = findings
            .iter()
            .map(|f| (f.what, f.ok, f.detail.as_str()))
            .collect();
        let kernels = format!("0 compiled modules in {}", place.cache().folder().display());
        let gpu = |detail| ("GPU", true, detail);
        assert_eq!(
            found,
            [
                ("CUDA driver", true, "CUDA 12.0"),
                gpu("0: Stand-in 0, compute capability 9.0, 1.0 of 1.0 GiB free"),
                gpu("1: Stand-in 1, compute capability 9.0, 1.0 of 1.0 GiB free"),
                ("cuBLASLt", true, "version 120304"),
                ("NVRTC", true, "NVRTC 12.0"),
                ("kernel cache", true, kernels.as_str()),
            ]
        );
        let device = open(place);
        assert_eq!(device.properties().name, "Stand-in 0");
        assert_eq!(device.properties().num_multiprocessors, 132);
        assert_eq!(device.properties().shared_bytes_per_block, 227 << 10);
    });
}
