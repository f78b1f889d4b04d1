//! Processes of their own that find stand-ins for NVIDIA's libraries: which are found is decided
//! when a process starts, by LD_LIBRARY_PATH.

use std::{
    borrow::Cow,
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use gapura_kernels::device::KernelCache;

/// Which libraries a process finds, and what else is set there.
pub(crate) struct Scene<'a> {
    /// Names of the C files in `stand_in`, or folders of real libraries.
    pub(crate) libraries: &'a [&'a str],
    /// Environment variables.
    pub(crate) settings: &'a [(&'a str, &'a str)],
}

/// What a driver, its matrix library and its compiler are made of.
pub(crate) const ALL: &[&str] = &["driver", "blas", "nvrtc"];

/// The folder that the scenes of one test share.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn cache(&self) -> KernelCache {
        KernelCache::new(self.path("kernels"))
    }

    /// What the stand-ins logged, in order.
    pub(crate) fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The lines of the log that begin so.
    pub(crate) fn logged(&self, beginning: &str) -> Vec<String> {
        let mut lines = self.log();
        lines.retain(|line| line.starts_with(beginning));
        lines
    }
}

/// Runs `body` once a scene, with its number, each time in a new process. `test` is the name of
/// the test that calls it.
pub(crate) fn act(test: &str, scenes: &[Scene<'_>], body: impl FnOnce(usize, &Place)) {
    if let Ok(scene) = env::var("STAND_IN_SCENE") {
        let place = Place(env::var_os("STAND_IN_PLACE").unwrap().into());
        return body(scene.parse().unwrap(), &place);
    }
    let place = tempfile::tempdir().unwrap();
    for (number, scene) in scenes.iter().enumerate() {
        let folders = scene.libraries.iter().map(|name| library_folder(name));
        let output = Command::new(env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture", "--include-ignored"])
            .env("LD_LIBRARY_PATH", env::join_paths(folders).unwrap())
            .env("STAND_IN_SCENE", number.to_string())
            .env("STAND_IN_PLACE", place.path())
            .env("STAND_IN_LOG", place.path().join("log"))
            .envs(scene.settings.iter().copied())
            .output()
            .unwrap();
        let said = said_of(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "scene {number}: {}\n{said}\n{}",
            output.status,
            said_of(&output.stderr)
        );
        if let Some((_, why)) = said_of(&output.stderr).split_once(SKIPPED) {
            skipped(why.lines().next().unwrap_or_default());
        }
    }
}

fn said_of(output: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(output)
}

const SKIPPED: &str = "SKIPPED: ";

/// Says so past the test harness, which keeps what passing tests print.
pub(crate) fn skipped(why: &str) {
    let line = format!("{SKIPPED}{why}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
}

/// A folder that holds one library.
fn library_folder(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    if name.starts_with('/') {
        return name.into();
    }
    BUILT.get_or_init(build).join(name)
}

fn build() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("stand-in");
    // The matrix library calls the driver, which comes first.
    for (name, library, soname, other) in [
        ("driver", "libcuda.so", "libcuda.so.1", None),
        ("bare", "libcuda.so", "libcuda.so.1", None),
        (
            "blas",
            "libcublasLt.so",
            "libcublasLt.so.12",
            Some("driver"),
        ),
        ("nvrtc", "libnvrtc.so", "libnvrtc.so.12", None),
    ] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/cuda/stand_in")
            .join(name);
        fs::create_dir_all(folder.join(name)).unwrap();
        let unfinished = folder
            .join(name)
            .join(format!("{}.part", std::process::id()));
        let mut compiler = Command::new("gcc");
        compiler
            .args([
                "-std=gnu11",
                "-O1",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-shared",
                "-fPIC",
            ])
            .arg(source.with_extension("c"))
            .arg(format!("-Wl,-soname,{soname}"))
            .arg("-o")
            .arg(&unfinished);
        if let Some(other) = other {
            compiler.arg(folder.join(other).join("libcuda.so"));
        }
        assert!(compiler.status().unwrap().success(), "gcc {name}.c");
        fs::rename(unfinished, folder.join(name).join(library)).unwrap();
    }
    folder
}
