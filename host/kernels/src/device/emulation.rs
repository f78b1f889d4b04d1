//! Compiles the kernels' sources for this machine, for [`HostDevice::emulator`].
//!
//! [`HostDevice::emulator`]: super::HostDevice::emulator

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rayon::prelude::*;

use super::{DeviceError, Specialization, sources};

/// Beside the macros. No multiplication and addition is contracted that the source does not
/// contract.
const FLAGS: [&str; 8] = [
    "-O2",
    "-std=c++17",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-Wno-unknown-pragmas",
    "-DGAPURA_EMULATED",
];

/// Variables that are not initialized hold a pattern, so that their use shows. Compilers before
/// GCC 12 and Clang 8 do not know it.
const FLAG_OF_NEWER: &str = "-ftrivial-auto-var-init=pattern";

/// Of a module for this machine: its names within a namespace that no other translation unit
/// shares.
const WRAPPER: &str = "#include \"emulation.h\"\nnamespace gapura { namespace {\n\
                       #include MODULE\n} }\n";

/// Whether there is a C++ compiler for the machine that this runs on: `CXX`, or `c++`.
#[must_use]
pub fn has_compiler() -> bool {
    let machine = Command::new(compiler()).arg("-dumpmachine").output();
    machine.is_ok_and(|output| output.stdout.starts_with(std::env::consts::ARCH.as_bytes()))
}

/// The library of all kernels for `specialization`, in `folder`, built where it is not there yet.
/// Several processes may do this at the same time.
///
/// # Errors
/// [`DeviceError::Compile`] with the compiler's log; [`DeviceError::Library`] where there is no
/// compiler or `folder` cannot be written.
pub fn build(specialization: Specialization, folder: &Path) -> Result<PathBuf, DeviceError> {
    let owned = |(name, text): (&str, &str)| (name.to_owned(), text.to_owned());
    let files: Vec<_> = sources::files().into_iter().map(owned).collect();
    build_files(&files, specialization, folder)
}

/// The same of other sources: names and texts, of the files that [`source_names`] lists.
///
/// # Errors
/// As [`build`].
pub fn build_files(
    files: &[(String, String)],
    specialization: Specialization,
    folder: &Path,
) -> Result<PathBuf, DeviceError> {
    let library = folder.join(format!(
        "kernels-{:016x}.so",
        hash_of(&(files, specialization, flags(), compiler()))
    ));
    if library.exists() {
        return Ok(library);
    }
    fs::create_dir_all(folder).map_err(|error| unwritable(folder, &error))?;
    let build = Build {
        folder: folder.to_owned(),
        work: unused_name(folder),
        specialization,
    };
    let result = build.run(files, &library);
    // What is left in a folder of its own disturbs nobody.
    drop(fs::remove_dir_all(&build.work));
    result.map(|()| library)
}

/// The names of the files that a library is made of.
#[must_use]
pub fn source_names() -> Vec<&'static str> {
    sources::files().into_iter().map(|(name, _)| name).collect()
}

/// One build, with its folder for what is under way.
struct Build {
    folder: PathBuf,
    work: PathBuf,
    specialization: Specialization,
}

impl Build {
    fn run(&self, files: &[(String, String)], library: &Path) -> Result<(), DeviceError> {
        let write = |name: &str, text: &str| {
            let path = self.work.join(name);
            fs::write(&path, text).map_err(|error| unwritable(&path, &error))
        };
        fs::create_dir_all(&self.work).map_err(|error| unwritable(&self.work, &error))?;
        for (name, text) in files {
            write(name, text)?;
        }
        write("wrapper.cpp", WRAPPER)?;
        let units: Vec<&str> = files
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| name.ends_with(".cu") || name.ends_with(".cpp"))
            .collect();
        let objects = units.par_iter().map(|unit| self.object(unit));
        let objects = objects.collect::<Result<Vec<_>, _>>()?;

        let unfinished = self.work.join("kernels.so");
        let mut link = self.command();
        link.arg("-shared")
            .args(&objects)
            .arg("-o")
            .arg(&unfinished);
        run(link, "emulation")?;
        fs::rename(&unfinished, library).map_err(|error| unwritable(library, &error))
    }

    /// Compiles a file, unless its text after the preprocessor has been compiled before: what does
    /// not depend on a part of the specialization is compiled once for all of them.
    fn object(&self, unit: &str) -> Result<PathBuf, DeviceError> {
        let source = match unit.ends_with(".cu") {
            true => "wrapper.cpp",
            false => unit,
        };
        let command = || {
            let mut command = self.command();
            command.arg(source).arg(format!("-DMODULE=\"{unit}\""));
            command
        };
        let mut preprocess = command();
        preprocess.args(["-E", "-P"]);
        let text = run(preprocess, unit)?;
        let object = self.folder.join(format!(
            "{unit}-{:016x}.o",
            hash_of(&(text, flags(), compiler()))
        ));
        if !object.exists() {
            let unfinished = self.work.join(format!("{unit}.o"));
            let mut compile = command();
            compile.arg("-c").arg("-o").arg(&unfinished);
            run(compile, unit)?;
            fs::rename(&unfinished, &object).map_err(|error| unwritable(&object, &error))?;
        }
        Ok(object)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(compiler());
        command.current_dir(&self.work).args(flags());
        for (name, value) in self.specialization.defines() {
            command.arg(format!("-D{name}={value}"));
        }
        command
    }
}

/// Runs the compiler, and gives what it prints.
fn run(mut command: Command, module: &str) -> Result<Vec<u8>, DeviceError> {
    let output = command.output().map_err(|error| DeviceError::Library {
        library: "a C++ compiler",
        advice: format!("{} ({error}); install g++, or set CXX", compiler()),
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(DeviceError::Compile {
        module: module.to_owned(),
        reason: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn compiler() -> String {
    std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned())
}

fn flags() -> &'static [&'static str] {
    static FOUND: LazyLock<Vec<&str>> = LazyLock::new(|| {
        let mut probe = Command::new(compiler());
        probe.args([FLAG_OF_NEWER, "-E", "-x", "c++", "/dev/null"]);
        let knows = probe.output().is_ok_and(|output| output.status.success());
        let newer = knows.then_some(FLAG_OF_NEWER);
        FLAGS.into_iter().chain(newer).collect()
    });
    &FOUND
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// A folder that no other build of this or another process uses.
fn unused_name(folder: &Path) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    folder.join(format!("build-{}-{next}", process::id()))
}

fn unwritable(path: &Path, error: &io::Error) -> DeviceError {
    DeviceError::Library {
        library: "the kernels compiled for this machine",
        advice: format!("{} cannot be written: {error}", path.display()),
    }
}
