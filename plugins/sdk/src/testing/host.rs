//! The thread's stand-in host, and its side of every import.

use core::cell::RefCell;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use crate::http::{HttpError, Request, Response};
use crate::kv::KvError;
use crate::log::Level;
use crate::model::{ModelAnswer, ModelError, Question};

/// Most bytes of key and value, as the gateway has it.
const KV_ENTRY_BYTES: usize = 64 << 10;

pub(super) struct Host {
    pub(super) settings: String,
    pub(super) log: Vec<(Level, String)>,
    pub(super) counter: fn(&str) -> u32,
    pub(super) counters: BTreeMap<String, u64>,
    pub(super) histograms: BTreeMap<String, Vec<f64>>,
    /// Values, and the monotonic time at which they are over.
    values: BTreeMap<String, (Vec<u8>, Option<Duration>)>,
    pub(super) now: Duration,
    pub(super) monotonic: Duration,
    pub(super) seed: u64,
    pub(super) answers: VecDeque<Result<ModelAnswer, ModelError>>,
    pub(super) asked: Vec<Question>,
    pub(super) responses: VecDeque<Result<Response, HttpError>>,
    pub(super) sent: Vec<Request>,
}

thread_local! {
    pub(super) static HOST: RefCell<Host> = const {
        RefCell::new(Host {
            settings: String::new(),
            log: Vec::new(),
            counter: count_words,
            counters: BTreeMap::new(),
            histograms: BTreeMap::new(),
            values: BTreeMap::new(),
            now: Duration::ZERO,
            monotonic: Duration::ZERO,
            seed: 0,
            answers: VecDeque::new(),
            asked: Vec::new(),
            responses: VecDeque::new(),
            sent: Vec::new(),
        })
    };
}

fn count_words(text: &str) -> u32 {
    u32::try_from(text.split_whitespace().count()).unwrap_or(u32::MAX)
}

pub(crate) fn write_log(level: Level, message: &str) {
    HOST.with_borrow_mut(|host| host.log.push((level, message.to_owned())));
}

pub(crate) fn settings_json() -> String {
    HOST.with_borrow(|host| match host.settings.as_str() {
        "" => "{}".to_owned(),
        settings => settings.to_owned(),
    })
}

pub(crate) fn count_tokens(text: &str) -> u32 {
    HOST.with_borrow(|host| host.counter)(text)
}

pub(crate) fn add_metric(name: &str, by: u64) {
    HOST.with_borrow_mut(|host| *host.counters.entry(name.to_owned()).or_default() += by);
}

pub(crate) fn observe_metric(name: &str, value: f64) {
    HOST.with_borrow_mut(|host| {
        let values = host.histograms.entry(name.to_owned()).or_default();
        values.push(value);
    });
}

pub(crate) fn kv_get(key: &str) -> Option<Vec<u8>> {
    HOST.with_borrow(|host| {
        let (value, until) = host.values.get(key)?;
        let is_there = until.is_none_or(|until| host.monotonic < until);
        is_there.then(|| value.clone())
    })
}

pub(crate) fn kv_set(key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), KvError> {
    if key.len() + value.len() > KV_ENTRY_BYTES {
        return Err(KvError::TooLarge(KV_ENTRY_BYTES as u64));
    }
    HOST.with_borrow_mut(|host| {
        let until = ttl_ms.map(|ms| host.monotonic.saturating_add(Duration::from_millis(ms)));
        host.values.insert(key.to_owned(), (value.to_vec(), until));
    });
    Ok(())
}

pub(crate) fn kv_delete(key: &str) -> bool {
    let was_there = kv_get(key).is_some();
    HOST.with_borrow_mut(|host| host.values.remove(key));
    was_there
}

pub(crate) fn now_ms() -> u64 {
    let now = HOST.with_borrow(|host| host.now);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn monotonic_ns() -> u64 {
    let now = HOST.with_borrow(|host| host.monotonic);
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

pub(crate) fn fill_random(bytes: &mut [u8]) {
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&random_bits().to_le_bytes()[..part.len()]);
    }
}

/// SplitMix64.
pub(crate) fn random_bits() -> u64 {
    HOST.with_borrow_mut(|host| {
        host.seed = host.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = host.seed;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    })
}

pub(crate) fn ask_model(question: &Question) -> Result<ModelAnswer, ModelError> {
    HOST.with_borrow_mut(|host| {
        host.asked.push(question.clone());
        host.answers.pop_front().unwrap_or_else(|| {
            let advice = "the test has no answer for it: call testing::answer before";
            Err(ModelError::Failed(advice.to_owned()))
        })
    })
}

pub(crate) fn send_http(request: &Request) -> Result<Response, HttpError> {
    HOST.with_borrow_mut(|host| {
        host.sent.push(request.clone());
        host.responses.pop_front().unwrap_or_else(|| {
            let advice = "the test has no response for it: call testing::respond_http before";
            Err(HttpError::Connect(advice.to_owned()))
        })
    })
}
