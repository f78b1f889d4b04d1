//! What a device refuses, and what happens when it fails.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use candle_core::quantized::GgmlDType;
use gapura_engine::{
    Checkpoint, DeviceOptions, DeviceRunner, Engine, EngineConfig, LoadError, Quantization,
    TokenEvent,
};
use gapura_kernels::device::{
    Device, DeviceError, DeviceProperties, HostDevice, Op, Precision, Readback, Recording, Region,
    Transfer,
};

use super::{CAPACITY, load, options, prompts, requests, same_ids};
use crate::{
    loading::gguf_of,
    quantized::wide,
    support::{fixture, greedy, run_together},
};

fn refusal(path: &Path, options: DeviceOptions) -> String {
    match load(path, options) {
        Ok(_) => panic!("loaded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_loaded() {
    let path = fixture("tiny-gemma2-b");
    let tight = |specialization| -> Result<Box<dyn Device>, DeviceError> {
        Ok(Box::new(HostDevice::interpreter(specialization, 1 << 20)?))
    };
    let error = DeviceRunner::load(
        &path,
        options(Precision::F32),
        Arc::new(tight),
        &mut |_, _| panic!("something was loaded"),
    );
    let error = error.err().unwrap();
    assert!(
        matches!(error, LoadError::NotEnoughDeviceMemory { .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("0 are free: quantize it"),
        "{error}"
    );
    assert_eq!(
        refusal(&fixture("tiny-llama"), options(Precision::F32)),
        "attention: head_dim is 12, which must be a multiple of 16, from 16 to 256"
    );
}

#[test]
fn a_tensor_that_is_not_a_number_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let from = fixture("tiny-gemma2-b");
    for entry in std::fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let file = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let name = "model.layers.3.mlp.down_proj.weight";
    let start = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header_len + start + 400..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    for quantize in [Quantization::None, Quantization::EightBit] {
        let error = refusal(
            dir.path(),
            DeviceOptions {
                quantize,
                ..options(Precision::F32)
            },
        );
        let expected = format!(
            "tensor `{name}` has values that are infinite or not a number: the file is damaged"
        );
        assert_eq!(error, expected);
    }
}

/// A scale of a block format, which no kernel looks at for its own sake.
#[test]
fn a_gguf_file_with_a_scale_that_is_not_a_number_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mut bytes = gguf_of(wide(|_, _| {}).path(), GgmlDType::Q8_0);
    std::fs::write(&path, &bytes).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let embedding = checkpoint.tensor("model.embed_tokens.weight").unwrap();
    // Its bytes are those of the file, whatever precedes them.
    let start = bytes
        .windows(embedding.bytes().len())
        .position(|window| window == embedding.bytes())
        .unwrap();
    let scale = start + 34 * 5;
    bytes[scale..scale + 2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(
        refusal(&path, options(Precision::F32)),
        "tensor `token_embd.weight` has values that are infinite or not a number: the file is damaged"
    );
}

/// A device whose driver fails when it is told to.
struct Failing {
    device: HostDevice,
    faults: Arc<Faults>,
}

/// What it is told, and what it tells.
#[derive(Default)]
struct Faults {
    fails: AtomicBool,
    is_sticky: AtomicBool,
    opened: AtomicUsize,
}

impl Failing {
    fn check(&self) -> Result<(), DeviceError> {
        match self.faults.fails.swap(false, Relaxed) {
            true => Err(DeviceError::Driver {
                call: "cuLaunchKernel",
                reason: "an illegal memory access was encountered".to_owned(),
                is_sticky: self.faults.is_sticky.load(Relaxed),
            }),
            false => Ok(()),
        }
    }
}

impl Device for Failing {
    fn properties(&self) -> &DeviceProperties {
        self.device.properties()
    }
    fn free_bytes(&self) -> Result<u64, DeviceError> {
        self.device.free_bytes()
    }
    fn allocate(&mut self, bytes: u64) -> Result<Region, DeviceError> {
        self.device.allocate(bytes)
    }
    fn free(&mut self, region: Region) -> Result<(), DeviceError> {
        self.device.free(region)
    }
    fn transfer(
        &mut self,
        transfers: &[Transfer<'_>],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), DeviceError> {
        self.device.transfer(transfers, progress)
    }
    fn write(&mut self, to: Region, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.write(to, bytes)
    }
    fn run(&mut self, ops: &[Op]) -> Result<(), DeviceError> {
        self.check()?;
        self.device.run(ops)
    }
    fn record(&mut self, ops: &[Op]) -> Result<Recording, DeviceError> {
        self.device.record(ops)
    }
    fn replay(&mut self, recording: Recording) -> Result<(), DeviceError> {
        self.check()?;
        self.device.replay(recording)
    }
    fn read_back(&mut self, from: Region) -> Result<Readback, DeviceError> {
        self.device.read_back(from)
    }
    fn wait(&mut self, readback: Readback) -> Result<Vec<u8>, DeviceError> {
        self.device.wait(readback)
    }
    fn time(&mut self, ops: &[Op], times: u32) -> Result<f64, DeviceError> {
        self.device.time(ops, times)
    }
}

/// An engine on such a device.
fn start_failing(faults: &Arc<Faults>) -> Engine {
    let faults = Arc::clone(faults);
    let open = move |specialization| -> Result<Box<dyn Device>, DeviceError> {
        faults.opened.fetch_add(1, Relaxed);
        let device = HostDevice::interpreter(specialization, CAPACITY)?;
        let faults = Arc::clone(&faults);
        Ok(Box::new(Failing { device, faults }))
    };
    let options = options(Precision::F32);
    let path = fixture("tiny-gemma3");
    let loaded = DeviceRunner::load(&path, options, Arc::new(open), &mut |_, _| {}).unwrap();
    let config = EngineConfig {
        max_num_seqs: options.max_num_seqs,
        max_batched_tokens: options.max_batched_tokens,
        kv_bytes: 64 << 20,
        ..EngineConfig::default()
    };
    Engine::start_supervised(Box::new(loaded.runner), loaded.factory, config).unwrap()
}

/// What a request that is under way hears of it when the device fails.
fn failure(engine: &Engine, faults: &Faults) -> String {
    let mut stream = engine.submit(greedy(&prompts()[4], 50)).unwrap();
    assert!(matches!(stream.blocking_next(), Some(TokenEvent::Token(_))));
    faults.fails.store(true, Relaxed);
    match std::iter::from_fn(|| stream.blocking_next()).last() {
        Some(TokenEvent::Failed(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

const MESSAGE: &str = "the model could not run a step: cuLaunchKernel failed: an illegal memory access was encountered";

/// The requests of the step hear of it, the device is opened and the model loaded again, and what
/// follows is answered as ever. It shows in the call that begins the next step, before the step
/// that failed is read.
#[test]
fn a_device_that_fails_is_opened_again() {
    let faults = Arc::new(Faults::default());
    let engine = start_failing(&faults);
    let expected = run_together(&engine, requests());
    assert_eq!(failure(&engine, &faults), MESSAGE);
    same_ids(&run_together(&engine, requests()), &expected);
    assert_eq!(faults.opened.load(Relaxed), 2);
    assert_eq!(engine.stats().restarts, 1);
}

/// After what no process recovers from, nothing is tried: the engine ends, which ends the gateway.
#[test]
fn a_device_that_fails_for_good_ends_the_engine() {
    let faults = Arc::new(Faults::default());
    faults.is_sticky.store(true, Relaxed);
    let engine = start_failing(&faults);
    assert_eq!(failure(&engine, &faults), MESSAGE);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(engine.ended());
    assert_eq!(faults.opened.load(Relaxed), 1);
    assert!(engine.submit(greedy(&[2, 7], 1)).is_err());
}
