//! From the tree of the file to the checked [`Config`]. [`check_tree`] looks at the file as it
//! stands, so that each complaint has a line; [`resolve`] fills defaults in and looks at what
//! only makes sense together.

mod failure;

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    AdminConfig, BindingConfig, Config, ConfigError, CudaConfig, Digest, Dtype, EngineConfig,
    FailurePolicyName, GrantName, GuardConfig, KeyConfig, LogConfig, ModelConfig, Overrides,
    PluginLimits, PluginsConfig, QuestionLimits, RecordConfig, RouteConfig, SamplingDefaults,
    SamplingLimits, SamplingSection, ServerConfig,
    error::nearest,
    file::{
        BindingSection, BreakerSection, ConfigFile, GuardSection, HttpSection, PluginLimitsSection,
        QuestionsSection, RouteSection, ServerSection,
    },
    http,
    location::Document,
    provenance, sources,
};
use crate::{builtin, oci::Registries, signing::TrustedKeys};

/// Why there is no float16.
const FLOAT16: &str = "`dtype` is float16, whose largest number Gemma 2's residual stream passes: \
     answers would turn to nonsense. Say `bfloat16`, which takes the same memory, or `float32`";

/// Most requests of a route that are kept.
const MAX_RECORDS: u32 = 10_000;

/// Most plugins of one route; a chain longer than this is a mistake.
const MAX_BINDINGS: usize = 32;

/// Checks everything that can be said of the file alone.
pub(super) fn check_tree(tree: &ConfigFile, document: &Document<'_>) -> Result<(), ConfigError> {
    check_server(&tree.server, document)?;
    if let Some(hash) = &tree.admin.token_sha256 {
        check_digest(hash, "admin.token_sha256", document)?;
    }
    let slowdown = tree.engine.max_slowdown;
    if slowdown.is_nan() || slowdown < 1.0 {
        let message = format!("`max_slowdown` is {slowdown}; it must be 1 or more, or `inf`");
        return Err(document.invalid("engine.max_slowdown", message));
    }
    check_sampling(&tree.sampling, "sampling", document)?;
    provenance::check(tree, document)?;
    sources::check(&tree.plugins.sources, document)?;
    let mut names: HashMap<&str, &str> = HashMap::new();
    for (index, route) in tree.routes.iter().enumerate() {
        let key = format!("routes.{index}");
        check_route(route, &key, document)?;
        for (name, place) in std::iter::once((&route.name, format!("{key}.name"))).chain(
            route
                .aliases
                .iter()
                .map(|alias| (alias, format!("{key}.aliases"))),
        ) {
            if let Some(other) = names.insert(name, &route.name) {
                let message = format!("`{name}` already leads to route `{other}`");
                return Err(document.invalid(&place, message));
            }
        }
    }
    if let Some((index, _)) = tree
        .routes
        .iter()
        .enumerate()
        .filter(|(_, route)| route.default)
        .nth(1)
    {
        let message = "two routes say `default = true`, one may";
        return Err(document.invalid(&format!("routes.{index}.default"), message));
    }
    check_keys(tree, document)
}

