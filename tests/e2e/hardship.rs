//! What a machine does to a server: a disk that is really full, a clock that is set back.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use gapura_test_guests as guests;
use serde_json::{Value, json};

use crate::process::{Process, stream};
use crate::versions::{marked, plugin, within};

const CONFIG: &str = "[[routes]]\nname = 'chat'\n\
    plugins = [{ plugin = 'chatml' }, { plugin = 'judge' }]\n\
    [plugins.guard]\nmin_requests = 10\n\
    [plugins]\nreleases_dir = 'releases'\n";

/// Room for a few components and what is said of them.
const DISK_KIB: u64 = 512;

/// The guest that accepts everything, as one of many versions that do the same.
fn version(mark: &str) -> Vec<u8> {
    marked(guests::ACCEPT, mark)
}

/// Each version's digest and state, the newest first.
fn stand(plugin: &Value) -> Vec<(String, String)> {
    let versions = plugin["versions"].as_array().expect("a list");
    let text = |version: &Value, key: &str| version[key].as_str().expect("text").to_owned();
    let stand = versions
        .iter()
        .map(|version| (text(version, "digest"), text(version, "state")));
    stand.collect()
}

/// Asks until the version `digest` is taken back for what it does to some of them; others pass.
fn asks_until_taken_back(server: &Process, digest: &str) {
    let is_retired = || {
        let versions = stand(&plugin(server, "judge"));
        versions.contains(&(digest.to_owned(), "retired".to_owned()))
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_retired() {
        assert!(Instant::now() < deadline, "it serves on");
        // Some meet the version that fails.
        let _ = stream(&Process::agent(), &server.url, "Halo");
    }
    for _ in 0..20 {
        stream(&Process::agent(), &server.url, "Halo").expect("the live version answers");
    }
}

/// A folder of the server's own, on a disk of its own; `None` where this machine has none to give.
fn on_a_small_disk() -> Option<(Process, PathBuf)> {
    let unshare = ["--user", "--map-root-user", "--mount"];
    let can = |mount: &str| {
        let mut command = Command::new("unshare");
        command
            .args(unshare)
            .args(["sh", "-c", mount])
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !can("mount -t tmpfs none /tmp") {
        eprintln!("SKIPPED: nobody may mount a file system here, so no disk can be full");
        return None;
    }
    let server = Process::start_with(CONFIG, &[("judge", guests::ACCEPT)], |command| {
        let config = command
            .get_args()
            .skip_while(|arg| *arg != "--config")
            .nth(1);
        let folder = Path::new(config.expect("there is a file")).with_file_name("releases");
        let mount = format!(
            "mkdir -p {folder} && mount -t tmpfs -o size={DISK_KIB}k none {folder} && exec \"$0\" \"$@\"",
            folder = folder.display()
        );
        let mut inside = Command::new("unshare");
        inside
            .args(unshare)
            .args(["sh", "-c", &mount])
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .stdout(Stdio::piped());
        for (name, value) in command.get_envs() {
            inside.envs(value.map(|value| (name, value)));
        }
        *command = inside;
    });
    // As it is seen from inside.
    let folder = server.dir.path().join("releases");
    let folder = folder.strip_prefix("/").expect("an absolute path");
    let seen = PathBuf::from(format!("/proc/{}/root", server.id())).join(folder);
    assert!(seen.join("state.json").exists(), "{}", seen.display());
    Some((server, seen))
}

/// Takes all room there is.
fn fill(folder: &Path) {
    let mut filler = fs::File::create(folder.join("filler")).expect("a file can be made");
    for _ in 0..DISK_KIB {
        if let Err(error) = filler.write_all(&[1; 1024]) {
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
            return;
        }
    }
    panic!("the disk takes more than it has");
}

#[test]
fn a_full_disk_refuses_changes_by_name_and_changes_nothing() {
    let Some((server, disk)) = on_a_small_disk() else {
        return;
    };
    assert_eq!(server.push("judge", &version("first")).0, 201);
    let (status, answer) = server.push("judge?until=verified", &version("second"));
    assert_eq!(status, 201, "{answer}");
    let before = plugin(&server, "judge");
    let committed = fs::read(disk.join("state.json")).unwrap();

    fill(&disk);
    let (status, refused) = server.push("judge", &version("third"));
    let mut refusals = vec![(status, refused)];
    for (action, body) in [
        ("activate", json!({})),
        ("canary", json!({ "percent": 10 })),
        ("shadow", json!({})),
        ("rollback", json!({})),
    ] {
        refusals.push(server.admin("POST", &format!("plugins/judge/{action}"), Some(&body)));
    }
    for (status, answer) in refusals {
        let error = &answer["error"];
        assert_eq!(
            (status, &error["code"]),
            (500, &json!("plugin_store")),
            "{answer}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("No space left on device"), "{message}");
        assert!(message.contains("releases/"), "{message}");
    }
    assert_eq!(stand(&plugin(&server, "judge")), stand(&before));
    assert_eq!(fs::read(disk.join("state.json")).unwrap(), committed);
    stream(&Process::agent(), &server.url, "Halo").unwrap();

    fs::remove_file(disk.join("filler")).unwrap();
    assert_eq!(server.push("judge", &version("third")).0, 201);
    stream(&Process::agent(), &server.url, "Halo").unwrap();
}

#[test]
fn a_canary_that_fails_on_a_full_disk_is_taken_back_and_written_down_later() {
    let Some((server, disk)) = on_a_small_disk() else {
        return;
    };
    let (status, answer) = server.push("judge?until=verified", guests::TRAP);
    assert_eq!(status, 201, "{answer}");
    let digest = answer["versions"][0]["digest"].as_str().unwrap().to_owned();
    let body = json!({ "percent": 50 });
    let (status, answer) = server.admin("POST", "plugins/judge/canary", Some(&body));
    assert_eq!(status, 200, "{answer}");

    fill(&disk);
    asks_until_taken_back(&server, &digest);
    let on_trial = || {
        let state = fs::read(disk.join("state.json")).unwrap();
        let state: Value = serde_json::from_slice(&state).unwrap();
        state["plugins"]["judge"]["trial"]["digest"].clone()
    };
    assert_eq!(on_trial(), digest);

    fs::remove_file(disk.join("filler")).unwrap();
    within(10, "it is written down", || on_trial().is_null());
    let history = fs::read_to_string(disk.join("history.jsonl")).unwrap();
    let newest: Value = serde_json::from_str(history.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&newest["origin"], &newest["outcome"], &newest["digest"]),
        (&json!("guard"), &json!("retired"), &json!(digest))
    );
}

/// Makes a library that sets a program's clock back by a year once the file `SET_BACK` is there.
fn other_clock(dir: &Path) -> PathBuf {
    const SOURCE: &str = r#"
        #define _GNU_SOURCE
        #include <stdlib.h>
        #include <sys/syscall.h>
        #include <time.h>
        #include <unistd.h>
        int clock_gettime(clockid_t clock, struct timespec *time) {
            long result = syscall(SYS_clock_gettime, clock, time);
            const char *file = getenv("SET_BACK");
            if (clock == CLOCK_REALTIME && file && access(file, F_OK) == 0)
                time->tv_sec -= 365L * 24 * 60 * 60;
            return (int)result;
        }
    "#;
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    fs::write(&source, SOURCE).expect("room in the temporary folder");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.expect("there is a C compiler").success());
    library
}

#[test]
fn a_clock_that_is_set_back_confuses_no_release() {
    let tools = tempfile::tempdir().unwrap();
    let (library, set_back) = (other_clock(tools.path()), tools.path().join("set-back"));
    let mut server = Process::start_with(CONFIG, &[("judge", guests::ACCEPT)], |command| {
        command
            .env("LD_PRELOAD", library)
            .env("SET_BACK", &set_back);
    });
    let newest = |server: &Process| server.admin("GET", "history", None).1["history"][0].clone();
    assert_eq!(server.push("judge", &version("before")).0, 201);
    let before = newest(&server);
    fs::write(&set_back, "").unwrap();

    let (status, answer) = server.push("judge", &version("after"));
    assert_eq!(status, 201, "{answer}");
    let after = newest(&server);
    let number = |change: &Value, key: &str| change[key].as_u64().unwrap();
    assert!(
        number(&after, "at") + 300 * 86400 < number(&before, "at"),
        "the clock is as it was"
    );
    assert!(number(&after, "sequence") > number(&before, "sequence"));
    assert_eq!(
        (&after["outcome"], &after["digest"]),
        (&json!("live"), &answer["digest"])
    );
    let states: Vec<_> = stand(&answer).into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, ["live", "retired", "retired"], "the newest first");

    // The guard's time goes on.
    let (status, answer) = server.push("judge?until=verified", guests::TRAP);
    assert_eq!(status, 201, "{answer}");
    let digest = answer["versions"][0]["digest"].as_str().unwrap().to_owned();
    let body = json!({ "percent": 50 });
    assert_eq!(
        server.admin("POST", "plugins/judge/canary", Some(&body)).0,
        200
    );
    asks_until_taken_back(&server, &digest);

    // What was committed serves again, though its files are from the future. This one's clock goes
    // right, which is another jump.
    let expected = stand(&plugin(&server, "judge"));
    let last = newest(&server);
    server = server.killed_and_started_again();
    assert_eq!(stand(&plugin(&server, "judge")), expected);
    assert_eq!(newest(&server), last);
    assert_eq!(server.push("judge", &version("later")).0, 201);
    assert!(number(&newest(&server), "sequence") > number(&last, "sequence"));
    let (status, answer) = server.admin("POST", "plugins/judge/rollback", None);
    assert_eq!(
        (status, &answer["digest"]),
        (200, &json!(expected[1].0)),
        "{answer}"
    );
}
