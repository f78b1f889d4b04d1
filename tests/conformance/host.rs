//! The guests, and a host around them that is the same at every run.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use gapura_plugin_runtime::{
    Answering, Asker, Binding, Chain, Clock, Grants, Http, HttpCaller, HttpError, HttpRequest,
    HttpResponse, Kv, Limits, Model, ModelAnswer, ModelError, PluginId, PluginRuntime,
    PluginValues, Question, Random, Run, RuntimeConfig, Sending, Services, TokenCounter,
};
use serde_json::{Value, json};

/// The languages, as their guests' files are named.
pub(crate) const LANGUAGES: [&str; 5] = ["rust", "python", "javascript", "go", "c"];

/// What each guest may have: the default of a route.
pub(crate) const MEMORY_BYTES: u64 = 64 << 20;

static RUNTIME: LazyLock<PluginRuntime> = LazyLock::new(|| {
    let config = RuntimeConfig {
        // Each instance reserves address space, and these tests need few.
        max_instances: 16,
        // A guest in Python takes half a minute to compile.
        cache_dir: Some(std::env::temp_dir().join("gapura-conformance-compiled")),
        ..RuntimeConfig::default()
    };
    PluginRuntime::new(config).expect("a runtime")
});

/// The component of a language's guest.
pub(crate) fn component(language: &str) -> Vec<u8> {
    let folder = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/conformance"
    ));
    let file = folder.join(language).with_extension("wasm");
    std::fs::read(&file).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; run tests/conformance/build.sh",
            file.display()
        )
    })
}

/// A guest on a route of its own, and what it is lent.
pub(crate) struct Guest {
    pub(crate) chain: Arc<Chain>,
    pub(crate) services: Services,
    pub(crate) values: Arc<Values>,
    pub(crate) model: Arc<Scripted>,
    pub(crate) http: Arc<Servers>,
}

impl Guest {
    pub(crate) fn load(language: &str) -> Self {
        let plugin = RUNTIME.load(language, &component(language)).expect("loads");
        assert_eq!(plugin.version(), "0.1.0", "the section gapura:plugin");
        let binding = Binding {
            grants: Grants::ALL,
            settings: settings(),
            // What is tested is what guests say, on machines that may be busy.
            limits: Limits {
                memory_bytes: MEMORY_BYTES,
                call_ms: 10_000,
                delta_ms: 10_000,
                ..Limits::default()
            },
            ..Binding::new(plugin)
        };
        let chain = Chain::new("route", vec![binding]).expect("a chain");
        let (values, model) = (Arc::<Values>::default(), Arc::<Scripted>::default());
        let http = Arc::<Servers>::default();
        let services = Services {
            http: Arc::clone(&http) as _,
            values: Arc::clone(&values) as _,
            model: Arc::clone(&model) as _,
            kv: Arc::<Kv>::default(),
            clock: Arc::new(Fixed),
            random: Arc::new(Fixed),
            ..Services::detached(Arc::new(Fixed))
        };
        Self {
            chain: Arc::new(chain),
            services,
            values,
            model,
            http,
        }
    }

    /// A new request.
    pub(crate) fn start(&self) -> Run {
        self.chain.start(self.services.clone())
    }
}

/// The settings of the route.
pub(crate) fn settings() -> Value {
    json!({"greeting": "Halo, dunia \u{1f30f}", "limit": 3})
}

/// A tokenizer whose tokens are words, a clock that stands still, and the bytes 1, 2, 3 and so on.
struct Fixed;

impl TokenCounter for Fixed {
    fn count(&self, text: &str) -> u32 {
        u32::try_from(text.split_whitespace().count()).expect("few words")
    }
}

impl Clock for Fixed {
    fn now_ms(&self) -> u64 {
        1_760_000_000_005
    }

    fn monotonic_ns(&self) -> u64 {
        7_000_000_123
    }
}

impl Random for Fixed {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        for (byte, value) in bytes.iter_mut().zip(1..) {
            *byte = value;
        }
        Ok(())
    }
}

/// Remembers every number, as `name +by` or `name value`.
#[derive(Default)]
pub(crate) struct Values(Mutex<Vec<String>>);

impl Values {
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

impl PluginValues for Values {
    fn add(&self, _plugin: &PluginId, _route: &str, name: &str, by: u64) {
        self.0
            .lock()
            .expect("no panic")
            .push(format!("{name} +{by}"));
    }

    fn observe(&self, _plugin: &PluginId, _route: &str, name: &str, value: f64) {
        self.0
            .lock()
            .expect("no panic")
            .push(format!("{name} {value}"));
    }
}

/// A model that says what a case wants, and remembers what it was asked.
#[derive(Default)]
pub(crate) struct Scripted {
    answers: Mutex<VecDeque<Result<ModelAnswer, ModelError>>>,
    asked: Mutex<Vec<Question>>,
}

impl Scripted {
    pub(crate) fn will_answer(&self, answer: Result<ModelAnswer, ModelError>) {
        self.answers.lock().expect("no panic").push_back(answer);
    }

    pub(crate) fn asked(&self) -> Vec<Question> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }
}

impl Model for Scripted {
    fn ask<'a>(&'a self, _asker: Asker<'a>, question: Question) -> Answering<'a> {
        self.asked.lock().expect("no panic").push(question);
        let answer = self.answers.lock().expect("no panic").pop_front();
        Box::pin(std::future::ready(answer.expect("a scripted answer")))
    }
}

/// Servers that say what a case wants, and remember what they were sent and with how much time.
#[derive(Default)]
pub(crate) struct Servers {
    responses: Mutex<VecDeque<Result<HttpResponse, HttpError>>>,
    sent: Mutex<Vec<(HttpRequest, Duration)>>,
}

impl Servers {
    pub(crate) fn will_respond(&self, response: Result<HttpResponse, HttpError>) {
        self.responses.lock().expect("no panic").push_back(response);
    }

    pub(crate) fn sent(&self) -> Vec<(HttpRequest, Duration)> {
        std::mem::take(&mut self.sent.lock().expect("no panic"))
    }
}

impl Http for Servers {
    fn send<'a>(&'a self, caller: HttpCaller<'a>, request: HttpRequest) -> Sending<'a> {
        let mut sent = self.sent.lock().expect("no panic");
        sent.push((request, caller.within));
        let response = self.responses.lock().expect("no panic").pop_front();
        Box::pin(std::future::ready(response.expect("a scripted response")))
    }
}
