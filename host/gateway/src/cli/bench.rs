//! `gapura bench`: what a client sees of a running server, over plain streams.

mod client;
mod report;

use std::{
    io::{self, Write as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::bail;
use clap::Args;

use crate::config::Secret;
use client::{Answer, Client};
use report::Report;

/// Long enough that the prompt is read in more than one step.
const DEFAULT_PROMPT: &str =
    "Ceritakan secara singkat tentang sejarah Candi Borobudur dan mengapa candi itu penting.";

/// What to ask, how often, and of whom.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  gapura bench
  gapura bench --concurrency 32 --requests 256 --max-tokens 64
  gapura bench --server http://gateway:8000 --model support --json > bench.json")]
pub(crate) struct BenchArgs {
    /// The server's address.
    #[arg(
        long,
        value_name = "URL",
        env = "GAPURA_SERVER",
        default_value = "http://127.0.0.1:8000"
    )]
    server: String,
    /// The route or model. Default: the first that the server lists.
    #[arg(long)]
    model: Option<String>,
    /// The API key, where the server wants one.
    #[arg(
        long,
        env = "GAPURA_API_KEY",
        hide_env_values = true,
        value_parser = |text: &str| Ok::<_, std::convert::Infallible>(Secret::new(text))
    )]
    key: Option<Secret>,
    /// What to ask.
    #[arg(long, default_value = DEFAULT_PROMPT, hide_default_value = true)]
    prompt: String,
    /// Most tokens of an answer; end tokens are ignored, so that every answer has as many.
    #[arg(long, default_value_t = 64)]
    max_tokens: u32,
    /// Requests in all.
    #[arg(long, short = 'n', default_value_t = 32)]
    requests: usize,
    /// Requests at a time.
    #[arg(long, short, default_value_t = 4)]
    concurrency: usize,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

impl BenchArgs {
    /// Asks, waits and reports.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if self.requests == 0 || self.concurrency == 0 || self.max_tokens == 0 {
            bail!("--requests, --concurrency and --max-tokens must be above 0");
        }
        let client = Client::new(&self.server, self.key.as_ref());
        let model = match self.model {
            Some(model) => model,
            None => client.first_model()?,
        };
        // The first answer pays for what is loaded lazily; it is not counted.
        client.ask(&model, &self.prompt, self.max_tokens)?;
        let asked = AtomicUsize::new(0);
        let answers = Mutex::new(Vec::with_capacity(self.requests));
        let started = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..self.concurrency.min(self.requests) {
                scope.spawn(|| {
                    while asked.fetch_add(1, Ordering::Relaxed) < self.requests {
                        let answer = client.ask(&model, &self.prompt, self.max_tokens);
                        answers
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(answer);
                    }
                });
            }
        });
        let elapsed = started.elapsed();
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (answers, failures) = split(answers);
        let Some(report) = Report::new(&model, self.concurrency, elapsed, &answers, failures.len())
        else {
            bail!(
                "no request was answered; the first failure: {}",
                failures[0]
            );
        };
        let mut out = io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", report.json())?,
            false => writeln!(out, "{}", report.table())?,
        }
        if let Some(failure) = failures.first() {
            bail!(
                "{} of {} requests failed; the first: {failure}",
                failures.len(),
                self.requests
            );
        }
        Ok(())
    }
}

fn split(results: Vec<anyhow::Result<Answer>>) -> (Vec<Answer>, Vec<String>) {
    let (mut answers, mut failures) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            Ok(answer) => answers.push(answer),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    (answers, failures)
}
