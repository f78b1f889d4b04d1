//! A registry of this process, which answers as each test wants it to.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use serde_json::json;

use super::{Client, Login, Registries, Registry};
use crate::config::Digest;

/// One request: its line, `Authorization`, and body.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// Status, headers and body.
pub(crate) type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

/// Serves until the process ends. Each connection is for one request.
pub(crate) struct Stub {
    pub(crate) authority: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Stub {
    pub(crate) fn start(answer: impl Fn(&Seen, &str) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let authority = listener.local_addr().expect("it is bound").to_string();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (own, log) = (authority.clone(), Arc::clone(&seen));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let request = read_request(&stream);
                let (status, headers, body) = answer(&request, &own);
                log.lock().expect("nobody panics").push(request);
                write_answer(stream, status, &headers, &body);
            }
        });
        Self { authority, seen }
    }

    pub(super) fn client(&self, suffix: &str, login: Option<Login>) -> Client {
        let reference = format!("oci://{}/team/persona{suffix}", self.authority);
        let registry = Registry {
            plain_http: None,
            login,
        };
        let registries = Registries::from([(self.authority.clone(), registry)]);
        Client::new(&reference.parse().expect("a reference"), &registries)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("nobody panics").clone()
    }
}

fn read_request(stream: &TcpStream) -> Seen {
    let mut reader = BufReader::new(stream);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let read = reader.read_line(&mut line).expect("a header");
        if read == 0 || line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let header = |wanted: &str| {
        lines.iter().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case(wanted).then(|| value.to_owned())
        })
    };
    let length = header("content-length").map_or(0, |text| text.parse().expect("a number"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    Seen {
        line: lines.first().cloned().unwrap_or_default(),
        authorization: header("authorization"),
        body,
    }
}

fn write_answer(mut stream: TcpStream, status: u16, headers: &[(&str, String)], body: &[u8]) {
    let mut text = format!("HTTP/1.1 {status} It\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "content-length") {
        text.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    // A client that has read enough goes away.
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.write_all(body);
}

/// The manifest of `component`, which it says has `size` bytes.
pub(crate) fn manifest_of(component: &[u8], size: usize) -> Vec<u8> {
    let manifest = json!({
        "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.wasm.config.v0+json", "digest": "", "size": 2 },
        "layers": [{
            "mediaType": "application/wasm",
            "digest": Digest::of(component).to_string(),
            "size": size,
        }],
    });
    manifest.to_string().into_bytes()
}
