//! The least that an HTTP server can do: reads requests and answers each with the same bytes, one
//! thread for each connection. What an answer of the gateway takes beyond one of these is what the
//! gateway adds. Used by `make bench-release`.
//!
//! ```text
//! bench_echo FILE     prints its port; FILE holds the body of every answer
//! ```

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

fn main() -> io::Result<()> {
    let Some(file) = env::args().nth(1) else {
        return Err(io::Error::other("usage: bench_echo FILE"));
    };
    let body = fs::read(file)?;
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend(body);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut out = io::stdout();
    writeln!(out, "{}", listener.local_addr()?.port())?;
    out.flush()?;
    for connection in listener.incoming() {
        let (connection, answer) = (connection?, answer.clone());
        thread::spawn(move || serve(connection, &answer));
    }
    Ok(())
}

/// Answers until the client leaves.
fn serve(mut connection: TcpStream, answer: &[u8]) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut read = Vec::new();
    loop {
        let mut part = [0; 16384];
        let length = connection.read(&mut part)?;
        if length == 0 {
            return Ok(());
        }
        read.extend_from_slice(&part[..length]);
        if is_whole(&read) {
            read.clear();
            connection.write_all(answer)?;
        }
    }
}

/// Whether `request` has its head and as much of a body as that promises.
fn is_whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse().ok())
        .unwrap_or(0);
    request.len() - end - 4 >= length
}
