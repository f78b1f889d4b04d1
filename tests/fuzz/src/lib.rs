//! What the fuzz targets share: a folder of the process's own, in memory where there is such.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// The fixture whose files stand beside the one that is fuzzed.
pub const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tiny-llama");

/// The folder, filled by `fill` when it is first asked for.
pub fn folder(fill: impl FnOnce(&Path)) -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let base = if memory.is_dir() {
            memory.to_path_buf()
        } else {
            std::env::temp_dir()
        };
        let folder = base.join(format!("gapura-fuzz-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for the inputs");
        fill(&folder);
        // libfuzzer's hook ends the process at every panic. Those of the tokenizers crate over
        // vocabularies that contradict themselves are caught where they are loaded and become
        // errors; what escapes still ends the process, at the guard around the target.
        std::panic::set_hook(Box::new(|_| {}));
        folder
    })
}
