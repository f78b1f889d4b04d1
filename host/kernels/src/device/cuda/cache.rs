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

use super::{driver::Driver, nvrtc::Nvrtc};
use crate::device::{DeviceError, launch::Specialization, sources};

/// The macro that every module is compiled for: what activations are is a matter of `device.cuh`.
const PRECISION: &str = "GAPURA_F32";

/// Modules that are compiled at once.
const COMPILERS: usize = 8;

/// Kernels compiled for one architecture and what their module reads of a [`Specialization`], by
/// module, in files named `{module}-{architecture}-{key}.cubin`. The key covers all that a module
/// is made of but the compiler, so that kernels compiled elsewhere are found where there is no
/// compiler.
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
        let cubins = self.cubins(compute_capability, specialization, None)?;
        Ok(cubins.into_iter().map(|cubin| cubin.path).collect())
    }

    /// All modules, read or compiled. For a driver, of any architecture that runs on the device;
    /// where one that was compiled cannot be written, it is compiled again next time. For none, of
    /// the device's own architecture, and it is an error if one cannot be written.
    pub(super) fn cubins(
        &self,
        compute_capability: (u32, u32),
        specialization: Specialization,
        driver: Option<Driver>,
    ) -> Result<Vec<Cubin>, DeviceError> {
        specialization.check()?;
        let own = architecture(compute_capability);
        let older = match driver {
            Some(_) => older_architectures(compute_capability),
            None => Vec::new(),
        };
        let mut cubins = Vec::new();
        let mut missing = Vec::new();
        for &(name, source) in sources::modules() {
            let module = name.trim_end_matches(".cu");
            let file = |architecture: &str, options: &[String]| {
                format!("{module}-{architecture}-{}.cubin", key(source, options))
            };
            let options_of = |architecture: &str| options(architecture, source, specialization);
            let options = options_of(&own);
            let found = self.read(&file(&own, &options)).or_else(|| {
                let mut older = older.iter();
                older.find_map(|other| self.read(&file(other, &options_of(other))))
            });
            match found {
                Some((path, image)) => cubins.push(Cubin {
                    module,
                    image,
                    path,
                }),
                None => {
                    let path = self.folder.join(file(&own, &options));
                    missing.push((module, source, options, path));
                }
            }
        }
        if missing.is_empty() {
            return Ok(cubins);
        }
        let compiler = Nvrtc::load()?;
        if let Some(driver) = driver {
            compiler.check_runs_with(driver)?;
        }
        let compiled = in_threads(&missing, |(module, source, options, path)| {
            let image = compiler.compile(module, source, sources::headers(), options)?;
            match write(path, &image) {
                Err(error) if driver.is_none() => Err(DeviceError::Compile {
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

/// As the compiler names it. A cubin runs on its architecture and on those of the same major with a
/// greater minor. With `a`, which Hopper's own instructions need, it runs on its own alone.
fn architecture((major, minor): (u32, u32)) -> String {
    match (major, minor) {
        (9, 0) => "sm_90a".to_owned(),
        _ => format!("sm_{major}{minor}"),
    }
}

/// Others whose cubins run there too, the newest first.
fn older_architectures((major, minor): (u32, u32)) -> Vec<String> {
    let older = (0..minor).rev().map(|minor| architecture((major, minor)));
    older.filter(|name| !name.ends_with('a')).collect()
}

/// Nothing that trades exactness for speed is among them. Macros only as far as the source reads
/// them, so that one cubin serves all specializations that do not differ in it.
fn options(architecture: &str, source: &str, specialization: Specialization) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".to_owned(),
        "--generate-line-info".to_owned(),
        // What is not a kernel is for the device: there is no host to compile for.
        "--device-as-default-execution-space".to_owned(),
    ];
    let defines = specialization.defines().into_iter();
    let defines = defines.filter(|(name, _)| *name == PRECISION || reads(source, name));
    options.extend(defines.map(|(name, value)| format!("--define-macro={name}={value}")));
    options
}

/// Whether a source, or a header that it includes, has `name` as a word outside its comments.
fn reads(source: &str, name: &str) -> bool {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    source.lines().any(|line| {
        let code = line.split("//").next().unwrap_or_default();
        let header = code.strip_prefix("#include \"").and_then(|rest| {
            let file = rest.split('"').next()?;
            sources::headers().iter().find(|(name, _)| *name == file)
        });
        header.is_some_and(|(_, text)| reads(text, name))
            || code.split(|c| !is_of_word(c)).any(|word| word == name)
    })
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
