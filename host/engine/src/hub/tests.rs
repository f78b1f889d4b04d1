//! Pulls from a stub of the hub: a listener in a thread that speaks as much HTTP as it takes.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::json;
use sha2::{Digest, Sha256};

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the stub serves and what it has seen.
#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    /// By file; the SHA-256 of the content where there is none.
    etags: BTreeMap<String, String>,
    /// Answered to everything.
    status: Option<u16>,
    /// Redirect files without saying where to.
    redirects_to_nowhere: bool,
    /// Bodies that break off, and after how many bytes.
    cuts: Vec<usize>,
    /// File, first byte asked for, and the authorization.
    requests: Vec<(String, String, Option<String>)>,
}

struct StubHub {
    address: String,
    state: Arc<Mutex<State>>,
    cache: tempfile::TempDir,
}

impl StubHub {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        state.lock().unwrap().files = files
            .iter()
            .map(|(name, data)| ((*name).to_owned(), data.to_vec()))
            .collect();
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &shared);
            }
        });
        Self {
            address,
            state,
            cache: tempfile::tempdir().unwrap(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn pull(&self, model: &str) -> Result<PathBuf, LoadError> {
        self.pull_with(model, &mut |_| {})
    }

    fn pull_with(
        &self,
        model: &str,
        progress: &mut dyn FnMut(PullProgress<'_>),
    ) -> Result<PathBuf, LoadError> {
        pull(
            model,
            PullOptions {
                revision: None,
                token: Some("hf_secret".to_owned()),
                endpoint: self.address.clone(),
                cache_dir: Some(self.cache.path().to_path_buf()),
                progress,
            },
        )
    }

    /// Where a file's first bytes wait for the rest.
    fn part(&self, data: &[u8]) -> PathBuf {
        let blobs = self.cache.path().join("models--o--n/blobs");
        fs::create_dir_all(&blobs).unwrap();
        blobs.join(hash(data)).with_extension("part")
    }

    /// Ranges that were asked of a file, without the single byte that asks for its size.
    fn ranges(&self, file: &str) -> Vec<String> {
        let state = self.state();
        let of_file = state
            .requests
            .iter()
            .filter(|(name, range, _)| name == file && range != "0-0");
        of_file.map(|(_, range, _)| range.clone()).collect()
    }
}

fn hash(data: &[u8]) -> String {
    Sha256::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Answers one request and closes.
fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let Some(path) = lines
        .next()
        .and_then(|line| Some(line.split(' ').nth(1)?.to_owned()))
    else {
        return;
    };
    let headers: BTreeMap<String, String> = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            line.split_once(": ")
                .map(|(k, v)| (k.to_ascii_lowercase(), v.to_owned()))
        })
        .collect();
    let mut state = state.lock().unwrap();
    let answer = answer(&mut state, &path, &headers);
    // A client that has seen enough may be gone.
    let _ = stream.write_all(&answer);
}

fn answer(state: &mut State, path: &str, headers: &BTreeMap<String, String>) -> Vec<u8> {
    let plain = |status: u16, body: &str| {
        let len = body.len();
        format!("HTTP/1.1 {status} X\r\ncontent-length: {len}\r\nconnection: close\r\n\r\n{body}")
            .into_bytes()
    };
    if let Some(status) = state.status {
        return plain(status, "");
    }
    if path == "/api/models/o/n/revision/main" {
        let files: Vec<_> = state
            .files
            .keys()
            .map(|name| json!({ "rfilename": name }))
            .collect();
        return plain(
            200,
            &json!({ "sha": COMMIT, "siblings": files }).to_string(),
        );
    }
    let file = path
        .strip_prefix(&format!("/o/n/resolve/{COMMIT}/"))
        .unwrap_or_default()
        .to_owned();
    let Some(data) = state.files.get(&file).cloned() else {
        return plain(404, "");
    };
    let range = headers["range"].strip_prefix("bytes=").unwrap().to_owned();
    state.requests.push((
        file.clone(),
        range.clone(),
        headers.get("authorization").cloned(),
    ));
    if state.redirects_to_nowhere {
        return format!(
            "HTTP/1.1 302 X\r\netag: \"{}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-length: 0\r\n\
             connection: close\r\n\r\n",
            hash(&data)
        )
        .into_bytes();
    }
    let (first, last) = range.split_once('-').unwrap();
    let first: usize = first.parse().unwrap();
    let end = last.parse::<usize>().map_or(data.len(), |last| last + 1);
    let etag = state
        .etags
        .get(&file)
        .cloned()
        .unwrap_or_else(|| hash(&data));
    let body = &data[first..end];
    let head = format!(
        "HTTP/1.1 206 X\r\ncontent-length: {}\r\ncontent-range: bytes {first}-{}/{}\r\n\
         etag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\nconnection: close\r\n\r\n",
        body.len(),
        end - 1,
        data.len()
    );
    let sent = match range == "0-0" || state.cuts.is_empty() {
        true => body.len(),
        false => state.cuts.remove(0),
    };
    [head.as_bytes(), &body[..sent]].concat()
}

