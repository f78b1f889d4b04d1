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
    /// The routes that record by the configuration in force, once that was said.
    recording: Option<BTreeMap<String, RecordConfig>>,
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
    /// Keeps `record` within the bounds that its route has by now. The configuration may have
    /// changed since the request began, with `begun`: it is redacted if one of both says so.
    pub(super) fn add(&self, record: &mut Record, begun: &RecordConfig) {
        let Some(bounds) = self.routes().bounds(&record.route, begun) else {
            return;
        };
        if begun.redact || bounds.redact {
            record.redact();
        }
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
        // It may have changed once more.
        let Some(bounds) = routes.bounds(&record.route, begun) else {
            return;
        };
        if bounds.redact && !record.is_redacted {
            return;
        }
        routes.count += 1;
        let number = routes.count;
        let kept = routes.by_name.entry(record.route.clone()).or_default();
        kept.bytes += json.len();
        kept.records.push_back((number, summary, json));
        kept.trim(&bounds);
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

    /// Only the routes of `recording` record from now on. Of what is kept goes what they would not
    /// keep: that of other routes, what is beyond their bounds, and text as it was where it is to be
    /// redacted.
    pub(crate) fn keep_within(&self, recording: BTreeMap<String, RecordConfig>) {
        let mut routes = self.routes();
        routes.by_name.retain(|route, kept| {
            let Some(bounds) = recording.get(route) else {
                return false;
            };
            if bounds.redact {
                kept.records.retain(|(_, summary, _)| summary.is_redacted);
                kept.bytes = kept.records.iter().map(|(_, of, _)| of.bytes).sum();
            }
            kept.trim(bounds);
            true
        });
        routes.recording = Some(recording);
    }

    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes {
    /// How `route` records; `begun` is how it did when the request began. `None` where it does not.
    fn bounds(&self, route: &str, begun: &RecordConfig) -> Option<RecordConfig> {
        match &self.recording {
            Some(recording) => recording.get(route).copied(),
            None => Some(*begun),
        }
    }
}

impl Kept {
    fn trim(&mut self, bounds: &RecordConfig) {
        while self.records.len() > bounds.keep || self.bytes > bounds.max_bytes {
            let Some((_, gone, _)) = self.records.pop_front() else {
                break;
            };
            self.bytes -= gone.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use gapura_plugin_runtime::{Chat, Prompt, Sampling};

    use super::*;
    use crate::recording::Outcome;

    const BOUNDS: RecordConfig = RecordConfig {
        keep: 2,
        redact: false,
        max_bytes: 1 << 20,
    };

    fn record(route: &str, request_id: &str, verdict: &str) -> Record {
        Record {
            request_id: request_id.to_owned(),
            at: 7,
            route: route.to_owned(),
            is_redacted: false,
            is_whole: true,
            plugins: Vec::new(),
            chat: Chat {
                request_id: request_id.to_owned(),
                route: route.to_owned(),
                model: route.to_owned(),
                tenant: None,
                stream: false,
                messages: Vec::new(),
                sampling: Sampling::default(),
                extra: "{}".to_owned(),
                call_id: "call-1".to_owned(),
            },
            is_rendered: true,
            deltas: Vec::new(),
            finish: None,
            tapes: BTreeMap::new(),
            outcome: Outcome {
                verdict: verdict.to_owned(),
                ..Outcome::default()
            },
        }
    }

    fn verdicts(records: &Records) -> Vec<String> {
        let list = records.list().into_iter();
        list.map(|summary| summary.verdict).collect()
    }

    #[test]
    fn the_newest_of_a_request_is_given_out_whatever_its_route() {
        let records = Records::default();
        records.add(&mut record("b", "r", "one"), &BOUNDS);
        records.add(&mut record("a", "r", "two"), &BOUNDS);
        let json = records.get("r").unwrap();
        let found: Record = serde_json::from_str(&json).unwrap();
        assert_eq!(found, record("a", "r", "two"));
        assert!(records.get("other").is_none());
    }

    #[test]
    fn the_oldest_of_a_route_go_by_count_and_by_bytes() {
        let records = Records::default();
        for verdict in ["one", "two", "three"] {
            records.add(&mut record("a", verdict, verdict), &BOUNDS);
        }
        records.add(&mut record("b", "r", "other"), &BOUNDS);
        assert_eq!(verdicts(&records), ["three", "two", "other"]);
        let tight = RecordConfig {
            max_bytes: records.list()[0].bytes + 10,
            ..BOUNDS
        };
        records.add(&mut record("a", "four", "four"), &tight);
        assert_eq!(verdicts(&records), ["four", "other"]);
        let none = RecordConfig {
            max_bytes: 10,
            ..BOUNDS
        };
        records.add(&mut record("a", "five", "five"), &none);
        assert_eq!(verdicts(&records), ["other"]);
    }

    #[test]
    fn records_of_routes_that_stopped_recording_are_forgotten_and_no_more_come() {
        let records = Records::default();
        records.add(&mut record("a", "r", "one"), &BOUNDS);
        records.add(&mut record("b", "s", "two"), &BOUNDS);
        records.keep_within([("b".to_owned(), BOUNDS)].into());
        assert_eq!(verdicts(&records), ["two"]);
        assert!(records.get("r").is_none());
        // Its request began before.
        records.add(&mut record("a", "r", "late"), &BOUNDS);
        assert_eq!(verdicts(&records), ["two"]);
    }

    #[test]
    fn what_plugins_said_is_redacted_and_the_words_of_the_host_are_not() {
        let outcome = |verdict: &str, detail: &str| {
            let mut record = record("a", "r", verdict);
            record.outcome.detail = detail.to_owned();
            record.outcome.prompt = Some(Prompt {
                segments: Vec::new(),
                stop: vec!["Budi:".to_owned()],
                grammar: None,
            });
            record.redact();
            record.outcome
        };
        let refused = outcome("refuse", "saw_Budi_0812");
        assert_eq!(refused.detail, "xxx_Xxxx_0000");
        assert_eq!(refused.prompt.unwrap().stop, ["Xxxx:"]);
        assert_eq!(outcome("fail", "deadline").detail, "deadline");
    }

    #[test]
    fn text_goes_once_its_route_redacts_and_what_is_beyond_new_bounds() {
        let records = Records::default();
        for verdict in ["one", "two"] {
            records.add(&mut record("a", verdict, verdict), &BOUNDS);
        }
        let fewer = RecordConfig { keep: 1, ..BOUNDS };
        records.keep_within([("a".to_owned(), fewer)].into());
        assert_eq!(verdicts(&records), ["two"]);
        let redacting = RecordConfig {
            redact: true,
            ..BOUNDS
        };
        records.keep_within([("a".to_owned(), redacting)].into());
        assert_eq!(verdicts(&records), [""; 0]);
        // Its request began before.
        records.add(&mut record("a", "late", "late"), &BOUNDS);
        let [late] = &records.list()[..] else {
            panic!("the late one alone is kept");
        };
        assert!(late.is_redacted);
        assert_eq!(records.routes().by_name["a"].bytes, late.bytes);
        // One that began while the route redacted does not lose that.
        records.keep_within([("a".to_owned(), BOUNDS)].into());
        records.add(&mut record("a", "last", "last"), &redacting);
        assert!(records.list()[0].is_redacted);
    }
}
