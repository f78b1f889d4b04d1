//! What a machine has of all that a [`CudaDevice`](super::CudaDevice) needs.

use super::{
    cache::KernelCache,
    driver::{Driver, Gpu},
    gemm,
    nvrtc::Nvrtc,
};
use crate::device::DeviceError;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `CUDA driver`, `GPU`, `cuBLASLt`, `NVRTC` or `kernel cache`.
    pub what: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was found, in a line.
    pub detail: String,
    /// What to do about it.
    pub advice: Option<String>,
}

/// Looks at everything that a [`CudaDevice`](super::CudaDevice) needs. Never fails, whatever is
/// missing; takes and gives back the context of each GPU that it finds.
#[must_use]
pub fn probe(cache: &KernelCache) -> Vec<Finding> {
    let driver = Driver::load();
    let mut findings = vec![finding(
        "CUDA driver",
        driver.clone().map(|driver| driver.to_string()),
    )];
    if let Ok(driver) = driver {
        match driver.count() {
            Ok(count) => findings.extend((0..count).map(|ordinal| gpu(driver, ordinal))),
            Err(error) => findings.push(finding("GPU", Err(error))),
        }
    }
    findings.push(finding(
        "cuBLASLt",
        match driver {
            Ok(driver) => gemm::load_for(driver),
            Err(_) => gemm::load(),
        }
        .map(|version| format!("version {version}")),
    ));
    let compiler = Nvrtc::load().and_then(|compiler| {
        if let Ok(driver) = driver {
            compiler.check_runs_with(driver)?;
        }
        Ok(compiler)
    });
    let can_compile = compiler.is_ok();
    findings.push(finding(
        "NVRTC",
        compiler.map(|compiler| compiler.to_string()),
    ));
    findings.push(kernels(cache, can_compile));
    findings
}

fn finding(what: &'static str, found: Result<String, DeviceError>) -> Finding {
    let (ok, detail, advice) = match found {
        Ok(detail) => (true, detail, None),
        Err(DeviceError::Library { library, advice }) => {
            (false, format!("{library} is not there"), Some(advice))
        }
        Err(error) => (false, error.to_string(), None),
    };
    Finding {
        what,
        ok,
        detail,
        advice,
    }
}

fn gpu(driver: Driver, ordinal: u32) -> Finding {
    let describe = |gpu: Gpu| {
        gpu.check()?;
        let properties = &gpu.properties;
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let memory = match gpu
            .context()
            .and_then(|context| context.free_and_total_bytes())
        {
            Ok((free, total)) => format!("{:.1} of {:.1} GiB free", gib(free), gib(total)),
            Err(error) => format!("{:.1} GiB, {error}", gib(properties.total_bytes)),
        };
        let (major, minor) = properties.compute_capability;
        let name = &properties.name;
        Ok(format!(
            "{ordinal}: {name}, compute capability {major}.{minor}, {memory}"
        ))
    };
    finding("GPU", driver.gpu(ordinal).and_then(describe))
}

fn kernels(cache: &KernelCache, can_compile: bool) -> Finding {
    let count = cache.count();
    let ok = count > 0 || can_compile;
    Finding {
        what: "kernel cache",
        ok,
        detail: format!("{count} compiled modules in {}", cache.folder().display()),
        advice: (!ok).then(|| {
            "without NVRTC, kernels must have been compiled elsewhere and be put there".to_owned()
        }),
    }
}
