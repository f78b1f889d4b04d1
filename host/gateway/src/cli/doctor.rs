//! `gapura doctor`: what this machine can run, as findings that can be pasted into an issue.
//! Shows no secrets.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;
use comfy_table::Table;
use gapura_engine::device::{self, KernelCache};
use serde::Serialize;

use super::{ConfigArgs, plugin::build};
use crate::{config::Overrides, version};

/// How to report.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gapura doctor
  gapura doctor --json > doctor.json
  gapura doctor --config gapura.toml")]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Something will not work; everything else does.
    Missing,
    /// Worth knowing.
    Info,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Finding {
    topic: &'static str,
    verdict: Verdict,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl DoctorArgs {
    /// Looks at everything; fails only if the configuration cannot be read.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = self.config.load(&Overrides {
            allow_open: true,
            ..Overrides::default()
        })?;
        let mut findings = vec![info("version", version::LONG.to_owned()), cpu(), memory()];
        findings.extend(nvidia(&config.cuda.cache_dir));
        findings.extend([
            folder("model cache", &config.model.cache_dir),
            folder("plugin cache", &config.plugins.cache_dir),
            tool("cargo", "needed to build plugins: https://rustup.rs"),
            wasm_target(),
        ]);
        findings.extend(plugin_languages());
        findings.extend([
            tool("gcc", "needed to build gapura itself"),
            port(config.server.listen),
        ]);
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?;
            return Ok(());
        }
        let mut table = Table::new();
        table.set_header(["", "topic", "finding"]);
        for Finding {
            topic,
            verdict,
            detail,
            advice,
        } in &findings
        {
            let mark = match verdict {
                Verdict::Ok => "ok",
                Verdict::Missing => "missing",
                Verdict::Info => "",
            };
            match advice {
                Some(advice) => table.add_row([mark, topic, &format!("{detail}; {advice}")]),
                None => table.add_row([mark, topic, detail]),
            };
        }
        writeln!(out, "{table}")?;
        Ok(())
    }
}

fn info(topic: &'static str, detail: String) -> Finding {
    Finding {
        topic,
        verdict: Verdict::Info,
        detail,
        advice: None,
    }
}

fn judged(topic: &'static str, fine: bool, detail: String) -> Finding {
    Finding {
        topic,
        verdict: if fine { Verdict::Ok } else { Verdict::Missing },
        detail,
        advice: None,
    }
}

fn cpu() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let features = cpu_features();
    let fast = features.is_empty()
        || features
            .iter()
            .any(|name| *name == "avx2" || *name == "neon");
    judged(
        "cpu",
        fast,
        format!("{cores} cores, {}", features.join(" ")),
    )
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let features = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        (
            "avx512vnni",
            std::arch::is_x86_feature_detected!("avx512vnni"),
        ),
    ];
    features
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name))
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    if cfg!(target_feature = "neon") {
        vec!["neon"]
    } else {
        Vec::new()
    }
}

fn memory() -> Finding {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let gib = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib as f64 / f64::from(1 << 20))
    };
    match (gib("MemTotal:"), gib("MemAvailable:")) {
        (Some(total), Some(free)) => {
            info("memory", format!("{total:.1} GiB, {free:.1} GiB available"))
        }
        _ => info("memory", "unknown on this system".to_owned()),
    }
}

/// The kernel's half of the driver, and what a CUDA device needs beside it. Without a driver
/// nothing is missing: models run on the CPU.
fn nvidia(kernel_cache: &Path) -> Vec<Finding> {
    let version = fs::read_to_string("/proc/driver/nvidia/version").ok();
    let line = version.as_deref().and_then(|text| text.lines().next());
    let driver = match line {
        Some(line) => judged("NVIDIA driver", true, line.trim().to_owned()),
        None => info(
            "NVIDIA driver",
            "not in this system's kernel: models run on the CPU".to_owned(),
        ),
    };
    let findings = device::probe(&KernelCache::new(kernel_cache.to_owned()));
    let is_expected = line.is_some() || findings.iter().any(|it| it.what == "GPU" && it.ok);
    let parts = findings.into_iter().map(|it| part(it, is_expected));
    std::iter::once(driver).chain(parts).collect()
}

/// What a device needs: missing only where there is a device to expect.
fn part(found: device::Finding, is_expected: bool) -> Finding {
    Finding {
        topic: found.what,
        verdict: match (found.ok, is_expected) {
            (true, _) => Verdict::Ok,
            (false, true) => Verdict::Missing,
            (false, false) => Verdict::Info,
        },
        detail: found.detail,
        advice: found.advice,
    }
}