fn check_server(server: &ServerSection, document: &Document<'_>) -> Result<(), ConfigError> {
    for (name, seconds) in [
        ("request_timeout_seconds", server.request_timeout_seconds),
        ("body_timeout_seconds", server.body_timeout_seconds),
        ("header_timeout_seconds", server.header_timeout_seconds),
        ("keep_alive_seconds", server.keep_alive_seconds),
        ("stall_seconds", server.stall_seconds),
    ] {
        if !(seconds > 0.0 && seconds <= 86_400.0) {
            let message = format!("`{name}` is {seconds}; it must be above 0 and up to 86400");
            return Err(document.invalid(&format!("server.{name}"), message));
        }
    }
    if !(0.0..=86_400.0).contains(&server.drain_timeout_seconds) {
        let message = format!(
            "`drain_timeout_seconds` is {}; it must be 0 to 86400",
            server.drain_timeout_seconds
        );
        return Err(document.invalid("server.drain_timeout_seconds", message));
    }
    for (name, count) in [
        ("max_body_bytes", server.max_body_bytes),
        ("max_messages", server.max_messages),
    ] {
        if count == 0 {
            let message = format!("`{name}` is 0; nothing could be asked");
            return Err(document.invalid(&format!("server.{name}"), message));
        }
    }
    for (index, origin) in server.cors_allow_origins.iter().enumerate() {
        if origin != "*" && axum::http::HeaderValue::from_str(origin).is_err() {
            let key = format!("server.cors_allow_origins.{index}");
            return Err(document.invalid(&key, format!("`{origin}` is not an origin")));
        }
    }
    Ok(())
}

fn check_sampling(
    sampling: &SamplingSection,
    key: &str,
    document: &Document<'_>,
) -> Result<(), ConfigError> {
    let check = |name: &str, value: Option<f32>, range: &str, fits: fn(f32) -> bool| match value {
        Some(value) if !fits(value) => Err(document.invalid(
            &format!("{key}.{name}"),
            format!("`{name}` is {value}; it must be {range}"),
        )),
        _ => Ok(()),
    };
    check("temperature", sampling.temperature, "0 to 2", |v| {
        (0.0..=2.0).contains(&v)
    })?;
    check("top_p", sampling.top_p, "above 0 and up to 1", |v| {
        v > 0.0 && v <= 1.0
    })?;
    check("min_p", sampling.min_p, "0 to 1", |v| {
        (0.0..=1.0).contains(&v)
    })?;
    let above_zero = |v: f32| v > 0.0 && v.is_finite();
    check(
        "repetition_penalty",
        sampling.repetition_penalty,
        "above 0",
        above_zero,
    )?;
    if sampling.max_tokens == Some(0) {
        let message = "`max_tokens` is 0; every answer would be empty";
        return Err(document.invalid(&format!("{key}.max_tokens"), message));
    }
    Ok(())
}

fn check_route(
    route: &RouteSection,
    key: &str,
    document: &Document<'_>,
) -> Result<(), ConfigError> {
    if !is_name(&route.name) {
        let message = format!(
            "route name `{}` must be 1 to 64 letters, digits, `-`, `_` or `.`",
            route.name
        );
        return Err(document.invalid(&format!("{key}.name"), message));
    }
    check_sampling(&route.sampling, &format!("{key}.sampling"), document)?;
    if let Some(temperature) = route.limits.max_temperature
        && !(0.0..=2.0).contains(&temperature)
    {
        let message = format!("`max_temperature` is {temperature}; it must be 0 to 2");
        return Err(document.invalid(&format!("{key}.limits.max_temperature"), message));
    }
    if let Some(record) = &route.record
        && record.keep.get() > MAX_RECORDS
    {
        let message = format!("`keep` is {}; {MAX_RECORDS} are the limit", record.keep);
        return Err(document.invalid(&format!("{key}.record.keep"), message));
    }
    if route.plugins.is_empty() {
        let message = format!(
            "route `{}` has no plugins; it needs at least the one that renders prompts, \
             such as `plugins = [{{ plugin = \"chatml\" }}]`",
            route.name
        );
        return Err(document.invalid(key, message));
    }
    if route.plugins.len() > MAX_BINDINGS {
        let message = format!(
            "route `{}` has {} plugins, {MAX_BINDINGS} are the limit",
            route.name,
            route.plugins.len()
        );
        return Err(document.invalid(&format!("{key}.plugins"), message));
    }
    for (index, binding) in route.plugins.iter().enumerate() {
        let key = format!("{key}.plugins.{index}");
        if !is_name(&binding.plugin) {
            let message = format!(
                "plugin name `{}` must be 1 to 64 letters, digits, `-`, `_` or `.`",
                binding.plugin
            );
            return Err(document.invalid(&format!("{key}.plugin"), message));
        }
        if let Err(error) = serde_json::to_value(&binding.settings) {
            return Err(document.invalid(&format!("{key}.settings"), error.to_string()));
        }
        failure::check(binding, &key, document)?;
        http::check(binding, &key, document)?;
    }
    Ok(())
}

