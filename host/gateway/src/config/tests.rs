//! The messages that an operator sees, word for word, and which source of a value wins.

use std::path::Path;

use super::*;

const ROUTE: &str = "[[routes]]\nname = 'chat'\nplugins = [{ plugin = 'chatml' }]\n";

fn parse(toml: &str) -> Result<Config, ConfigError> {
    parse_with(toml, &[])
}

fn parse_with(toml: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let environment = environment.iter().copied().collect();
    Config::parse(
        Some(Path::new("gapura.toml")),
        toml,
        &environment,
        &Overrides::default(),
    )
}

fn message(toml: &str) -> String {
    parse(toml).expect_err(toml).to_string()
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let config = Config::load(None, &Environment::default(), &Overrides::default()).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(config.routes.len(), 1);
    assert!(config.routes[0].plugins[0].is_template && config.routes[0].default);
}

#[test]
fn unknown_keys_get_the_nearest_name_and_the_place() {
    insta::assert_snapshot!(message("[server]\nlistne = '127.0.0.1:1'\n"), @"gapura.toml:2:1: unknown key `listne`, did you mean `listen`? (known here: listen, allow_open, max_body_bytes, max_messages, request_timeout_seconds, body_timeout_seconds, header_timeout_seconds, drain_timeout_seconds, keep_alive_seconds, stall_seconds, cors_allow_origins, max_requests_per_minute)");
    insta::assert_snapshot!(message("[plugin]\n"), @"gapura.toml:1:2: unknown key `plugin`, did you mean `plugins`? (known here: server, admin, log, model, cuda, engine, sampling, plugins, routes, keys)");
    insta::assert_snapshot!(message("[[routes]]\nname = 'a'\nplugins = [{ plugin = 'chatml', grants = ['tokeniser'] }]\n"), @"gapura.toml:3:43: unknown value `tokeniser`, did you mean `tokenizer`? (known here: log, config, tokenizer, metrics, kv, clock, random, model, http)");
}

#[test]
fn wrong_types_and_broken_toml_have_a_place() {
    insta::assert_snapshot!(message("[server]\nmax_messages = 'many'\n"), @r#"gapura.toml:2:16: invalid type: string "many", expected usize"#);
    insta::assert_snapshot!(message("[server\nlisten = 1\n"), @"gapura.toml:1:8: unclosed table, expected `]`");
    insta::assert_snapshot!(message("[server]\nlisten = 'localhost'\n"), @"gapura.toml:2:10: an address or a name is needed, and a port, such as `127.0.0.1:8000`, `[::1]:8000` or `localhost:8000`");
}

#[test]
fn values_out_of_range_name_the_value_and_the_range() {
    insta::assert_snapshot!(message("[sampling]\ntemperature = 3.5\n"), @"gapura.toml:2:15: `temperature` is 3.5; it must be 0 to 2");
    insta::assert_snapshot!(message("[server]\n\nrequest_timeout_seconds = 0\n"), @"gapura.toml:3:27: `request_timeout_seconds` is 0; it must be above 0 and up to 86400");
    insta::assert_snapshot!(message("[[routes]]\nname = 'a b'\nplugins = [{ plugin = 'chatml' }]\n"), @"gapura.toml:2:8: route name `a b` must be 1 to 64 letters, digits, `-`, `_` or `.`");
}

#[test]
fn routes_and_keys_must_fit_together() {
    insta::assert_snapshot!(message(&format!("{ROUTE}{ROUTE}")), @"gapura.toml:5:8: `chat` already leads to route `chat`");
    insta::assert_snapshot!(message("[[routes]]\nname = 'a'\n"), @r#"gapura.toml:1:1: route `a` has no plugins; it needs at least the one that renders prompts, such as `plugins = [{ plugin = "chatml" }]`"#);
    let digest = Digest::of(b"k").to_hex();
    insta::assert_snapshot!(message(&format!("{ROUTE}[[keys]]\nname = 'k'\nsha256 = '{digest}'\nroutes = ['chta']\n")), @"gapura.toml:7:10: there is no route `chta`, did you mean `chat`?");
    insta::assert_snapshot!(message("[[keys]]\nname = 'k'\nsha256 = 'sk-plain'\n"), @"gapura.toml:3:10: this is not a SHA-256 of 64 hexadecimal digits; `gapura key new` prints one (never put the key itself here)");
}

#[test]
fn flash_attention_is_as_the_environment_or_the_file_says() {
    let is_on = |toml: &str, variables: &[(&str, &str)]| {
        parse_with(toml, variables).unwrap().cuda.flash_attention
    };
    let off = "[cuda]\nflash_attention = false\n";
    assert!(is_on("", &[]));
    assert!(!is_on(off, &[]));
    assert!(is_on(off, &[("USE_FLASH_ATTENTION", "true")]));
    assert!(!is_on("", &[("USE_FLASH_ATTENTION", "0")]));
}

#[test]
fn float16_is_refused_with_the_reason() {
    insta::assert_snapshot!(message("[model]\ndtype = 'float16'\n"), @"`dtype` is float16, whose largest number Gemma 2's residual stream passes: answers would turn to nonsense. Say `bfloat16`, which takes the same memory, or `float32`");
}

#[test]
fn weights_are_quantized_as_flag_environment_or_file_say_in_this_order() {
    let quantize = |toml: &str, variables: &[(&str, &str)], flag: Option<Quantize>| {
        let flags = Overrides {
            quantize: flag,
            ..Overrides::default()
        };
        let environment = variables.iter().copied().collect();
        Config::parse(None, toml, &environment, &flags).map(|config| config.model.quantize)
    };
    let file = "[model]\nquantize = '4bit'\n";
    let expected = [
        ("", vec![], None, Quantize::None),
        (file, vec![], None, Quantize::FourBit),
        (
            file,
            vec![("LOAD_IN_8BIT", "True")],
            None,
            Quantize::EightBit,
        ),
        ("", vec![("LOAD_IN_4BIT", "1")], None, Quantize::FourBit),
        // A variable that says false is no word against the file.
        (
            file,
            vec![("LOAD_IN_4BIT", "False")],
            None,
            Quantize::FourBit,
        ),
        (
            file,
            vec![("LOAD_IN_8BIT", "1")],
            Some(Quantize::None),
            Quantize::None,
        ),
    ];
    for (toml, variables, flag, expected) in expected {
        let found = quantize(toml, &variables, flag).unwrap();
        assert_eq!(found, expected, "{toml} {variables:?} {flag:?}");
    }
    let error = quantize("", &[("LOAD_IN_8BIT", "1"), ("LOAD_IN_4BIT", "1")], None).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"LOAD_IN_8BIT and LOAD_IN_4BIT are both true; set one of them to false");
    let error = quantize("", &[("LOAD_IN_8BIT", "maybe")], None).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"environment variable LOAD_IN_8BIT: `maybe` is not true or false");
    insta::assert_snapshot!(message("[model]\nquantize = '5bit'\n"), @"gapura.toml:2:12: unknown value `5bit`, did you mean `4bit`? (known here: none, 8bit, 4bit)");
}

