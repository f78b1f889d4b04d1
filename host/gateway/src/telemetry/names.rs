//! Every metric's name, help text and buckets. Dashboards depend on them.
//!
//! The `gen_ai_*` names and their buckets are OpenTelemetry's GenAI conventions in Prometheus
//! spelling (open-telemetry/semantic-conventions-genai, `docs/gen-ai/gen-ai-metrics.md` at
//! 004902b8c); the finer steps are vLLM's, so that quantiles compare.

/// A metric's name and what it measures.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    /// As it is scraped.
    pub name: &'static str,
    /// What it measures, with its unit.
    pub help: &'static str,
}

macro_rules! names {
    ($($constant:ident = $name:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: Name = Name { name: $name, help: $help };)*
        /// All of them, for the test that scrapes.
        pub const ALL: &[Name] = &[$($constant),*];
    };
}

names! {
    INFERENCE_DURATION = "inference_duration_seconds",
        "Seconds from the arrival of a request to the end of its answer.";
    TOKENS_PER_SECOND = "tokens_per_second",
        "Generated tokens per second of decoding, for each answer.";
    TIME_TO_FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds",
        "Seconds from the arrival of a request to its first generated token; successes only.";
    TIME_PER_OUTPUT_TOKEN = "gen_ai_server_time_per_output_token_seconds",
        "Seconds between generated tokens, averaged over an answer; successes only.";
    REQUEST_DURATION = "gen_ai_server_request_duration_seconds",
        "Seconds from the arrival of a request to the end of its answer, by outcome.";
    TOKEN_USAGE = "gen_ai_client_token_usage",
        "Tokens of a request, by gen_ai_token_type input or output.";
    TOKENIZATION = "tokenization_duration_seconds",
        "Seconds that a prompt's tokenization took.";
    QUEUE = "queue_duration_seconds",
        "Seconds that a request waited before the engine computed a part of it.";
    PREFILL = "prefill_duration_seconds",
        "Seconds from a request's first computed part to its first token.";
    DECODE = "decode_duration_seconds",
        "Seconds from a request's first token to its last.";
    DETOKENIZATION = "detokenization_duration_seconds",
        "Seconds that turning an answer's tokens into text took.";
    REQUESTS_RUNNING = "gapura_requests_running",
        "Sequences that the engine computes now.";
    REQUESTS_WAITING = "gapura_requests_waiting",
        "Sequences that wait for the engine.";
    KV_BLOCKS_USED = "gapura_kv_blocks_used",
        "KV cache blocks in use, by group.";
    KV_BLOCKS_TOTAL = "gapura_kv_blocks_total",
        "KV cache blocks that there are, by group.";
    KV_USAGE = "gapura_kv_cache_usage_ratio",
        "Share of the KV cache in use, 0 to 1.";
    KV_BLOCKS_PINNED = "gapura_kv_blocks_pinned",
        "KV blocks kept for the prefixes of templates, and held by no sequence, by group.";
    KV_BLOCKS_CACHED = "gapura_kv_blocks_cached",
        "KV blocks kept for requests that begin alike, until their place is needed, by group.";
    PREFIX_QUERY_TOKENS = "gapura_prefix_cache_query_tokens_total",
        "Prompt tokens of the requests that were admitted.";
    PREFIX_HIT_TOKENS = "gapura_prefix_cache_hit_tokens_total",
        "Prompt tokens of the requests that were admitted whose keys and values were already there.";
    PREEMPTIONS = "gapura_preemptions_total",
        "Sequences whose KV blocks were taken back to be computed again.";
    RESTARTS = "gapura_engine_restarts_total",
        "Times that the model's runner was made anew after a panic.";
    MODEL_LOADED = "gapura_model_loaded",
        "1 once the model answers.";
    PLUGIN_CALLS = "gapura_plugin_calls_total",
        "Guest calls, by plugin, version, digest, route and stage.";
    PLUGIN_FAILURES = "gapura_plugin_failures_total",
        "Failures of guests, by plugin, version, digest, route, stage and kind.";
    PLUGIN_FALLBACKS = "gapura_plugin_fallbacks_total",
        "Times that a request went on in spite of a failed plugin, by plugin, version, digest, route, stage and policy: open, previous or static.";
    PLUGIN_BREAKER_OPENINGS = "gapura_plugin_breaker_openings_total",
        "Times that a circuit breaker opened, by plugin, version, digest, route and stage.";
    PLUGIN_BREAKER_OPEN = "gapura_plugin_breaker_open",
        "1 where a plugin is not called since its circuit breaker is open or half-open, else 0, by route, plugin, version and digest.";
    PLUGIN_REFUSALS = "gapura_plugin_refusals_total",
        "Guest calls that refused a request or cut an answer, by plugin, version, digest, route and stage.";
    PLUGIN_SECONDS = "gapura_plugin_duration_seconds",
        "Seconds of one guest call, by plugin, version, digest, route and stage.";
    PLUGIN_REQUESTS = "gapura_plugin_requests_total",
        "Requests in which a plugin was called, by plugin, version, digest and route.";
    PLUGIN_REQUEST_SECONDS = "gapura_plugin_request_duration_seconds",
        "Seconds of all calls of a plugin for one request, by plugin, version, digest and route.";
    PLUGIN_MEMORY = "gapura_plugin_memory_bytes",
        "The most linear memory of an instance so far, by plugin, version, digest and route.";
    PLUGIN_HELD = "gapura_plugin_held_bytes",
        "The most text of an answer that a processor held back so far, by plugin, version, digest and route.";
    PLUGIN_INSTANCES = "gapura_plugin_instances_total",
        "Instances that served a request, by plugin, version, digest, route and source: fresh, or reused after another request.";
    PLUGIN_RECYCLED = "gapura_plugin_instances_recycled_total",
        "Instances that could have served again and were dropped since they had done so as often as they may or had taken half of their memory, by plugin, version, digest and route.";
    PLUGIN_INFO = "gapura_plugin_info",
        "1 for each plugin version that a route serves with, by route, plugin, version and digest.";
    PLUGIN_VALUES = "gapura_plugin_values_total",
        "What plugins count themselves, by plugin, route and name.";
    PLUGIN_VALUE = "gapura_plugin_value",
        "What plugins measure themselves, by plugin, route and name.";
    PLUGIN_VALUES_DROPPED = "gapura_plugin_values_dropped_total",
        "Numbers of plugins that were dropped: no number, a wrong name, or a name too many.";
    PLUGIN_QUESTIONS = "gapura_plugin_model_questions_total",
        "Questions of plugins to the model, by plugin, version, digest, route and outcome.";
    PLUGIN_QUESTION_TOKENS = "gapura_plugin_model_tokens_total",
        "Tokens of plugins' questions to the model, by plugin, version, digest, route and type input or output.";
    PLUGIN_HTTP = "gapura_plugin_http_requests_total",
        "HTTP requests of plugins, by plugin, version and outcome.";
    OBSERVATIONS_DROPPED = "gapura_plugin_observations_dropped_total",
        "Ends of answers that observers did not hear of: too many were waiting.";
    SWAPS = "gapura_plugin_swaps_total",
        "Changes of plugins, by plugin and outcome.";
    TRANSITIONS = "gapura_plugin_transitions_total",
        "Versions of plugins that came to a state, by plugin, state and origin; origin `guard` is a rollback by itself.";
    PULLS = "gapura_plugin_pulls_total",
        "Times that a plugin was asked for at its registry, by plugin and outcome.";
    SOURCES = "gapura_plugin_source_info",
        "1 for each version that the configuration names by reference, by plugin, role (live or canary) and state.";
    RELOADS = "gapura_config_reloads_total",
        "Configuration reloads, by outcome.";
    HTTP_REQUESTS = "http_requests_total",
        "HTTP requests, by endpoint, route and status.";
}

/// Seconds, for whole requests.
pub const DURATION_BUCKETS: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
];

/// Seconds, for the first token.
pub const FIRST_TOKEN_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

/// Seconds, for each further token.
pub const PER_TOKEN_BUCKETS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];

/// Tokens.
pub const TOKEN_BUCKETS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// Tokens per second.
pub const RATE_BUCKETS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0, 500.0, 800.0, 1500.0,
    5000.0,
];

/// Whatever plugins measure.
pub const VALUE_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 5000.0,
    10_000.0,
];

/// Seconds, for what should be small.
pub const SHORT_BUCKETS: &[f64] = &[
    0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5,
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0,
];
