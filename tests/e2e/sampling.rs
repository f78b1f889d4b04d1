//! Every field that says how tokens are chosen, from HTTP to the token drawn. The simulated
//! model gives its scripted token 60 and all others 0.

use gapura_engine::sim::SimRunner;
use gapura_tests::{PLAIN, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

async fn text(server: &Server, fields: Value) -> String {
    let mut body = json!({"model": "chat", "messages": [{"role": "user", "content": "halo"}]});
    for (name, value) in fields.as_object().expect("an object of fields") {
        body[name] = value.clone();
    }
    let answer = server.post(CHAT, body).await;
    assert_eq!(answer.status, 200, "{fields}: {}", answer.text());
    let answer = answer.json();
    answer["choices"][0]["message"]["content"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn server(answer: &str) -> Server {
    Server::start(PLAIN, SimRunner::default().answering(answer))
}

/// With a bias of -60 (`b` is 98) all of its rivals are as likely as the scripted token.
#[tokio::test(flavor = "multi_thread")]
async fn each_filter_leaves_what_it_should() {
    let server = server("bbbbbbbb");
    // 262 rivals, each as likely as `b` once the bias has taken its advantage.
    let even = json!({"98": -60});
    let base = json!({"logit_bias": even, "max_tokens": 8, "seed": 3, "ignore_eos": true});
    let with = |name: &str, value: Value| {
        let mut fields = base.clone();
        fields[name] = value;
        fields
    };
    let free = text(&server, base.clone()).await;
    assert!(free.chars().any(|c| c != 'b'), "{free}");
    // Of equals the lowest id wins, which is the byte 0.
    for fields in [
        with("temperature", json!(0)),
        with("top_k", json!(1)),
        with("top_p", json!(1e-6)),
    ] {
        assert_eq!(
            text(&server, fields.clone()).await,
            "\0".repeat(8),
            "{fields}"
        );
    }
    // A little advantage is everything to min-p.
    let mut fields = with("min_p", json!(0.9));
    fields["logit_bias"] = json!({"98": -59});
    assert_eq!(text(&server, fields.clone()).await, "bbbbbbbb");
    fields["min_p"] = json!(0.0);
    assert_ne!(text(&server, fields).await, "bbbbbbbb");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_penalty_drives_a_token_out() {
    let server = server("bbbb");
    // `b` has 1 more than its rivals.
    let fields = |name: &str, value: f32| json!({"logit_bias": {"98": -59}, "temperature": 0, "max_tokens": 3, name: value});
    assert_eq!(text(&server, fields("presence_penalty", 0.0)).await, "bbb");
    assert_eq!(
        text(&server, fields("presence_penalty", 2.0)).await,
        "b\0\u{1}"
    );
    assert_eq!(
        text(&server, fields("frequency_penalty", 0.6)).await,
        "bb\0"
    );
    // Positive logits are divided; the rivals' 0 stays 0, and so does not change.
    assert_eq!(
        text(&server, fields("repetition_penalty", 10.0)).await,
        "bbb"
    );
    let banned = json!({"logit_bias": {"98": -100}, "temperature": 0, "max_tokens": 2});
    assert_eq!(text(&server, banned).await, "\0\0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_seed_gives_the_same_answer_alone_and_in_company() {
    let server = server("bbbbbbbbbbbbbbbb");
    let fields = |seed: i64| {
        json!({
            "logit_bias": {"98": -60}, "max_tokens": 16, "ignore_eos": true, "seed": seed,
        })
    };
    for seed in [0, 7, i64::MAX, i64::MIN] {
        let alone = text(&server, fields(seed)).await;
        let others = (1..12).map(|n| text(&server, fields(seed.wrapping_add(n))));
        let (again, others) = futures_util::join!(
            text(&server, fields(seed)),
            futures_util::future::join_all(others)
        );
        assert_eq!(again, alone, "{seed}");
        assert!(others.iter().all(|other| *other != alone), "{seed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n_answers_at_the_greatest_seed_differ() {
    let server = server("bbbbbbbb");
    let body = json!({
        "model": "chat", "messages": [{"role": "user", "content": "halo"}], "n": 3,
        "logit_bias": {"98": -60}, "max_tokens": 8, "ignore_eos": true, "seed": i64::MAX,
    });
    let answer = server.post(CHAT, body).await.json();
    let texts: std::collections::HashSet<String> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["message"]["content"].to_string())
        .collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_out_of_range_are_400_and_named() {
    let server = server("ya");
    for (fields, param) in [
        (json!({"logit_bias": {"98": 100.5}}), "logit_bias.98"),
        (json!({"logit_bias": {"98": -101}}), "logit_bias.98"),
        (json!({"logit_bias": {"98": 1e40}}), "logit_bias.98"),
        (json!({"logit_bias": {"263": 1}}), "logit_bias.263"),
        (json!({"logit_bias": {"-1": 1}}), "logit_bias.-1"),
        (
            json!({"logit_bias": {"99999999999": 1}}),
            "logit_bias.99999999999",
        ),
        (json!({"seed": u64::MAX}), "seed"),
        (json!({"seed": 9_223_372_036_854_775_808_u64}), "seed"),
        (json!({"seed": -1e19}), "seed"),
        (json!({"seed": 1.5}), "seed"),
        (json!({"seed": "7"}), "seed"),
        (
            json!({"top_logprobs": 21, "logprobs": true}),
            "top_logprobs",
        ),
        (json!({"n": 129}), "n"),
        (json!({"n": 0}), "n"),
        (json!({"n": -1}), "n"),
        (json!({"n": 1.5}), "n"),
        (json!({"n": u64::MAX}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": -1}), "max_tokens"),
        (json!({"max_tokens": 1e3}), "max_tokens"),
        (json!({"max_tokens": 4_294_967_296_u64}), "max_tokens"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        // Numbers that a field could hold, and no context does, however often they are asked for.
        (json!({"max_tokens": u32::MAX}), "messages"),
        (json!({"max_tokens": u32::MAX, "n": 8}), "messages"),
        (json!({"max_tokens": u32::MAX, "n": 128}), "n"),
        (json!({"min_tokens": u32::MAX}), "min_tokens"),
        (
            json!({"logit_bias": {"4294967295": 1}}),
            "logit_bias.4294967295",
        ),
        (json!({"logit_bias": {"98": null}}), "logit_bias.98"),
        (json!({"logit_bias": {"9.5": 1}}), "logit_bias.9.5"),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids.0"),
        (
            json!({"stop_token_ids": [4_294_967_296_u64]}),
            "stop_token_ids.0",
        ),
        (json!({"min_tokens": 10, "max_tokens": 9}), "min_tokens"),
    ] {
        let mut body = json!({"model": "chat", "messages": [{"role": "user", "content": "halo"}]});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = server.post(CHAT, body).await;
        assert_eq!(answer.status, 400, "{fields}: {}", answer.text());
        assert_eq!(answer.json()["error"]["param"], param, "{fields}");
    }
    assert_eq!(server.engine.stats().steps, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn min_tokens_and_ignore_eos_reach_past_the_end() {
    let server = server("ya");
    assert_eq!(text(&server, json!({})).await, "ya");
    let fields = json!({"min_tokens": 4, "max_tokens": 4, "temperature": 0});
    assert_eq!(text(&server, fields).await, "ya\0\0");
    let fields = json!({"ignore_eos": true, "max_tokens": 5});
    assert_eq!(text(&server, fields).await.len(), 2);
}