#[test]
fn an_open_server_stays_at_home() {
    insta::assert_snapshot!(message("[server]\nlisten = '0.0.0.0:8000'\n"), @"0.0.0.0:8000 can be reached from other machines and no API key is set: add one (`gapura key new`, or API_KEYS), listen on 127.0.0.1, or say `--allow-open`");
    assert!(parse("[server]\nlisten = '0.0.0.0:8000'\nallow_open = true\n").is_ok());
    assert!(
        parse_with(
            "[server]\nlisten = '0.0.0.0:8000'\n",
            &[("API_KEYS", "a,b")]
        )
        .is_ok()
    );
}

#[test]
fn listeners_may_be_named() {
    let config = parse("[server]\nlisten = 'localhost:1'\n[admin]\nlisten = 'localhost:2'\n");
    let config = config.unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:1");
    assert_eq!(config.admin.listen.unwrap().to_string(), "127.0.0.1:2");
}

#[test]
fn flags_go_before_the_environment_before_the_file() {
    let toml =
        "[server]\nlisten = '127.0.0.1:1'\n[model]\nsource = 'file'\n[log]\nlevel = 'warn'\n";
    let environment: Environment = [
        ("PORT", "2"),
        ("MODEL_NAME", "environment"),
        ("LOG_LEVEL", "DEBUG"),
    ]
    .into_iter()
    .collect();
    let flags = Overrides {
        model: Some("flag".to_owned()),
        ..Overrides::default()
    };
    let config = Config::parse(None, toml, &environment, &flags).unwrap();
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:2");
    assert_eq!(config.model.source.as_deref(), Some("flag"));
    assert_eq!(config.log.level, "debug");
}

