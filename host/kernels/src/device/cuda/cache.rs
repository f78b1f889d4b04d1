//! [`KernelCache`]: compiled kernels in a folder.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use sha2::{Digest, Sha256};

use super::nvrtc::Nvrtc;
use crate::device::{DeviceError, launch::Specialization, sources};

/// Modules that are compiled at once.
const COMPILERS: usize = 8;

/// Kernels compiled for one architecture and [`Specialization`], by module, in files named
/// `{module}-{architecture}-{key}.cubin`. The key covers all that a module is made of but the
/// compiler, so that kernels compiled elsewhere are found where there is no compiler.
#[derive(Debug, Clone)]
pub struct KernelCache {
    folder: PathBuf,
    bundle: Option<PathBuf>,
}

/// A compiled module.
pub(super) struct Cubin {
    pub(super) module: &'static str,
    pub(super) image: Vec<u8>,
    /// The file that it was read from or written to.
    pub(super) path: PathBuf,
}

impl KernelCache {
    /// A cache in `folder`, which is made when something is written to it.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            bundle: None,
        }
    }

    /// Also looks in `folder`, which came with the program and is never written to.
    #[must_use]
    pub fn with_bundle(self, folder: PathBuf) -> Self {
        Self {
            bundle: Some(folder),
            ..self
        }
    }

    /// Where compiled kernels are written to.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Compiles every module that is not in the cache for GPUs of a compute capability, such as
    /// `(9, 0)`. Needs neither a GPU nor a driver; without NVRTC only if nothing is missing. Gives
    /// the files of all modules.
    ///
    /// # Errors
    /// [`DeviceError::Launch`] where `specialization` has no kernels; [`DeviceError::Library`] or
    /// [`DeviceError::Unusable`] without a compiler; [`DeviceError::Compile`], also where a file
    /// cannot be written.
    pub fn prepare(
        &self,
        compute_capability: (u32, u32),
        specialization: Specialization,
    ) -> Result<Vec<PathBuf>, DeviceError> {
        let cubins = self.cubins(compute_capability, specialization, true)?;
        Ok(cubins.into_iter().map(|cubin| cubin.path).collect())
    }

    /// All modules, read or compiled. `must_keep`: it is an error if one that was compiled cannot
    /// be written; else it is compiled again next time.
    pub(super) fn cubins(
        &self,
        compute_capability: (u32, u32),
        specialization: Specialization,
        must_keep: bool,
    ) -> Result<Vec<Cubin>, DeviceError> {
        specialization.check()?;
        let architecture = architecture(compute_capability);
        let options = options(&architecture, specialization);
        let mut cubins = Vec::new();
        let mut missing = Vec::new();
        for &(name, source) in sources::modules() {
            let module = name.trim_end_matches(".cu");
            let key = key(source, &options);
            let file = format!("{module}-{architecture}-{key}.cubin");
            match self.read(&file) {
                Some((path, image)) => cubins.push(Cubin {
                    module,
                    image,
                    path,
                }),
                None => missing.push((module, source, self.folder.join(file))),
            }
        }
        if missing.is_empty() {
            return Ok(cubins);
        }
        let compiler = Nvrtc::load()?;
        let compiled = in_threads(&missing, |(module, source, path)| {
            let image = compiler.compile(module, source, sources::headers(), &options)?;
            match write(path, &image) {
                Err(error) if must_keep => Err(DeviceError::Compile {
                    module: (*module).to_owned(),
                    reason: format!("{}: {error}", path.display()),
                }),
                _ => Ok(Cubin {
                    module,
                    image,
                    path: path.clone(),
                }),
            }
        });
        for cubin in compiled {
            cubins.push(cubin?);
        }
        Ok(cubins)
    }

    /// A file's path and content, from the bundle or the folder.
    fn read(&self, file: &str) -> Option<(PathBuf, Vec<u8>)> {
        let folders = self.bundle.iter().chain([&self.folder]);
        folders.map(|folder| folder.join(file)).find_map(|path| {
            let image = fs::read(&path).ok()?;
            (!image.is_empty()).then_some((path, image))
        })
    }

    /// Compiled modules that are there, for whatever they were compiled.
    pub(super) fn count(&self) -> usize {
        let folders = self.bundle.iter().chain([&self.folder]);
        let files = folders.flat_map(fs::read_dir).flatten().flatten();
        files
            .filter(|file| {
                file.path()
                    .extension()
                    .is_some_and(|ending| ending == "cubin")
            })
            .count()
    }
}

/// As the compiler names it. `a` is what Hopper's own instructions need, and what runs on no other
/// architecture: as does any cubin.
fn architecture((major, minor): (u32, u32)) -> String {
    match (major, minor) {
        (9, 0) => "sm_90a".to_owned(),
        _ => format!("sm_{major}{minor}"),
    }
}

/// Nothing that trades exactness for speed is among them.
fn options(architecture: &str, specialization: Specialization) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".to_owned(),
        "--generate-line-info".to_owned(),
        // What is not a kernel is for the device: there is no host to compile for.
        "--device-as-default-execution-space".to_owned(),
    ];
    let defines = specialization.defines();
    options.extend(defines.map(|(name, value)| format!("--define-macro={name}={value}")));
    options
}

/// 128 bits, in hexadecimal, of all that a module is made of.
fn key(source: &str, options: &[String]) -> String {
    let mut hash = Sha256::new();
    let headers = sources::headers()
        .iter()
        .flat_map(|(name, text)| [*name, *text]);
    let parts = options
        .iter()
        .map(String::as_str)
        .chain(headers)
        .chain([source]);
    for part in parts {
        // The length keeps parts apart.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize()[..16]
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// So that whoever reads it finds all of it or nothing.
fn write(path: &Path, image: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let unfinished = path.with_extension(format!("{}.part", std::process::id()));
    let written = fs::write(&unfinished, image).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // It may never have come to be.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// `f` of every item, in their order, by several threads. They are own threads, for the pool's
/// have small stacks and a compiler recurses deeply.
fn in_threads<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let work = || {
        while let Some((index, item)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            items.get(index).map(|item| (index, item))
        } {
            let result = f(item);
            results
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((index, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..COMPILERS.min(items.len()) {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
