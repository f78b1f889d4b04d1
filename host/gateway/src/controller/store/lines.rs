//! The file of changes, one line for each. What this version cannot read stays in it: another one
//! has written it, or a disk has damaged it, and neither is a reason to lose what follows.

use std::{fs, io, path::Path};

use serde::Deserialize;

use super::super::{Change, ControlError, history::History};

/// The lines of committed changes.
pub(super) struct Lines {
    pub(super) history: History,
    /// Bytes that they take. What follows them was not committed.
    pub(super) bytes: u64,
    pub(super) count: usize,
}

/// What is asked of a line before anything else.
#[derive(Deserialize)]
struct Numbered {
    sequence: u64,
}

impl Lines {
    /// Those of `path` up to the change `sequence`. A file that is missing has none.
    ///
    /// # Errors
    /// [`ControlError::Store`] if it is there and cannot be read.
    pub(super) fn read(path: &Path, sequence: u64) -> Result<Self, ControlError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(ControlError::store("read", path)(source)),
        };
        let lines = whole(&text);
        let number = |line: &[u8]| {
            let numbered = serde_json::from_slice::<Numbered>(line);
            numbered.ok().map(|line| line.sequence)
        };
        let is_committed = |line: &[u8]| number(line).is_some_and(|number| number <= sequence);
        let last = lines.iter().rposition(|line| is_committed(line));
        let newest = last.and_then(|last| number(lines[last]));
        let mut count = last.map_or(0, |last| last + 1);
        if newest != Some(sequence) {
            // The newest change is among the lines whose number cannot be read.
            let damaged = lines[count..]
                .iter()
                .take_while(|line| number(line).is_none());
            count += damaged.count();
        }
        let lines = &lines[..count];
        let mut history = History::default();
        let mut unread = 0_usize;
        for line in lines {
            match serde_json::from_slice::<Change>(line) {
                Ok(change) => history.add(change),
                Err(_) => unread += 1,
            }
        }
        if unread > 0 {
            tracing::warn!(
                file = %path.display(),
                lines = unread,
                "this version cannot read all of the history; what it cannot read is kept"
            );
        }
        Ok(Self {
            history,
            bytes: lines.iter().map(|line| line.len() as u64).sum(),
            count,
        })
    }
}

/// The last `count` lines of `text`, and how many these are.
pub(super) fn newest(text: &[u8], count: usize) -> (&[u8], usize) {
    let lines = whole(text);
    let kept = &lines[lines.len().saturating_sub(count)..];
    let whole_bytes: usize = lines.iter().map(|line| line.len()).sum();
    let bytes: usize = kept.iter().map(|line| line.len()).sum();
    (&text[whole_bytes - bytes..whole_bytes], kept.len())
}

/// The lines that have an end.
fn whole(text: &[u8]) -> Vec<&[u8]> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| line.ends_with(b"\n")).collect()
}