fn check_keys(tree: &ConfigFile, document: &Document<'_>) -> Result<(), ConfigError> {
    let mut names = HashSet::new();
    for (index, entry) in tree.keys.iter().enumerate() {
        let key = format!("keys.{index}");
        check_digest(&entry.sha256, &format!("{key}.sha256"), document)?;
        if !names.insert(&entry.name) {
            let message = format!("two keys have the name `{}`", entry.name);
            return Err(document.invalid(&format!("{key}.name"), message));
        }
        for route in entry.routes.iter().flatten() {
            let known = || tree.routes.iter().map(|route| route.name.as_str());
            if !tree.routes.is_empty() && !known().any(|name| name == route) {
                let mut message = format!("there is no route `{route}`");
                if let Some(name) = nearest(route, known()) {
                    message.push_str(&format!(", did you mean `{name}`?"));
                }
                return Err(document.invalid(&format!("{key}.routes"), message));
            }
        }
    }
    Ok(())
}

fn check_digest(text: &str, key: &str, document: &Document<'_>) -> Result<(), ConfigError> {
    if Digest::from_hex(text).is_some() {
        return Ok(());
    }
    let message = "this is not a SHA-256 of 64 hexadecimal digits; `gapura key new` prints one \
                   (never put the key itself here)";
    Err(document.invalid(key, message))
}