#[test]
fn a_folder_is_pulled_once() {
    let weights = vec![7; 100_000];
    let hub = StubHub::new(&[
        ("README.md", b"no"),
        ("config.json", b"{}"),
        ("tokenizer.json", b"[]"),
        ("model.safetensors", &weights),
        ("pytorch_model.bin", b"no"),
    ]);
    let mut last = None;
    let folder = hub
        .pull_with("o/n", &mut |step| {
            last = Some((step.file.to_owned(), step.done_bytes, step.total_bytes));
        })
        .unwrap();
    assert_eq!(
        last,
        Some(("model.safetensors".to_owned(), 100_000, 100_000))
    );
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), weights);
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"{}");
    assert!(folder.join("tokenizer.json").exists());
    assert!(!folder.join("README.md").exists() && !folder.join("pytorch_model.bin").exists());
    assert!(folder.ends_with(format!("models--o--n/snapshots/{COMMIT}")));
    let bearer = Some("Bearer hf_secret".to_owned());
    assert!(
        hub.state()
            .requests
            .iter()
            .all(|(_, _, authorization)| *authorization == bearer)
    );

    hub.state().requests.clear();
    assert_eq!(hub.pull("o/n").unwrap(), folder);
    assert!(hub.state().requests.is_empty());
}

#[test]
fn shards_are_pulled_by_their_index() {
    let index = json!({ "weight_map": { "x": "b.safetensors", "y": "a.safetensors", "z": "a.safetensors" } });
    let hub = StubHub::new(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index.to_string().as_bytes()),
        ("a.safetensors", b"aa"),
        ("b.safetensors", b"bb"),
    ]);
    let folder = hub.pull("o/n").unwrap();
    assert_eq!(fs::read(folder.join("a.safetensors")).unwrap(), b"aa");
    assert_eq!(fs::read(folder.join("b.safetensors")).unwrap(), b"bb");
    // An index that names a shard outside the folder fetches nothing.
    let index = json!({ "weight_map": { "x": "../../b" } }).to_string();
    let hub = StubHub::new(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index.as_bytes()),
    ]);
    assert!(matches!(hub.pull("o/n"), Err(LoadError::Malformed { .. })));
}

#[test]
fn a_partial_file_is_resumed() {
    let data: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let hub = StubHub::new(&[("m.gguf", &data)]);
    fs::write(hub.part(&data), &data[..150_000]).unwrap();
    let file = hub.pull("o/n:m.gguf").unwrap();
    assert_eq!(hub.ranges("m.gguf"), ["150000-"]);
    assert_eq!(fs::read(file).unwrap(), data);
}

#[test]
fn a_cut_connection_is_taken_up_again() {
    let data: Vec<u8> = (0..200_000_u32).map(|i| (i % 251) as u8).collect();
    let hub = StubHub::new(&[("m.gguf", &data)]);
    hub.state().cuts = vec![50_000, 100_000];
    let file = hub.pull("o/n").unwrap();
    assert_eq!(hub.ranges("m.gguf"), ["0-", "50000-", "150000-"]);
    assert_eq!(fs::read(file).unwrap(), data);
}

#[test]
fn a_connection_that_stays_cut_leaves_what_came() {
    let data = vec![9; 200_000];
    let hub = StubHub::new(&[("m.gguf", &data)]);
    hub.state().cuts = [vec![50_000], vec![0; 10]].concat();
    let error = hub.pull("o/n").unwrap_err();
    assert!(matches!(error, LoadError::Fetch { .. }), "{error}");
    assert_eq!(fs::metadata(hub.part(&data)).unwrap().len(), 50_000);
    hub.state().cuts.clear();
    assert_eq!(fs::read(hub.pull("o/n").unwrap()).unwrap(), data);
    assert_eq!(hub.ranges("m.gguf").last().unwrap(), "50000-");
}

#[test]
fn a_closed_door_says_what_opens_it() {
    let hub = StubHub::new(&[("m.gguf", b"x")]);
    for status in [401, 403] {
        hub.state().status = Some(status);
        let error = hub.pull("o/n").unwrap_err();
        assert!(matches!(error, LoadError::HubUnauthorized { status: s, .. } if s == status));
        let text = error.to_string();
        assert!(
            text.contains("accept its licence") && text.contains("HF_TOKEN"),
            "{text}"
        );
        assert!(!text.contains("hf_secret"), "{text}");
    }
}

