//! From the tree of the file, checked, to the [`Config`]: fills defaults in and looks at what only
//! makes sense together.

use std::{
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use gapura_plugin_runtime::Import;

use super::{
    AdminConfig, BindingConfig, Config, ConfigError, CudaConfig, Digest, Dtype, EngineConfig,
    FailurePolicyName, GuardConfig, KeyConfig, LogConfig, ModelConfig, Overrides, PluginLimits,
    PluginsConfig, QuestionLimits, RecordConfig, RouteConfig, SamplingDefaults, SamplingLimits,
    SamplingSection, ServerConfig, failure,
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
            max_instances: tree.plugins.max_instances.get(),
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
        grants: vec![Import::Log],
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
