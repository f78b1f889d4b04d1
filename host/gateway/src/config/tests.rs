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
    insta::assert_snapshot!(message("[plugin]\n"), @"gapura.toml:1:2: unknown key `plugin`, did you mean `plugins`? (known here: server, admin, log, model, cuda, engine, sampling, plugins, registries, routes, keys)");
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
fn what_happens_to_failures_must_fit_together() {
    let route = |more: &str| {
        format!("[[routes]]\nname = 'a'\nplugins = [{{ plugin = 'chatml', {more} }}]\n")
    };
    let message = |more: &str| message(&route(more));
    insta::assert_snapshot!(message("on_failure = 'static'"), @r#"gapura.toml:3:46: `on_failure` is `static`, which needs the text: `static_answer = "…"`"#);
    insta::assert_snapshot!(message("on_failure = 'static', static_answer = ' '"), @"gapura.toml:3:72: `static_answer` is empty; it is what clients read");
    insta::assert_snapshot!(message("on_failure = 'open', static_answer = 'maaf'"), @r#"gapura.toml:3:70: `static_answer` means nothing without `on_failure = "static"`"#);
    insta::assert_snapshot!(message("on_failure = 'retry'"), @"gapura.toml:3:46: unknown value `retry` (known here: closed, open, previous, static)");
    insta::assert_snapshot!(message("breaker = { max_backoff_ms = 900 }"), @"gapura.toml:3:43: `max_backoff_ms` is 900, less than `backoff_ms`, which is 1000");
    insta::assert_snapshot!(message("breaker = { backoff_ms = 0 }"), @"gapura.toml:3:58: invalid value: integer `0`, expected a nonzero u32");
    let binding = |more: &str| parse(&route(more)).unwrap().routes[0].plugins[0].clone();
    let off = binding("on_failure = 'static', static_answer = 'maaf', breaker = { failures = 0 }");
    assert_eq!(off.static_answer.as_deref(), Some("maaf"));
    assert_eq!(off.breaker.failures, 0);
    let default = binding("on_failure = 'previous'").breaker;
    assert_eq!(default, gapura_plugin_runtime::BreakerConfig::default());
    let slow = binding("breaker = { failures = 2, backoff_ms = 5000 }").breaker;
    assert_eq!((slow.failures, slow.backoff), (2, Duration::from_secs(5)));
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
fn trusted_keys_and_what_asks_for_them_must_fit_together() {
    let one = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
    let key = format!("[[plugins.trusted_keys]]\nname = 'release'\npublic_key = '{one}'\n");
    let asks = |asked: &str| message(&format!("{key}{ROUTE}require_signature = {asked}\n"));
    insta::assert_snapshot!(message(&format!("{ROUTE}require_signature = true\n")), @"gapura.toml:4:21: no signature could count without [[plugins.trusted_keys]]");
    insta::assert_snapshot!(asks("['relaese']"), @"gapura.toml:7:21: there is no key `relaese` in [[plugins.trusted_keys]], did you mean `release`?");
    insta::assert_snapshot!(asks("[]"), @"gapura.toml:7:21: the list is empty, so that no signature could count; say `false` to ask for none");
    insta::assert_snapshot!(asks("'release'"), @"gapura.toml:7:21: `require_signature` is true, false, or a list of names of trusted keys");
    insta::assert_snapshot!(message(&format!("{key}{key}")), @"gapura.toml:5:8: two trusted keys have the name `release`");
    insta::assert_snapshot!(message(&format!("{key}{}", key.replace("'release'", "'other'"))), @"gapura.toml:6:14: `other` is the same key as `release`");
    insta::assert_snapshot!(message(&key.replace("'release'", "'a b'")), @"gapura.toml:2:8: key name `a b` must be 1 to 64 letters, digits, `-`, `_` or `.`");
    insta::assert_snapshot!(message(&key.replace("ed25519:11", "ed25519:1")), @"gapura.toml:3:14: key `release`: this is not a public key, which is `ed25519:` and 44 characters of base64; `gapura key new --signing FILE` prints one");
    insta::assert_snapshot!(message("[[plugins.trusted_keys]]\nname = 'zero'\npublic_key = 'ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA='\n"), @"gapura.toml:3:14: key `zero`: this public key is one of the few that fit signatures of anybody");
    insta::assert_snapshot!(message("[[plugins.trusted_keys]]\nname = 'mine'\npublic_key = '-----BEGIN PRIVATE KEY-----'\n"), @"gapura.toml:3:14: key `mine`: this is a private key, and only the public one belongs here; what others can read by now needs to be replaced");

    let parsed = |asked: &str| {
        let other = key.replace("'release'", "'other'").replace(one, OTHER);
        let toml = format!("{key}{other}{ROUTE}require_signature = {asked}\n");
        let signers = parse(&toml).unwrap().routes[0].signers.clone();
        signers.map(|signers| signers.to_string())
    };
    const OTHER: &str = "ed25519:PutThePublicKeyOfYourTeamHere/EXAMPLEEXAMPA=";
    assert_eq!(parsed("false"), None);
    assert_eq!(parsed("true").as_deref(), Some("release or other"));
    assert_eq!(parsed("['other']").as_deref(), Some("other"));
}

#[test]
fn a_digest_pin_is_one_or_several_digests() {
    let pin = |plugin: &str, digest: &str| {
        format!(
            "[[routes]]\nname = 'a'\nplugins = [{{ plugin = '{plugin}', digest = {digest} }}]\n"
        )
    };
    let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
    let pinned = |digest: &str| {
        let config = parse(&pin("chatml", digest)).unwrap();
        config.routes[0].plugins[0].digests.clone()
    };
    assert_eq!(pinned(&format!("'{one}'")), [one]);
    assert_eq!(pinned(&format!("'{}'", one.to_hex().to_uppercase())), [one]);
    assert_eq!(pinned(&format!("['{one}', '{other}']")), [one, other]);
    insta::assert_snapshot!(message(&pin("chatml", "'sha256:abc'")), @"gapura.toml:3:42: `sha256:abc` is not a SHA-256 of 64 hexadecimal digits; `gapura plugin inspect` shows that of a component");
    insta::assert_snapshot!(message(&pin("chatml", "[]")), @"gapura.toml:3:42: the list is empty, so that nothing could be bound; leave `digest` out to bind whatever is live");
    insta::assert_snapshot!(message(&pin("chatml", "7")), @"gapura.toml:3:42: `digest` is `sha256:…`, as `gapura plugin inspect` shows it, or a list of those");
    insta::assert_snapshot!(message(&pin("template", &format!("'{one}'"))), @"gapura.toml:3:44: which plugin `template` stands for depends on the model; bind the plugin by its own name to pin its digest");
    insta::assert_snapshot!(message(&pin("chatml", &format!("['{one}', '{}']", one.to_hex()))), @"gapura.toml:3:42: sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b stands there twice");
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
    let variables = [("REGISTRY_PASSWORD", "secret")];
    assert!(parse_with(&uncommented(), &variables).is_ok());
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
fn sources_are_pinned_and_registries_have_their_passwords() {
    let digest = "a1".repeat(32);
    let pinned = format!("oci://registry.example.com/team/persona:1@sha256:{digest}");
    let next = format!(
        "oci://registry.example.com/team/persona:2@sha256:{}",
        "b2".repeat(32)
    );
    let toml = format!(
        "[plugins.sources]\npersona = '{pinned}'\n\
         guard = {{ oci = '{pinned}', canary = {{ oci = '{next}', percent = 10 }} }}\n\
         [registries.'registry.example.com']\nusername = 'u'\npassword_env = 'P'\n"
    );
    let config = parse_with(&toml, &[("P", "secret")]).unwrap();
    let [guard, persona] = ["guard", "persona"].map(|name| &config.plugins.sources[name]);
    assert_eq!(persona.live.reference.to_string(), pinned);
    assert_eq!(persona.live.manifest.to_hex(), digest);
    assert_eq!((&persona.live, &persona.canary), (&guard.live, &None));
    let canary = guard.canary.as_ref().expect("a canary");
    assert_eq!(canary.version.reference.to_string(), next);
    assert_eq!(canary.percent, 10);
    let login = config.registries["registry.example.com"].login.as_ref();
    assert_eq!(login.map(|login| login.password.expose()), Some("secret"));
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn what_two_gateways_could_read_differently_is_no_desired_state() {
    let digest = "a1".repeat(32);
    insta::assert_snapshot!(message("[plugins.sources]\npersona = 'oci://r.example.com/persona:1.2.0'\n"), @"gapura.toml:2:11: `oci://r.example.com/persona:1.2.0` names a tag, which can be moved, so that two gateways would differ; name the version by its digest, `oci://…@sha256:…`, as `gapura plugin publish` prints it");
    insta::assert_snapshot!(message("[plugins.sources]\npersona = 'r.example.com/persona'\n"), @"gapura.toml:2:11: `r.example.com/persona` is not a reference such as `oci://registry.example.com/team/persona:1.2.0` or `oci://registry.example.com/team/persona@sha256:…`: it does not begin with `oci://`");
    let tried = |canary: &str| {
        let live = format!("oci://r.example.com/p@sha256:{digest}");
        message(&format!(
            "[plugins.sources]\npersona = {{ oci = '{live}', canary = {canary} }}\n"
        ))
    };
    let other = format!("oci://r.example.com/p@sha256:{}", "b2".repeat(32));
    insta::assert_snapshot!(tried(&format!("{{ oci = '{other}', percent = 0 }}")), @"gapura.toml:2:11: `percent` is 0; a canary answers 1 to 100 of a hundred requests");
    insta::assert_snapshot!(tried(&format!("{{ oci = '{other}', percent = 300 }}")), @"gapura.toml:2:11: `percent` is 300; a canary answers 1 to 100 of a hundred requests");
    insta::assert_snapshot!(tried(&format!("{{ oci = 'oci://r.example.com/p@sha256:{digest}', percent = 5 }}")), @"gapura.toml:2:11: `oci://r.example.com/p@sha256:a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1` is the live version and its own canary; name two versions, or leave `canary` out");
    insta::assert_snapshot!(tried("10"), @r#"gapura.toml:2:11: `canary = 10` does not say what answers the other requests; name the live version and the canary, `{ oci = "oci://…", canary = { oci = "oci://r.example.com/p@sha256:a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1", percent = 10 } }`"#);
    insta::assert_snapshot!(tried("{ oci = 'oci://r.example.com/p:2', percent = 5 }"), @"gapura.toml:2:11: `oci://r.example.com/p:2` names a tag, which can be moved, so that two gateways would differ; name the version by its digest, `oci://…@sha256:…`, as `gapura plugin publish` prints it");
    insta::assert_snapshot!(tried(&format!("{{ oci = '{other}' }}")), @r#"gapura.toml:2:11: a reference is needed, such as `"oci://registry.example.com/team/persona@sha256:…"`, or a table `{ oci = "oci://…", canary = { oci = "oci://…", percent = 10 } }`"#);
    insta::assert_snapshot!(message(&format!("[plugins.sources]\ntemplate = 'oci://r.example.com/p@sha256:{digest}'\n")), @"gapura.toml:2:12: `template` cannot be the name of a plugin: in a route it stands for the built-in template that suits the model");
    insta::assert_snapshot!(message("[plugins.sources]\npersona = 3\n"), @r#"gapura.toml:2:11: a reference is needed, such as `"oci://registry.example.com/team/persona@sha256:…"`, or a table `{ oci = "oci://…", canary = { oci = "oci://…", percent = 10 } }`"#);
    insta::assert_snapshot!(message("[registries.'r.example.com']\nusername = 'u'\n"), @"gapura.toml:1:1: `username` and `password_env` belong together; say both, or neither");
    insta::assert_snapshot!(message("[registries.'r.example.com']\nusername = 'u'\npassword_env = 'NOT_SET'\n"), @"gapura.toml:3:16: the environment variable `NOT_SET` is not set; it is to hold the password of `u`");
    insta::assert_snapshot!(message("[registries.'https://r.example.com']\n"), @"gapura.toml:1:1: `https://r.example.com` is not a registry such as `registry.example.com` or `127.0.0.1:5000`");
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
