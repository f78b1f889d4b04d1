//! `gapura plugin records`: which requests a server has kept to be run again.

use std::io::{self, Write as _};

use clap::Args;
use comfy_table::Table;

use super::{server::ServerArgs, status::text};

/// Which server's.
#[derive(Debug, Args)]
pub(crate) struct RecordsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The server's own answer.
    #[arg(long)]
    json: bool,
}

impl RecordsArgs {
    /// Prints them as a table, route by route, the newest first.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let answer = self.server.get("/admin/v1/records")?;
        let mut out = io::stdout().lock();
        if self.json {
            return Ok(writeln!(out, "{answer:#}")?);
        }
        let mut table = Table::new();
        table.set_header(["request", "route", "verdict", "redacted", "bytes", "at"]);
        for record in answer["records"].as_array().into_iter().flatten() {
            let bytes = match record["is_whole"].as_bool() {
                Some(true) => record["bytes"].to_string(),
                _ => "not whole".to_owned(),
            };
            table.add_row([
                text(record, "request_id").to_owned(),
                text(record, "route").to_owned(),
                text(record, "verdict").to_owned(),
                record["is_redacted"].to_string(),
                bytes,
                record["at"].to_string(),
            ]);
        }
        Ok(writeln!(out, "{table}")?)
    }
}
