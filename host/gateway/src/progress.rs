//! Progress on standard error: a bar on a terminal, a line every few seconds elsewhere.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Bytes of one thing on their way.
pub(crate) struct Progress {
    what: String,
    bar: Option<ProgressBar>,
    last_line: Instant,
}

impl Progress {
    /// Nothing has come yet.
    pub(crate) fn new(what: &str) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
            )
            .expect("the template is a constant");
            ProgressBar::new(0)
                .with_style(style)
                .with_message(what.to_owned())
        });
        Self {
            what: what.to_owned(),
            bar,
            last_line: Instant::now(),
        }
    }

    /// `done` of `total` bytes are there.
    pub(crate) fn update(&mut self, done: u64, total: u64) {
        match &self.bar {
            Some(bar) => {
                bar.set_length(total);
                bar.set_position(done);
            }
            None if self.last_line.elapsed() >= LINE_EVERY || done == total => {
                self.last_line = Instant::now();
                let mib = |bytes: u64| bytes >> 20;
                // Nothing depends on somebody reading it.
                let _ = writeln!(
                    io::stderr(),
                    "{}: {} of {} MiB",
                    self.what,
                    mib(done),
                    mib(total)
                );
            }
            None => {}
        }
    }

    /// All is there.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
