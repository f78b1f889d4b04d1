//! Kernels are compiled once, kept, found and launched.

use std::path::PathBuf;

use gapura_kernels::device::{
    AttendPrefill, CudaDevice, Device, DeviceError, Embed, KernelCache, MatrixFormat, Op,
    Specialization,
};

use super::{BF16, F32, open, read, refused, with_all};
use crate::stand_in::{ALL, Scene, act, skipped};

#[test]
fn kernels_compiled_elsewhere_need_no_compiler() {
    let scene = |libraries| Scene {
        libraries,
        settings: &[],
    };
    // First a machine without a GPU, then one without a compiler.
    let scenes = [scene(&["nvrtc"][..]), scene(&["driver", "blas"])];
    act(
        "kernels::kernels_compiled_elsewhere_need_no_compiler",
        &scenes,
        |number, place| match number {
            0 => {
                let files = place.cache().prepare((9, 0), BF16).unwrap();
                let compiled = place.logged("compile ");
                assert_eq!(compiled.len(), files.len());
                for line in &compiled {
                    let (module, options) = line[8..].split_once(' ').unwrap();
                    let expected = "--gpu-architecture=sm_90a --std=c++17 --generate-line-info \
                                    --device-as-default-execution-space \
                                    --define-macro=GAPURA_F32=0";
                    let dim = " --define-macro=HEAD_DIM=256";
                    let macros = match module {
                        "attend_decode.cu" | "attend_prefill.cu" => {
                            format!("{dim} --define-macro=GROUP=2")
                        }
                        "attend_plain.cu" | "rope_kv.cu" => dim.to_owned(),
                        _ => String::new(),
                    };
                    assert_eq!(options, format!("{expected}{macros}"), "{module}");
                }
                assert_eq!(
                    place.cache().prepare((9, 0), BF16).unwrap().len(),
                    files.len()
                );
                assert_eq!(
                    place.logged("compile ").len(),
                    files.len(),
                    "nothing is compiled twice"
                );
                let mut names = std::fs::read_dir(place.cache().folder()).unwrap();
                let are_whole =
                    names.all(|name| name.unwrap().path().extension().unwrap() == "cubin");
                assert!(are_whole);
                // Another architecture, another specialization.
                place.cache().prepare((8, 6), BF16).unwrap();
                place.cache().prepare((9, 0), F32).unwrap();
                let compiled = place.logged("compile ");
                assert_eq!(compiled.len(), 3 * files.len());
                assert!(compiled.iter().any(|line| line.contains("sm_86 ")));
                // Other heads: of the modules that know nothing of them none is compiled again.
                let other = Specialization { group: 4, ..BF16 };
                place.cache().prepare((9, 0), other).unwrap();
                let other = Specialization {
                    head_dim: 64,
                    ..other
                };
                place.cache().prepare((9, 0), other).unwrap();
                assert_eq!(place.logged("compile ").len(), 3 * files.len() + 2 + 4);
            }
            _ => {
                drop(open(place));
                let bundle =
                    KernelCache::new(place.path("empty")).with_bundle(place.path("kernels"));
                drop(CudaDevice::open(0, BF16, &bundle).unwrap());
                assert!(!place.path("empty").exists());
            }
        },
    );
}

#[test]
fn kernels_of_an_older_architecture_run_on_a_newer_one() {
    let scene = |settings| Scene {
        libraries: ALL,
        settings,
    };
    let scenes = [
        scene(&[("STAND_IN_CAPABILITY", "89")]),
        // An older one, another major, and one with but an `a` below it.
        scene(&[("STAND_IN_CAPABILITY", "80")]),
        scene(&[("STAND_IN_CAPABILITY", "100")]),
        scene(&[("STAND_IN_CAPABILITY", "91")]),
    ];
    act(
        "kernels::kernels_of_an_older_architecture_run_on_a_newer_one",
        &scenes,
        |number, place| {
            let compiled = || place.logged("compile ").len();
            if number > 0 {
                let before = compiled();
                drop(open(place));
                assert!(compiled() > before);
                return;
            }
            let files = place.cache().prepare((8, 6), BF16).unwrap();
            place.cache().prepare((9, 0), BF16).unwrap();
            drop(open(place));
            assert_eq!(compiled(), 2 * files.len(), "those of 8.6 are taken");
            // What is not there of any is compiled for the device's own.
            std::fs::remove_file(&files[0]).unwrap();
            drop(open(place));
            assert_eq!(compiled(), 2 * files.len() + 1);
            assert!(place.logged("compile ")[2 * files.len()].contains("sm_89 "));
            // Told to, it compiles for the device's own.
            place.cache().prepare((8, 9), BF16).unwrap();
            assert_eq!(compiled(), 3 * files.len());
        },
    );
}

