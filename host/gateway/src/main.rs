//! The `gapura` program. Everything is in the library; see `cli`.

fn main() -> std::process::ExitCode {
    gapura::cli::run()
}
