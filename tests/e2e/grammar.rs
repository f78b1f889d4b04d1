//! Answers that must match something: what the client asks for in every spelling, and what a
//! template imposes. The simulated model would rather say something else.

use gapura_engine::sim::SimRunner;
use gapura_test_guests as guests;
use gapura_tests::{PLAIN, Server};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A model that has no JSON to say.
fn server() -> Server {
    Server::start(PLAIN, SimRunner::default().answering("selamat pagi"))
}

fn imposing(name: &'static str, guest: &[u8]) -> Server {
    let toml = format!("[[routes]]\nname = 'chat'\nplugins = [{{ plugin = '{name}' }}]\n");
    let runner = SimRunner::default().answering("selamat pagi");
    Server::with_plugins(&toml, runner, &[(name, guest)])
}

/// A chat without chance.
fn chat(fields: Value) -> Value {
    let mut body = json!({
        "model": "chat", "temperature": 0, "messages": [{"role": "user", "content": "halo"}],
    });
    for (name, value) in fields.as_object().expect("an object of fields") {
        body[name] = value.clone();
    }
    body
}

fn kota() -> Value {
    json!({
        "type": "object",
        "properties": {"kota": {"enum": ["Solo"]}, "umur": {"type": "integer"}},
        "required": ["kota"],
        "additionalProperties": false,
    })
}