#[test]
fn every_variable_of_old_env_files_works() {
    let config = parse_with(
        "",
        &[
            (
                "MODEL_NAME",
                "GoToCompany/gemma2-9b-cpt-sahabatai-v1-instruct",
            ),
            ("DEVICE", "cuda"),
            ("LOAD_IN_8BIT", "false"),
            ("DEFAULT_MAX_NEW_TOKENS", "256"),
            ("DEFAULT_TEMPERATURE", "0.7"),
            ("DEFAULT_TOP_P", "0.9"),
            ("DEFAULT_TOP_K", "50"),
            ("MODEL_MAX_LENGTH", "4096"),
            ("HUGGINGFACE_TOKEN", "hf_x"),
            ("HOST", "0.0.0.0"),
            ("PORT", "9000"),
            ("API_KEYS", "one, two"),
            ("MAX_REQUESTS_PER_MINUTE", "60"),
            ("GAPURA_ADMIN_TOKEN", "t"),
        ],
    )
    .unwrap();
    assert_eq!(config.model.device, Device::Cuda);
    assert_eq!(config.sampling.max_tokens, Some(256));
    assert_eq!(
        (config.sampling.temperature, config.sampling.top_p),
        (0.7, 0.9)
    );
    assert_eq!(config.sampling.top_k, 50);
    assert_eq!(
        config.model.context_length.map(NonZeroUsize::get),
        Some(4096)
    );
    assert_eq!(
        config.model.hub_token.as_ref().map(Secret::expose),
        Some("hf_x")
    );
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:9000");
    assert_eq!(config.keys.len(), 2);
    assert_eq!(config.keys[1].digest, Digest::of(b"two"));
    assert_eq!(config.admin.token, Some(Digest::of(b"t")));
}

#[test]
fn wrong_variables_are_named() {
    for (variable, value) in [
        ("PORT", "70000"),
        ("DEVICE", "tpu"),
        ("DEFAULT_TOP_P", "1.5"),
    ] {
        let error = parse_with("", &[(variable, value)])
            .unwrap_err()
            .to_string();
        assert!(error.contains(variable) && error.contains(value), "{error}");
    }
}

/// The lines of `default.toml` that hold a key, without their `#`.
fn uncommented() -> String {
    let is_key = |line: &str| {
        line.starts_with('[')
            || line.starts_with("    {")
            || line == "]"
            || line.split_once(" = ").is_some_and(|(key, _)| {
                key.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit())
            })
    };
    let lines = DEFAULT_TOML
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line));
    lines
        .filter(|line| is_key(line))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_printed_default_is_the_default() {
    assert_eq!(parse(DEFAULT_TOML).unwrap(), parse("").unwrap());
}

#[test]
fn the_printed_default_has_every_key_and_only_right_ones() {
    let tree: file::ConfigFile = toml::from_str(&uncommented()).unwrap();
    let absent = absent_keys("", &serde_json::to_value(&tree).unwrap());
    // A route's own settings repeat the file's; the example shows some of them.
    let missing: Vec<_> = absent
        .iter()
        .filter(|key| !key.starts_with(".routes"))
        .collect();
    assert!(missing.is_empty(), "default.toml lacks {missing:?}");
    assert!(parse(&uncommented()).is_ok());
}

fn absent_keys(at: &str, value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Null => vec![at.to_owned()],
        serde_json::Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| absent_keys(&format!("{at}.{key}"), value))
            .collect(),
        serde_json::Value::Array(list) => list
            .iter()
            .flat_map(|value| absent_keys(at, value))
            .collect(),
        _ => Vec::new(),
    }
}

#[test]
fn log_levels_are_known_by_pythons_names_too_and_nothing_else_is_one() {
    let level = |text: &str| parse(&format!("[log]\nlevel = '{text}'\n")).map(|c| c.log.level);
    for (asked, meant) in [
        ("WARNING", "warn"),
        ("CRITICAL", "error"),
        ("Info, gapura=Debug", "info,gapura=debug"),
    ] {
        assert_eq!(level(asked).unwrap(), meant);
    }
    for wrong in ["inof", "", "info,gapura", "gapura=loud"] {
        let message = level(wrong).unwrap_err().to_string();
        assert!(message.contains(&format!("`{wrong}` is not")), "{message}");
    }
}

#[test]
fn the_grant_of_http_and_its_hosts_go_together() {
    let binding =
        |rest: &str| format!("[[routes]]\nname = 'a'\nplugins = [{{ plugin = 'p', {rest} }}]\n");
    insta::assert_snapshot!(message(&binding("grants = ['http']")), @r#"gapura.toml:3:12: `p` is granted `http` and no host: name those that it may ask, such as `http = { allow = ["api.example.com"] }`"#);
    insta::assert_snapshot!(message(&binding("http = { allow = ['a.example'] }")), @"gapura.toml:3:35: `http.allow` names hosts and `p` is not granted `http`: add it to `grants`");
    insta::assert_snapshot!(message(&binding("grants = ['http'], http = { allow = ['a.example', 'https://b.example'] }")), @"gapura.toml:3:78: `https://b.example` is a URL; name its host alone, with `:PORT` or without");
    let right = "grants = ['http'], http = { allow = ['a.example'], max_response_kib = 1 }";
    let config = parse(&binding(right)).expect("right");
    let http = &config.routes[0].plugins[0].http;
    let limits = (http.requests, http.within.as_millis(), http.response_bytes);
    assert_eq!(limits, (4, 2000, 1024));
}
