//! What bindings may stand together.

use std::sync::Arc;

use gapura_plugin_runtime::{
    Binding, Chain, ChainError, FailurePolicy, Grants, Import, Limits, Stage,
};
use gapura_test_guests as guests;
use serde_json::json;

use crate::support::{bind, chain, load};

fn refused(bindings: Vec<Binding>) -> ChainError {
    Chain::new("chat", bindings).expect_err("refused")
}

#[test]
fn a_chain_has_a_label_and_its_bindings() {
    let chain = chain(vec![bind(load("accept", guests::ACCEPT))]);
    let labels: Vec<_> = chain
        .bindings()
        .iter()
        .map(|binding| binding.plugin.label())
        .collect();
    assert_eq!(chain.label(), labels.join(","));
    assert!(
        chain.label().starts_with("accept@1.2.3+"),
        "{}",
        chain.label()
    );
    assert!(
        chain.label().contains(",render@0.3.0+"),
        "{}",
        chain.label()
    );
    assert_eq!(chain.route(), "route");
    assert_eq!(Arc::strong_count(&chain), 1);
}

#[test]
fn a_chain_has_exactly_one_renderer() {
    let accept = || bind(load("accept", guests::ACCEPT));
    let error = refused(vec![accept()]);
    assert_eq!(
        error,
        ChainError::NoRenderer {
            route: "chat".to_owned()
        }
    );
    assert_eq!(
        refused(Vec::new()),
        ChainError::NoRenderer {
            route: "chat".to_owned()
        }
    );

    let (first, second) = (
        load("render", guests::RENDER),
        load("every", guests::EVERY_STAGE),
    );
    let error = refused(vec![bind(first.clone()), accept(), bind(second.clone())]);
    let (first, second) = (first.label().to_owned(), second.label().to_owned());
    assert_eq!(
        error,
        ChainError::TwoRenderers {
            route: "chat".to_owned(),
            first,
            second
        }
    );
}

#[test]
fn an_import_must_be_granted() {
    let plugin = load("settings", guests::SETTINGS);
    let error = refused(vec![Binding::new(plugin.clone())]);
    let ChainError::NotGranted {
        plugin: label,
        import,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((&*label, import), (plugin.label(), Import::Tokenizer));

    let granted = Binding {
        grants: Grants::with([Import::Tokenizer]),
        ..Binding::new(plugin)
    };
    Chain::new("chat", vec![granted, bind(load("render", guests::RENDER))]).expect("granted");
}

#[test]
fn a_guard_must_fail_closed_unless_forced() {
    let open = |plugin| Binding {
        on_failure: FailurePolicy::Open,
        ..bind(plugin)
    };
    let guard = open(load("accept", guests::ACCEPT));
    let error = refused(vec![guard.clone()]);
    assert!(
        matches!(
            error,
            ChainError::OpenNotAllowed {
                stage: Stage::Validate,
                ..
            }
        ),
        "{error}"
    );
    let error = refused(vec![open(load("render", guests::RENDER))]);
    assert!(
        matches!(
            error,
            ChainError::OpenNotAllowed {
                stage: Stage::Render,
                ..
            }
        ),
        "{error}"
    );

    chain(vec![Binding {
        allow_open_validator: true,
        ..guard
    }]);
    chain(vec![open(load("moody", guests::MOODY))]);
}

#[test]
fn settings_and_limits_are_checked() {
    let accept = load("accept", guests::ACCEPT);
    let error = refused(vec![Binding {
        settings: json!([1]),
        ..bind(accept.clone())
    }]);
    assert!(
        matches!(
            error,
            ChainError::Settings {
                found: "an array",
                ..
            }
        ),
        "{error}"
    );

    let limits = Limits {
        memory_bytes: 1 << 40,
        ..Limits::default()
    };
    let error = refused(vec![Binding {
        limits,
        ..bind(accept.clone())
    }]);
    let expected = format!(
        "route \"chat\", plugin {}: limit memory_bytes is 1099511627776, but must be 65536 to \
         268435456",
        accept.label()
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn limits_read_from_configuration() {
    let limits: Limits = serde_json::from_value(json!({ "delta_ms": 7 })).expect("limits");
    assert_eq!(
        limits,
        Limits {
            delta_ms: 7,
            ..Limits::default()
        }
    );
    let error = serde_json::from_value::<Limits>(json!({ "delta": 7 })).expect_err("unknown");
    assert!(
        error.to_string().contains("unknown field `delta`"),
        "{error}"
    );
}