fn response_format(schema: Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}})
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"]
        .as_str()
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_shapes_whole_answers_and_streams_alike() {
    let server = server();
    let mut body = chat(json!({"response_format": response_format(kota())}));
    let answer = server.post(CHAT, body.clone()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    let text = content(&answer).to_owned();
    let parsed: Value = serde_json::from_str(&text).expect(&text);
    assert_eq!(parsed["kota"], "Solo");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // A byte is a token; the end of the grammar needs none.
    assert_eq!(answer["usage"]["completion_tokens"], text.len());

    body["stream"] = json!(true);
    let stream = server.post(CHAT, body).await;
    assert_eq!(stream.streamed_text(0), text);
    let last = stream.chunks().pop().expect("a stream has chunks");
    assert_eq!(last["choices"][0]["finish_reason"], "stop");

    let body = json!({
        "model": "chat", "prompt": "halo", "temperature": 0, "max_tokens": 200,
        "response_format": response_format(kota()),
    });
    let answer = server.post(COMPLETIONS, body).await.json();
    assert_eq!(answer["choices"][0]["text"], text.as_str());
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_spelling_is_enforced() {
    let server = server();
    let cases = [
        (json!({"guided_choice": ["tidak", "ya"]}), "tidak"),
        (json!({"guided_regex": "[xy]{2}z"}), "xxz"),
        (
            json!({"guided_grammar": "start: \"a\" /[bc]/ \"d\""}),
            "abd",
        ),
        (json!({"structured_outputs": {"choice": ["ya"]}}), "ya"),
        (
            json!({"structured_outputs": {"regex": "q+r"}, "max_tokens": 3}),
            "qqq",
        ),
        (json!({"guided_json": {"const": "ya"}}), "\"ya\""),
        (json!({"json_schema": {"const": 17}}), "17"),
    ];
    for (fields, text) in cases {
        let answer = server.post(CHAT, chat(fields.clone())).await;
        assert_eq!(answer.status, 200, "{fields}: {}", answer.text());
        assert_eq!(content(&answer.json()), text, "{fields}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_object_is_one_and_n_of_them_are() {
    let server = server();
    let fields = json!({
        "response_format": {"type": "json_object"}, "n": 4, "temperature": 1.5, "seed": 7,
        "max_tokens": 3000, "logit_bias": {"125": 4, "34": 4}, "logprobs": true, "top_logprobs": 3,
    });
    let answer = server.post(CHAT, chat(fields.clone())).await.json();
    let again = server.post(CHAT, chat(fields)).await.json();
    let mut texts = std::collections::HashSet::new();
    for (choice, same) in answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .zip(again["choices"].as_array().unwrap())
    {
        let text = choice["message"]["content"].as_str().unwrap();
        assert_eq!(choice["finish_reason"], "stop", "{text}");
        let parsed: Value = serde_json::from_str(text).expect(text);
        assert!(parsed.is_object(), "{text}");
        assert_eq!(choice, same);
        assert_eq!(
            choice["logprobs"]["content"].as_array().unwrap().len(),
            text.len()
        );
        texts.insert(text.to_owned());
    }
    assert_eq!(texts.len(), 4, "{texts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_answer_says_length_and_is_no_json() {
    let body = chat(json!({"response_format": response_format(kota()), "max_tokens": 3}));
    let answer = server().post(CHAT, body).await.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    assert!(serde_json::from_str::<Value>(content(&answer)).is_err());
}

/// Load generators send these; a complete answer ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_complete_grammar_ends_the_answer_whatever_else_is_asked() {
    let fields = json!({
        "guided_choice": ["ya"], "ignore_eos": true, "min_tokens": 50, "max_tokens": 60,
    });
    let answer = server().post(CHAT, chat(fields)).await.json();
    assert_eq!(content(&answer), "ya");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // Where it may go on, `min_tokens` keeps it going.
    let fields =
        json!({"guided_regex": "x+", "min_tokens": 5, "max_tokens": 9, "logit_bias": {"258": 100}});
    let answer = server().post(CHAT, chat(fields)).await.json();
    assert_eq!(content(&answer), "xxxxx");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_enforced_is_a_400_before_any_token() {
    let server = server();
    let at = "response_format.json_schema.schema";
    let cases = [
        (
            json!({"properties": {"a": {"not": {}}}}),
            format!("{at}.properties.a.not"),
            "invalid_schema",
        ),
        (
            json!({"type": "object", "properties": {"a": {"minimum": 2, "maximum": 1, "type": "integer"}}, "required": ["a"]}),
            format!("{at}.properties.a.minimum"),
            "invalid_schema",
        ),
        (
            json!({"items": {"$ref": "#/nowhere"}}),
            format!("{at}.items.$ref"),
            "invalid_schema",
        ),
        (json!("{"), at.to_owned(), "invalid_schema"),
        (
            json!({"enum": vec![1; 20_000]}),
            at.to_owned(),
            "grammar_too_complex",
        ),
        (
            json!({"description": "a".repeat(600_000)}),
            at.to_owned(),
            "grammar_too_complex",
        ),
    ];
    for (schema, param, code) in cases {
        for stream in [false, true] {
            let fields =
                json!({"response_format": response_format(schema.clone()), "stream": stream});
            let answer = server.post(CHAT, chat(fields)).await;
            assert_eq!(answer.status, 400, "{param}: {}", answer.text());
            let error = &answer.json()["error"];
            assert_eq!(
                (&error["param"], &error["code"]),
                (&json!(param), &json!(code)),
                "{error}"
            );
            assert_eq!(error["type"], "invalid_request_error");
        }
    }
    for (fields, param) in [
        (json!({"guided_regex": "("}), "guided_regex"),
        (
            json!({"guided_grammar": "start: <|im_end|>"}),
            "guided_grammar",
        ),
        (json!({"guided_choice": []}), "guided_choice"),
        (
            json!({"guided_regex": "a", "guided_choice": ["a"]}),
            "guided_choice",
        ),
    ] {
        let answer = server.post(CHAT, chat(fields)).await;
        assert_eq!(answer.status, 400, "{param}: {}", answer.text());
        assert_eq!(answer.json()["error"]["param"], param);
    }
    // Deeper than any body may be.
    let deep = format!("{}{}", r#"{"items":"#.repeat(3000), "}".repeat(3000));
    let body = format!(
        r#"{{"model":"chat","messages":[{{"role":"user","content":"a"}}],"guided_json":{deep}}}"#
    );
    let answer = server.send(gapura_tests::post(CHAT, body)).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert_eq!(server.engine.stats().steps, 0);
}

/// Schemas that end nowhere or double at every step: an answer in time, and the next request
/// has its own.
#[tokio::test(flavor = "multi_thread")]
async fn schema_bombs_are_a_400_and_the_server_goes_on() {
    let server = server();
    // Each definition is twice the next: 2^40 in the end.
    let doubled: serde_json::Map<String, Value> = (0..40)
        .map(|n| {
            let next = json!({"$ref": format!("#/$defs/{}", n + 1)});
            (
                n.to_string(),
                json!({"allOf": [next, {"anyOf": [next, next]}]}),
            )
        })
        .chain([("40".to_owned(), json!({"type": "null"}))])
        .collect();
    for (name, schema) in [
        ("itself", json!({"$ref": "#"})),
        ("itself by allOf", json!({"allOf": [{"$ref": "#"}]})),
        (
            "each other",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ),
        ("doubled", json!({"$ref": "#/$defs/0", "$defs": doubled})),
        ("length", json!({"type": "string", "minLength": u64::MAX})),
    ] {
        let fields = json!({"response_format": response_format(schema)});
        let answer = server.post(CHAT, chat(fields));
        let answer = tokio::time::timeout(std::time::Duration::from_secs(20), answer).await;
        let answer = answer.unwrap_or_else(|_| panic!("{name}: no answer in time"));
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        let code = answer.json()["error"]["code"].clone();
        assert!(
            code == "invalid_schema" || code == "grammar_too_complex",
            "{name}: {}",
            answer.text()
        );
    }
    assert_eq!(server.engine.stats().steps, 0);
    let fields = json!({"response_format": response_format(kota())});
    let answer = server.post(CHAT, chat(fields)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_imposes_its_grammar() {
    let server = imposing("imposes", guests::IMPOSES);
    for fields in [
        json!({}),
        // What it imposes is an object.
        json!({"response_format": {"type": "json_object"}}),
    ] {
        let answer = server.post(CHAT, chat(fields)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        let parsed: Value = serde_json::from_str(content(&answer)).unwrap();
        assert_eq!(parsed, json!({"kota": "Solo"}));
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    }
    // Both cannot be kept, and neither is dropped in silence.
    let fields = json!({"response_format": response_format(kota())});
    let answer = server.post(CHAT, chat(fields)).await;
    assert_eq!(answer.status, 400);
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "grammar_conflict");
    assert_eq!(error["param"], "response_format.json_schema.schema");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_templates_bad_grammar_is_its_own_fault() {
    let server = imposing("grammar", guests::GRAMMAR);
    let answer = server.post(CHAT, chat(json!({}))).await;
    assert_eq!(answer.status, 500);
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "plugin_grammar");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.starts_with("plugin grammar@")
            && message
                .contains("imposed a grammar that cannot be used: the schema: is not valid JSON"),
        "{message}"
    );
    assert_eq!(server.engine.stats().steps, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_its_grammar_and_blocks() {
    let server = server();
    let fields = json!({"guided_regex": "(?s:.)*", "stream": true, "logit_bias": {"258": -100}});
    let request = gapura_tests::post(CHAT, chat(fields).to_string());
    let response = tower::ServiceExt::oneshot(server.app.clone(), request)
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    drop(response);
    let idle = async {
        while server.engine.stats().running > 0 || server.engine.stats().full_blocks.used > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    let idle = tokio::time::timeout(std::time::Duration::from_secs(10), idle).await;
    idle.expect("the sequence is dropped");
}