/// Letters, digits and `-_.`, so that it can stand in a path, a file name and a header.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Fills in what the file leaves out.
pub(super) fn resolve(
    tree: ConfigFile,
    document: &Document<'_>,
    environment: &Overrides,
) -> Result<Config, ConfigError> {
    let folder = document
        .path
        .and_then(Path::parent)
        .unwrap_or(Path::new(""));
    let sampling = sampling_defaults(&tree.sampling, BASE_SAMPLING);
    let limits = plugin_limits(&tree.plugins.limits, BASE_LIMITS);
    let trusted_keys = provenance::trusted_keys(&tree.plugins.trusted_keys);
    let mut routes: Vec<RouteConfig> = tree
        .routes
        .iter()
        .map(|route| resolve_route(route, &trusted_keys, sampling, limits))
        .collect();
    match routes.first_mut() {
        None => routes.push(built_in_route(sampling, limits)),
        Some(_) if tree.routes.iter().any(|route| route.default) => {}
        Some(first) => first.default = true,
    }
    let mut keys = environment.keys.clone();
    for entry in &tree.keys {
        let digest = Digest::from_hex(&entry.sha256).expect("check_tree has seen every digest");
        keys.push(KeyConfig {
            name: entry.name.clone(),
            digest,
            routes: entry.routes.clone(),
            max_requests_per_minute: entry.max_requests_per_minute,
            private_cache: entry.private_cache,
        });
    }
    if tree.model.dtype == Dtype::Float16 {
        return Err(ConfigError::Conflict(FLOAT16.to_owned()));
    }
    let log_level = log_filter(&tree.log.level).map_err(ConfigError::Conflict)?;
    let config = Config {
        path: document.path.map(Path::to_owned),
        server: resolve_server(tree.server),
        admin: AdminConfig {
            token: tree
                .admin
                .token_sha256
                .as_deref()
                .and_then(Digest::from_hex),
            listen: tree.admin.listen,
            max_plugin_bytes: tree.admin.max_plugin_bytes,
        },
        log: LogConfig {
            format: tree.log.format,
            level: log_level,
        },
        model: ModelConfig {
            source: tree
                .model
                .source
                .map(|source| relative_model(folder, source)),
            name: tree.model.name,
            revision: tree.model.revision,
            cache_dir: tree
                .model
                .cache_dir
                .map_or_else(hub_cache_dir, |dir| folder.join(dir)),
            hub: tree.model.hub,
            hub_token: environment.hub_token.clone(),
            device: tree.model.device,
            quantize: tree.model.quantize,
            dtype: tree.model.dtype,
            threads: tree.model.threads,
            kv_memory_bytes: tree.model.kv_memory_mib.map(|mib| (mib.get() as u64) << 20),
            context_length: tree.model.context_length,
        },
        cuda: CudaConfig {
            device: tree.cuda.device,
            flash_attention: tree.cuda.flash_attention,
            graphs: tree.cuda.graphs,
            tf32: tree.cuda.tf32,
            cache_dir: tree.cuda.cache_dir.map_or_else(
                || user_cache_dir().join("gapura/kernels"),
                |dir| folder.join(dir),
            ),
        },
        engine: EngineConfig {
            max_queued: tree.engine.max_queued,
            max_num_seqs: tree.engine.max_num_seqs,
            max_step_tokens: tree.engine.max_step_tokens,
            max_slowdown: tree.engine.max_slowdown as f32,
            prefix_cache: tree.engine.prefix_cache,
            sim_step: Duration::from_secs_f64((tree.engine.sim_step_ms / 1000.0).clamp(0.0, 60.0)),
        },
        sampling,
        plugins: PluginsConfig {
            releases_dir: tree
                .plugins
                .releases_dir
                .map(|dir| folder.join(dir))
                .or_else(|| Some(folder.join(tree.plugins.dir.as_ref()?).join(".releases"))),
            keep_versions: tree.plugins.keep_versions.get(),
            dir: tree.plugins.dir.map(|dir| folder.join(dir)),
            watch: tree.plugins.watch,
            ledger: tree.plugins.ledger,
            guard: guard(&tree.plugins.guard),
            cache_dir: tree.plugins.cache_dir.map_or_else(
                || user_cache_dir().join("gapura/plugins"),
                |dir| folder.join(dir),
            ),
            trusted_keys,
            limits,
            sources: sources::resolve(&tree.plugins.sources),
        },
        // Their passwords come from the environment.
        registries: Registries::new(),
        routes,
        keys,
    };
    check_open(&config)?;
    Ok(config)
}

fn guard(section: &GuardSection) -> GuardConfig {
    GuardConfig {
        enabled: section.enabled,
        min_requests: section.min_requests,
        max_failure_rate: section.max_failure_rate,
        max_deadline_rate: section.max_deadline_rate,
        max_latency_ratio: section.max_latency_ratio,
        min_latency: Duration::from_micros(section.min_latency_us),
        probation: Duration::from_secs(section.probation_seconds),
    }
}

fn resolve_server(server: ServerSection) -> ServerConfig {
    ServerConfig {
        listen: server.listen,
        allow_open: server.allow_open,
        max_body_bytes: server.max_body_bytes,
        max_messages: server.max_messages,
        request_timeout: Duration::from_secs_f64(server.request_timeout_seconds),
        body_timeout: Duration::from_secs_f64(server.body_timeout_seconds),
        header_timeout: Duration::from_secs_f64(server.header_timeout_seconds),
        drain_timeout: Duration::from_secs_f64(server.drain_timeout_seconds),
        keep_alive: Duration::from_secs_f64(server.keep_alive_seconds),
        stall: Duration::from_secs_f64(server.stall_seconds),
        cors_allow_origins: server.cors_allow_origins,
        max_requests_per_minute: server.max_requests_per_minute,
    }
}