#[test]
fn a_kernel_that_does_not_compile() {
    let settings = [("STAND_IN_SYNTAX", "elementwise.cu")];
    let expected = ["`elementwise`", "line 7: error: expected a \";\""];
    with_all(
        "kernels::a_kernel_that_does_not_compile",
        &settings,
        |place| {
            let message = refused(place).to_string();
            for part in expected {
                assert!(message.contains(part), "{message}");
            }
            // The others are kept.
            std::fs::read_dir(place.cache().folder())
                .unwrap()
                .next()
                .unwrap()
                .unwrap();
        },
    );
}

#[test]
fn a_broken_file_in_the_cache() {
    with_all("kernels::a_broken_file_in_the_cache", &[], |place| {
        let files = place.cache().prepare((9, 0), BF16).unwrap();
        std::fs::write(&files[0], "something else").unwrap();
        let message = refused(place).to_string();
        assert!(
            message.contains(&files[0].display().to_string()),
            "{message}"
        );
        for part in ["INVALID_IMAGE", "this one for CUDA 12.0", "delete it"] {
            assert!(message.contains(part), "{message}");
        }
    });
}

#[test]
fn launches_say_what_kernels_need() {
    with_all("kernels::launches_say_what_kernels_need", &[], |place| {
        let mut device = open(place);
        // Queries and keys of 256 columns take more shared memory than a kernel has unasked.
        let prefill = AttendPrefill {
            num_tiles: 3,
            kv_heads: 4,
            ..AttendPrefill::default()
        };
        let empty = Embed {
            hidden: 8,
            ..Embed::default()
        };
        let ops = [
            Op::Embed(empty, MatrixFormat::Bf16),
            Op::AttendPrefill(prefill),
        ];
        device.run(&ops).unwrap();
        let memory = device.allocate(1).unwrap();
        read(&mut device, memory);
        // Nothing to do is not an error, and no launch.
        assert_eq!(
            place.logged("run "),
            ["run attend_prefill grid 3 8 1 block 128 shared 67584"]
        );
        let wrong = Embed {
            n: 1,
            hidden: 7,
            ..empty
        };
        let error = device
            .run(&[ops[1], Op::Embed(wrong, MatrixFormat::Bf16)])
            .unwrap_err();
        assert!(
            matches!(
                error,
                DeviceError::Launch {
                    op: "embed",
                    value: 7,
                    ..
                }
            ),
            "{error}"
        );
        read(&mut device, memory);
        assert_eq!(
            place.logged("run ").len(),
            1,
            "nothing is queued of a list that is wrong"
        );
    });
}

#[test]
fn every_module_compiles() {
    let Some(folder) = compiler() else {
        skipped("there is no NVRTC, which `pip install nvidia-cuda-nvrtc` would bring");
        return;
    };
    let scene = Scene {
        libraries: &[&folder],
        settings: &[],
    };
    act("kernels::every_module_compiles", &[scene], |_, place| {
        for (capability, specialization) in [((9, 0), BF16), ((8, 0), F32)] {
            let files = place.cache().prepare(capability, specialization).unwrap();
            for file in files {
                let image = std::fs::read(&file).unwrap();
                assert!(image.starts_with(b"\x7fELF"), "{}", file.display());
            }
        }
    });
}

/// Where the tests' own copy of the compiler is, or where LD_LIBRARY_PATH says.
fn compiler() -> Option<String> {
    let has_compiler = |folder: &PathBuf| folder.join("libnvrtc.so.13").exists();
    let own = std::env::home_dir()?.join(".cache/gapura/cuda-toolkit/venv/lib");
    let versions = std::fs::read_dir(own).into_iter().flatten().flatten();
    let own = versions.map(|python| python.path().join("site-packages/nvidia/cu13/lib"));
    let given = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders = own.chain(std::env::split_paths(&given));
    folders
        .find(has_compiler)?
        .into_os_string()
        .into_string()
        .ok()
}