/// Whether a folder can be made and written, or its nearest existing ancestor can.
fn folder(topic: &'static str, path: &Path) -> Finding {
    let existing = path
        .ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("."));
    let probe: PathBuf = existing.join(format!(".gapura-doctor-{}", std::process::id()));
    let writable = fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe));
    match writable {
        Ok(()) => judged(topic, true, format!("{} is writable", path.display())),
        Err(error) => judged(topic, false, format!("{}: {error}", path.display())),
    }
}

fn tool(name: &'static str, why: &str) -> Finding {
    match first_line(name, &["--version"]) {
        Some(line) => judged(name, true, line),
        None => judged(name, false, format!("not found; {why}")),
    }
}

fn wasm_target() -> Finding {
    let topic = "wasm target";
    let Some(sysroot) = first_line("rustc", &["--print", "sysroot"]) else {
        return judged(topic, false, "no rustc to ask".to_owned());
    };
    let installed = Path::new(&sysroot)
        .join("lib/rustlib/wasm32-unknown-unknown/lib")
        .is_dir();
    let detail = match installed {
        true => "wasm32-unknown-unknown is installed",
        false => "not installed; `gapura plugin build` adds it by rustup or builds it once",
    };
    Finding {
        topic,
        verdict: if installed {
            Verdict::Ok
        } else {
            Verdict::Info
        },
        detail: detail.to_owned(),
        advice: None,
    }
}

/// What builds plugins that are not in Rust, as the script that builds them says.
fn plugin_languages() -> Vec<Finding> {
    let output = Command::new("bash")
        .args(["-c", build::OTHERS, "languages.sh", "--status"])
        .output();
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().filter_map(plugin_language).collect()
        }
        Err(error) => vec![judged(
            "plugins",
            false,
            format!("cannot run bash: {error}"),
        )],
    }
}

/// A line of the script: language, `ok` or `missing`, what there is, how to get it.
fn plugin_language(line: &str) -> Option<Finding> {
    let [language, verdict, detail, advice] = line.split('\t').collect::<Vec<_>>()[..] else {
        return None;
    };
    let topic = match language {
        "python" => "plugins in Python",
        "javascript" => "plugins in JavaScript",
        "go" => "plugins in Go",
        "c" => "plugins in C",
        _ => return None,
    };
    Some(Finding {
        advice: (!advice.is_empty()).then(|| advice.to_owned()),
        ..judged(topic, verdict == "ok", detail.to_owned())
    })
}

fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output
        .status
        .success()
        .then(|| text.lines().next().unwrap_or_default().to_owned())
}

fn port(at: std::net::SocketAddr) -> Finding {
    match std::net::TcpListener::bind(at) {
        Ok(_) => judged("port", true, format!("{at} is free")),
        Err(error) => judged("port", false, format!("{at}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_written_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            folder("cache", &dir.path().join("deep/er")).verdict,
            Verdict::Ok
        );
        let finding = folder("cache", Path::new("/proc/nowhere"));
        assert_eq!(finding.verdict, Verdict::Missing);
        assert!(
            finding.detail.contains("/proc/nowhere"),
            "{}",
            finding.detail
        );
    }

    #[test]
    fn what_a_gpu_needs_is_missing_only_beside_one() {
        let found = || device::Finding {
            what: "NVRTC",
            ok: false,
            detail: "libnvrtc.so is not there".to_owned(),
            advice: Some("install it".to_owned()),
        };
        assert_eq!(part(found(), true).verdict, Verdict::Missing);
        let finding = part(found(), false);
        assert_eq!(finding.verdict, Verdict::Info);
        let json = serde_json::to_value(&finding).unwrap();
        let expected = serde_json::json!({
            "topic": "NVRTC",
            "verdict": "info",
            "detail": "libnvrtc.so is not there",
            "advice": "install it",
        });
        assert_eq!(json, expected);
        let ok = device::Finding {
            ok: true,
            ..found()
        };
        assert_eq!(part(ok, false).verdict, Verdict::Ok);
    }

    #[test]
    fn every_language_of_plugins_is_looked_for() {
        let topics: Vec<_> = plugin_languages().into_iter().map(|it| it.topic).collect();
        let expected = ["Python", "JavaScript", "Go", "C"];
        assert_eq!(
            topics,
            expected.map(|language| format!("plugins in {language}"))
        );
        let missing = plugin_language("go\tmissing\tno go\tinstall Go").unwrap();
        assert_eq!(missing.verdict, Verdict::Missing);
        assert_eq!(missing.advice.as_deref(), Some("install Go"));
    }

    #[test]
    fn a_tool_that_is_not_there_says_what_it_is_for() {
        let finding = tool("gapura-no-such-tool", "needed for nothing");
        assert_eq!(finding.verdict, Verdict::Missing);
        assert_eq!(finding.detail, "not found; needed for nothing");
    }
}