/// Whoever can reach an open server spends its machine.
fn check_open(config: &Config) -> Result<(), ConfigError> {
    let listen = config.server.listen;
    if listen.ip().is_loopback() || !config.keys.is_empty() || config.server.allow_open {
        return Ok(());
    }
    Err(ConfigError::Conflict(format!(
        "{listen} can be reached from other machines and no API key is set: add one \
         (`gapura key new`, or API_KEYS), listen on 127.0.0.1, or say `--allow-open`"
    )))
}

const BASE_SAMPLING: SamplingDefaults = SamplingDefaults {
    max_tokens: None,
    temperature: 1.0,
    top_p: 1.0,
    top_k: 0,
    min_p: 0.0,
    repetition_penalty: 1.0,
};

/// What guests get where nobody says otherwise.
pub(crate) const BASE_LIMITS: PluginLimits = PluginLimits {
    memory_bytes: 64 << 20,
    call_deadline: Duration::from_millis(50),
    delta_deadline: Duration::from_millis(5),
    output_bytes: 1 << 20,
    held_bytes: 64 << 10,
    log_lines: 64,
    kv_bytes: 1 << 20,
};

fn sampling_defaults(section: &SamplingSection, base: SamplingDefaults) -> SamplingDefaults {
    SamplingDefaults {
        max_tokens: section.max_tokens.or(base.max_tokens),
        temperature: section.temperature.unwrap_or(base.temperature),
        top_p: section.top_p.unwrap_or(base.top_p),
        top_k: section.top_k.unwrap_or(base.top_k),
        min_p: section.min_p.unwrap_or(base.min_p),
        repetition_penalty: section
            .repetition_penalty
            .unwrap_or(base.repetition_penalty),
    }
}

fn plugin_limits(section: &PluginLimitsSection, base: PluginLimits) -> PluginLimits {
    let scaled = |value: Option<NonZeroU32>, unit: usize, base: usize| {
        value.map_or(base, |n| n.get() as usize * unit)
    };
    let millis = |value: Option<NonZeroU32>, base: Duration| {
        value.map_or(base, |n| Duration::from_millis(u64::from(n.get())))
    };
    PluginLimits {
        memory_bytes: scaled(section.memory_mib, 1 << 20, base.memory_bytes),
        call_deadline: millis(section.call_deadline_ms, base.call_deadline),
        delta_deadline: millis(section.delta_deadline_ms, base.delta_deadline),
        output_bytes: scaled(section.output_kib, 1 << 10, base.output_bytes),
        held_bytes: scaled(section.held_kib, 1 << 10, base.held_bytes),
        log_lines: section.log_lines.unwrap_or(base.log_lines),
        kv_bytes: scaled(section.kv_kib, 1 << 10, base.kv_bytes),
    }
}

fn question_limits(section: &QuestionsSection) -> QuestionLimits {
    let or = |value: Option<NonZeroU32>, base| value.map_or(base, NonZeroU32::get);
    QuestionLimits {
        questions: or(section.questions, 2),
        tokens: or(section.tokens, 256),
        within: Duration::from_secs(or(section.seconds, 10).into()),
    }
}

fn resolve_route(
    route: &RouteSection,
    trusted_keys: &TrustedKeys,
    sampling: SamplingDefaults,
    limits: PluginLimits,
) -> RouteConfig {
    RouteConfig {
        name: route.name.clone(),
        aliases: route.aliases.clone(),
        default: route.default,
        plugins: route
            .plugins
            .iter()
            .map(|binding| resolve_binding(binding, limits))
            .collect(),
        signers: provenance::signers(&route.require_signature, trusted_keys),
        sampling: sampling_defaults(&route.sampling, sampling),
        limits: SamplingLimits {
            max_tokens: route.limits.max_tokens,
            max_temperature: route.limits.max_temperature,
            max_choices: route.limits.max_choices,
        },
        record: route.record.as_ref().map(|record| RecordConfig {
            keep: record.keep.get() as usize,
            redact: record.redact,
            max_bytes: (record.max_mib.get() as usize) << 20,
        }),
    }
}