#[test]
fn what_the_hub_does_not_have_is_named() {
    let hub = StubHub::new(&[("a.gguf", b"x"), ("b.gguf", b"y")]);
    let error = hub.pull("o/n@v9").unwrap_err();
    assert!(
        matches!(&error, LoadError::NotOnHub { what, .. } if what == "o/n@v9"),
        "{error}"
    );
    let error = hub.pull("o/n:c.gguf").unwrap_err();
    assert!(
        matches!(&error, LoadError::NotOnHub { what, .. } if what == "o/n: c.gguf"),
        "{error}"
    );
    let error = hub.pull("o/n").unwrap_err();
    assert!(
        matches!(error, LoadError::InvalidModelSpec { .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("name one, as `o/n:a.gguf` (of a.gguf, b.gguf)"),
        "{error}"
    );
    let hub = StubHub::new(&[("README.md", b"x")]);
    assert!(
        hub.pull("o/n")
            .unwrap_err()
            .to_string()
            .contains("neither safetensors nor")
    );
}

#[test]
fn a_wrong_checksum_is_refused_and_its_file_is_gone() {
    let hub = StubHub::new(&[("m.gguf", b"spoilt")]);
    let promised = hash(b"proper");
    hub.state()
        .etags
        .insert("m.gguf".to_owned(), promised.clone());
    let error = hub.pull("o/n").unwrap_err();
    let LoadError::Checksum {
        expected, found, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!((expected, found), (&promised, &hash(b"spoilt")));
    hub.state()
        .files
        .insert("m.gguf".to_owned(), b"proper".to_vec());
    assert_eq!(fs::read(hub.pull("o/n").unwrap()).unwrap(), b"proper");
}

#[test]
fn without_a_network_what_was_pulled_before_serves() {
    let hub = StubHub::new(&[("config.json", b"{}"), ("model.safetensors", b"x")]);
    let folder = hub.pull("o/n").unwrap();
    let offline = |model: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        pull(
            model,
            PullOptions {
                revision: None,
                token: None,
                endpoint,
                cache_dir: Some(hub.cache.path().to_path_buf()),
                progress: &mut |_| {},
            },
        )
    };
    assert_eq!(offline("o/n").unwrap(), folder);
    assert!(matches!(offline("o/other"), Err(LoadError::Fetch { .. })));
    assert!(matches!(offline("o/n@v2"), Err(LoadError::Fetch { .. })));
}

/// A pull that broke off is not taken for a model later.
#[test]
fn without_a_network_half_a_model_does_not_serve() {
    let hub = StubHub::new(&[("config.json", b"{}"), ("model.safetensors", b"spoilt")]);
    hub.state()
        .etags
        .insert("model.safetensors".to_owned(), hash(b"proper"));
    assert!(matches!(hub.pull("o/n"), Err(LoadError::Checksum { .. })));
    hub.state().status = Some(503);
    assert!(matches!(hub.pull("o/n"), Err(LoadError::Fetch { .. })));
}

#[test]
fn an_unwritable_cache_is_named() {
    let hub = StubHub::new(&[("m.gguf", b"x")]);
    let file = hub.cache.path().join("file");
    fs::write(&file, "").unwrap();
    let error = pull(
        "o/n",
        PullOptions {
            revision: None,
            token: None,
            endpoint: hub.address.clone(),
            cache_dir: Some(file.join("cache")),
            progress: &mut |_| {},
        },
    )
    .unwrap_err();
    assert!(
        matches!(&error, LoadError::Write { path, .. } if path.starts_with(&file)),
        "{error}"
    );
}

/// `/dev/full` takes nothing, with the error of a full disk.
#[test]
fn a_full_disk_is_named_and_is_not_tried_again() {
    let data = b"more than there is room for";
    let hub = StubHub::new(&[("m.gguf", data)]);
    let part = hub.part(data);
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    let error = hub.pull("o/n").unwrap_err();
    let LoadError::Write { path, source } = &error else {
        panic!("{error}")
    };
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
    assert!(path.starts_with(hub.cache.path()), "{error}");
    assert_eq!(hub.ranges("m.gguf").len(), 1);
    // Room was made: nothing half-written is in the way.
    fs::remove_file(&part).unwrap();
    assert_eq!(fs::read(hub.pull("o/n").unwrap()).unwrap(), data);
}

#[test]
fn answers_that_no_hub_gives_are_errors() {
    let hub = StubHub::new(&[("m.gguf", b"x")]);
    hub.state().redirects_to_nowhere = true;
    assert!(matches!(hub.pull("o/n"), Err(LoadError::Fetch { .. })));
    hub.state().redirects_to_nowhere = false;
    hub.state()
        .etags
        .insert("m.gguf".to_owned(), "../../../../evil".to_owned());
    let error = hub.pull("o/n").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`../../../../evil` is no content hash"),
        "{error}"
    );
    let mut options_progress = |_: PullProgress<'_>| {};
    let error = pull(
        "o/n",
        PullOptions {
            revision: None,
            token: None,
            endpoint: "ftp://hub".to_owned(),
            cache_dir: Some(hub.cache.path().to_path_buf()),
            progress: &mut options_progress,
        },
    );
    assert!(error.unwrap_err().to_string().contains("begins with http"));
}
