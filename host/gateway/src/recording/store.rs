//! The records of all routes: the newest of each, within its bounds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::Record;
use crate::config::RecordConfig;

/// What is kept. One for the whole process.
#[derive(Debug, Default)]
pub struct Records(Mutex<Routes>);

#[derive(Debug, Default)]
struct Routes {
    by_name: BTreeMap<String, Kept>,
    /// Records ever kept.
    count: u64,
}

/// Of one route, the oldest first.
#[derive(Debug, Default)]
struct Kept {
    records: VecDeque<(u64, Summary, Arc<str>)>,
    bytes: usize,
}

/// A record without what it holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The value of `x-request-id`, by which it is asked for.
    pub request_id: String,
    /// The route.
    pub route: String,
    /// Seconds since 1970.
    pub at: u64,
    /// What the validators decided.
    pub verdict: String,
    /// Whether it is redacted.
    pub is_redacted: bool,
    /// Whether it can be played.
    pub is_whole: bool,
    /// Bytes of its JSON text.
    pub bytes: usize,
}

impl Records {
    /// Keeps `record`, and lets the oldest of its route go until the rest is within `bounds`.
    pub(super) fn add(&self, record: &Record, bounds: &RecordConfig) {
        let json = serde_json::to_string(record);
        let json: Arc<str> = json.expect("records have string keys alone").into();
        let summary = Summary {
            request_id: record.request_id.clone(),
            route: record.route.clone(),
            at: record.at,
            verdict: record.outcome.verdict.clone(),
            is_redacted: record.is_redacted,
            is_whole: record.is_whole,
            bytes: json.len(),
        };
        let mut routes = self.routes();
        routes.count += 1;
        let number = routes.count;
        let kept = routes.by_name.entry(record.route.clone()).or_default();
        kept.bytes += json.len();
        kept.records.push_back((number, summary, json));
        while kept.records.len() > bounds.keep || kept.bytes > bounds.max_bytes {
            let Some((_, gone, _)) = kept.records.pop_front() else {
                break;
            };
            kept.bytes -= gone.bytes;
        }
    }

    /// Every record's summary, route by route, the newest first.
    pub fn list(&self) -> Vec<Summary> {
        let routes = self.routes();
        let newest_first = |kept: &Kept| {
            let records = kept.records.iter().rev();
            records
                .map(|(_, summary, _)| summary.clone())
                .collect::<Vec<_>>()
        };
        routes.by_name.values().flat_map(newest_first).collect()
    }

    /// The JSON text of the newest record of the request `request_id`.
    pub fn get(&self, request_id: &str) -> Option<Arc<str>> {
        let routes = self.routes();
        let all = routes.by_name.values().flat_map(|kept| &kept.records);
        let of_request = all.filter(|(_, summary, _)| summary.request_id == request_id);
        let newest = of_request.max_by_key(|(number, ..)| *number);
        newest.map(|(.., json)| Arc::clone(json))
    }

    /// Forgets the records of routes that do not record any more.
    pub fn keep_routes(&self, records: impl Fn(&str) -> bool) {
        let mut routes = self.routes();
        routes.by_name.retain(|route, _| records(route));
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