fn resolve_binding(binding: &BindingSection, limits: PluginLimits) -> BindingConfig {
    let is_template = binding.plugin == builtin::TEMPLATE;
    let plugin = if is_template {
        builtin::DEFAULT_TEMPLATE
    } else {
        &binding.plugin
    };
    BindingConfig {
        plugin: plugin.to_owned(),
        is_template,
        digests: provenance::digests(binding.digest.as_ref()),
        settings: serde_json::to_value(&binding.settings)
            .expect("check_tree has turned every settings table into JSON"),
        grants: binding.grants.clone(),
        reuse: binding.reuse,
        on_failure: binding.on_failure,
        static_answer: binding.static_answer.clone(),
        breaker: failure::breaker(&binding.breaker),
        force_open: binding.force_open && binding.on_failure == Some(FailurePolicyName::Open),
        limits: plugin_limits(&binding.limits, limits),
        questions: question_limits(&binding.model),
        http: http::access(&binding.http),
    }
}

/// The route of a server without routes.
fn built_in_route(sampling: SamplingDefaults, limits: PluginLimits) -> RouteConfig {
    let template = BindingSection {
        plugin: builtin::TEMPLATE.to_owned(),
        digest: None,
        settings: toml::Table::new(),
        grants: vec![GrantName::Log],
        reuse: None,
        on_failure: None,
        static_answer: None,
        breaker: BreakerSection::default(),
        force_open: false,
        limits: PluginLimitsSection::default(),
        model: QuestionsSection::default(),
        http: HttpSection::default(),
    };
    RouteConfig {
        name: "default".to_owned(),
        aliases: Vec::new(),
        default: true,
        plugins: vec![resolve_binding(&template, limits)],
        signers: None,
        sampling,
        limits: SamplingLimits::default(),
        record: None,
    }
}

/// A level, or a list of levels and `target=level`. Python's names for levels are known too,
/// for `.env` files of Python servers have them.
fn log_filter(text: &str) -> Result<String, String> {
    let level = |word: &str| match word.to_ascii_lowercase().as_str() {
        known @ ("off" | "error" | "warn" | "info" | "debug" | "trace") => Some(known.to_owned()),
        "warning" => Some("warn".to_owned()),
        "critical" | "fatal" => Some("error".to_owned()),
        "notset" => Some("trace".to_owned()),
        _ => None,
    };
    let directive = |part: &str| match part.trim().rsplit_once('=') {
        None => level(part.trim()),
        Some((target, word)) => level(word).map(|level| format!("{target}={level}")),
    };
    let directives: Option<Vec<String>> = text.split(',').map(directive).collect();
    directives.map(|list| list.join(",")).ok_or_else(|| {
        format!(
            "log level `{text}` is not off, error, warn, info, debug, trace, or a list such as \
             `info,gapura=debug`"
        )
    })
}

/// A model path in the file is meant from where the file is.
fn relative_model(folder: &Path, source: String) -> String {
    let is_path =
        source.ends_with(".gguf") || source.starts_with("./") || source.starts_with("../");
    if is_path && Path::new(&source).is_relative() && !folder.as_os_str().is_empty() {
        let joined = folder.join(&source);
        if joined.exists() {
            return joined.to_string_lossy().into_owned();
        }
    }
    source
}

/// `$XDG_CACHE_HOME` or its like; a folder in the working directory where there is no home.
pub(crate) fn user_cache_dir() -> PathBuf {
    use etcetera::BaseStrategy as _;
    etcetera::choose_base_strategy().map_or_else(
        |_| PathBuf::from(".gapura-cache"),
        |strategy| strategy.cache_dir(),
    )
}

fn hub_cache_dir() -> PathBuf {
    std::env::var_os("HF_HOME")
        .map_or_else(|| user_cache_dir().join("huggingface"), PathBuf::from)
        .join("hub")
}
