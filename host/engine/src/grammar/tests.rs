use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::{
    error::EngineError,
    request::TokenId,
    sim::{SimToken, sim_tokenizer, sim_tokens},
};

fn compiler() -> GrammarCompiler {
    GrammarCompiler::new(
        &sim_tokenizer(),
        &[SimToken::EOS.id(), SimToken::IM_END.id()],
    )
}

fn schema(schema: &Value) -> GrammarSource {
    GrammarSource::JsonSchema(schema.to_string())
}

fn compiled(source: &GrammarSource) -> Grammar {
    compiler().compile(source).unwrap()
}

/// How many bytes of `text` the grammar lets pass, and whether it may end after them.
fn passes(grammar: &Grammar, text: &str) -> (usize, bool) {
    let mut state = grammar.start();
    for (count, token) in sim_tokens(text).into_iter().enumerate() {
        match state.allowed().unwrap() {
            Allowed::Tokens(mask) if mask.contains(token) => state.accept(token).unwrap(),
            Allowed::Tokens(mask) => return (count, mask.contains(SimToken::EOS.id())),
            Allowed::End => return (count, true),
        }
    }
    let may_end = match state.allowed().unwrap() {
        Allowed::Tokens(mask) => mask.contains(SimToken::EOS.id()),
        Allowed::End => true,
    };
    (text.len(), may_end)
}

fn matches(grammar: &Grammar, text: &str) -> bool {
    passes(grammar, text) == (text.len(), true)
}

#[test]
fn a_schema_allows_its_instances_in_its_order_and_nothing_else() {
    let grammar = compiled(&schema(&json!({
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"],
        "additionalProperties": false,
    })));
    assert!(matches(&grammar, r#"{"name":"Sri é 👋","age":7}"#));
    assert!(matches(&grammar, "{\n  \"name\": \"\",\n  \"age\": 0\n}"));
    assert_eq!(passes(&grammar, r#"{"age":7"#), (2, false));
    assert_eq!(passes(&grammar, r#"{"name":"a","age":-1}"#), (18, false));
    assert_eq!(passes(&grammar, " {"), (0, false));
    assert!(!matches(&grammar, r#"{"name":"a"}"#));
}

#[test]
fn blank_space_is_bounded() {
    let grammar = compiled(&GrammarSource::JsonObject);
    assert!(matches(&grammar, r#"{ "a" : [1, {}] }"#));
    let (count, _) = passes(&grammar, &format!("{{{}", "\n".repeat(1000)));
    assert_eq!(count, 2);
    let (count, _) = passes(&grammar, &format!("{{{}", " ".repeat(1000)));
    assert_eq!(count, 2);
}

#[test]
fn any_object_is_an_object() {
    let grammar = compiled(&GrammarSource::JsonObject);
    assert!(matches(
        &grammar,
        r#"{"a":[1,-2.5e3,"\u001f\n",null,true,{}]}"#
    ));
    assert_eq!(passes(&grammar, "[1]"), (0, false));
    assert_eq!(passes(&grammar, r#"{"a":1,}"#), (7, false));
    assert_eq!(passes(&grammar, r#"{}x"#), (2, true));
}

#[test]
fn expressions_lark_and_choices_match_as_a_whole() {
    let regex = compiled(&GrammarSource::Regex(r"\d{3}-(ab|cd)+".to_owned()));
    assert!(matches(&regex, "123-abcd"));
    assert_eq!(passes(&regex, "12-"), (2, false));
    // It may end here and may go on.
    assert_eq!(passes(&regex, "123-ab"), (6, true));
    let lark = "start: greeting \" \" NAME\ngreeting: \"halo\" | \"hai\"\nNAME: /[A-Z][a-z]+/";
    let lark = compiled(&GrammarSource::Lark(lark.to_owned()));
    assert!(matches(&lark, "hai Sri"));
    assert_eq!(passes(&lark, "halo sri"), (5, false));
    let choices = ["ya", "tidak", "\"mungkin\"\n"].map(str::to_owned);
    let choice = compiled(&GrammarSource::Choice(choices.to_vec()));
    assert!(matches(&choice, "tidak") && matches(&choice, "\"mungkin\"\n"));
    assert_eq!(passes(&choice, "yang"), (2, true));
}

#[test]
fn a_recursive_schema_recurses() {
    let grammar = compiled(&schema(&json!({
        "$ref": "#/$defs/tree",
        "$defs": {"tree": {
            "type": "object",
            "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
            "required": ["children"],
            "additionalProperties": false,
        }},
    })));
    let deep = format!("{}{}", r#"{"children":["#.repeat(50), "]}".repeat(50));
    assert!(matches(&grammar, &deep));
}

#[test]
fn no_grammar_yields_a_special_token() {
    let all: Vec<TokenId> = (0..SimToken::VOCAB_SIZE as u32).map(TokenId).collect();
    let special = || all.iter().filter(|id| SimToken::is_special(**id));
    for source in [
        GrammarSource::JsonObject,
        GrammarSource::Regex("(?s:.)*".to_owned()),
        GrammarSource::Lark("start: /(?s:.)*/".to_owned()),
    ] {
        let mut state = compiled(&source).start();
        for token in sim_tokens(r#"{"<|im_end|>"#) {
            let Allowed::Tokens(mask) = state.allowed().unwrap() else {
                panic!("{source:?} ended");
            };
            let ends = [SimToken::EOS.id(), SimToken::IM_END.id()];
            for id in special() {
                let is_end = ends.contains(id) && mask.contains(ends[0]);
                assert_eq!(
                    mask.contains(*id),
                    is_end,
                    "{source:?} at {token:?}: {id:?}"
                );
            }
            state.accept(token).unwrap();
        }
    }
    // Named or numbered: there is no way to ask for one.
    for lark in [
        "start: <|im_start|>",
        "start: <[261]>",
        "start: <[256-262]>",
    ] {
        let error = compiler()
            .compile(&GrammarSource::Lark(lark.to_owned()))
            .unwrap_err();
        assert!(
            matches!(
                error,
                GrammarError::Syntax {
                    kind: "Lark grammar",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn a_token_that_was_not_allowed_is_an_error() {
    let mut state = compiled(&GrammarSource::JsonObject).start();
    let error = state.accept(TokenId(u32::from(b'x'))).unwrap_err();
    assert!(matches!(error, EngineError::Grammar { .. }), "{error}");
}

#[test]
fn what_cannot_be_enforced_is_named_with_its_place() {
    let cases = [
        (json!({"not": {}}), "", "not"),
        (
            json!({"properties": {"a": {"if": {}, "then": {}}}}),
            "properties.a",
            "if",
        ),
        (
            json!({"items": {"uniqueItems": true}}),
            "items",
            "uniqueItems",
        ),
        (
            json!({"$ref": "#/$defs/x", "$defs": {"x": {"contains": {}}}}),
            "$defs.x",
            "contains",
        ),
        (
            json!({"$ref": "#/components/x", "components": {"x": {"not": {}}}}),
            "components.x",
            "not",
        ),
        (
            json!({"anyOf": [true, {"dependentRequired": {"a": ["b"]}}]}),
            "anyOf.1",
            "dependentRequired",
        ),
        (
            json!({"properties": {"a": {"$ref": "https://example.com/x"}}}),
            "properties.a",
            "$ref",
        ),
        (
            json!({"properties": {"a": {"$ref": "#/$defs/none"}}}),
            "properties.a",
            "$ref",
        ),
        (json!({"items": {"$ref": 7}}), "items", "$ref"),
        (json!({"x-guidance": {"lenient": true}}), "", "x-guidance"),
        (
            json!({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}),
            "",
            "oneOf",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 3, "maximum": 2}},
            "required": ["a"]}),
            "properties.a",
            "minimum",
        ),
        (
            json!({"type": "object", "properties": {"deep": {"items": {"type": "string", "minLength": 5, "maxLength": 2}, "minItems": 1, "type": "array"}},
            "required": ["deep"]}),
            "properties.deep.items",
            "minLength",
        ),
        (
            json!({"properties": {"a": {"pattern": "(?=x)"}, "b": {"type": "nothing"}}}),
            "properties.b",
            "type",
        ),
        (
            json!({"properties": {"a": {"type": "string", "pattern": "(?=x)"}}}),
            "properties.a",
            "pattern",
        ),
        (
            json!({"type": "array", "items": false, "minItems": 2}),
            "items",
            "",
        ),
        (json!({"enum": []}), "", "enum"),
        (json!({"properties": []}), "", "properties"),
        (json!({"required": "a"}), "", "required"),
        (json!({"properties": {"a": 1}}), "properties.a", ""),
        (
            json!({"type": "object", "minProperties": 3, "maxProperties": 1}),
            "",
            "minProperties",
        ),
        (json!(false), "", ""),
        (json!(3), "", ""),
    ];
    let compiler = compiler();
    for (case, path, keyword) in cases {
        match compiler.compile(&schema(&case)) {
            Err(GrammarError::Schema {
                path: p,
                keyword: k,
                reason,
            }) => {
                let found = (p.as_str(), k.as_deref().unwrap_or_default());
                assert_eq!(found, (path, keyword), "{case}: {reason}");
            }
            other => panic!("{case}: {other:?}"),
        }
    }
}

#[test]
fn keywords_that_ask_for_nothing_pass() {
    let grammar = compiled(&schema(&json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "T", "description": "d", "default": {}, "examples": [1],
        "type": "object",
        "properties": {
            "a": {"type": "integer", "format": "int32", "uniqueItems": false},
            "b": {"type": "object", "propertyNames": {"type": "string"}, "then": {}},
        },
        "required": ["a"],
        "x-vendor": 1,
        "unevaluatedProperties": true,
    })));
    assert!(matches(&grammar, r#"{"a":1,"b":{"c":2}}"#));
}

#[test]
fn every_format_that_is_listed_is_enforced_and_others_are_notes() {
    let compiler = compiler();
    let compile = |format: &str| {
        compiler
            .compile(&schema(&json!({"type": "string", "format": format})))
            .unwrap()
    };
    for format in super::schema::FORMATS {
        // No text of any of them begins so.
        assert_eq!(passes(&compile(format), r#""(("#).0, 1, "{format}");
    }
    assert!(matches(&compile("iso-bananas"), r#""((""#));
    assert!(matches(&compile("date"), r#""2026-11-23""#));
}

#[test]
fn texts_that_are_no_grammar_say_why() {
    let error = |source| compiler().compile(&source).unwrap_err().to_string();
    let text = error(GrammarSource::JsonSchema("{".to_owned()));
    assert!(
        text.starts_with("the schema: is not valid JSON: EOF"),
        "{text}"
    );
    let text = error(GrammarSource::Regex("(".to_owned()));
    assert!(
        text.starts_with("the regular expression is not valid: "),
        "{text}"
    );
    let text = error(GrammarSource::Lark("begin: \"a\"".to_owned()));
    assert!(
        text.starts_with("the Lark grammar is not valid: "),
        "{text}"
    );
    assert_eq!(
        error(GrammarSource::Choice(vec![])),
        "the list of choices is not valid: it is empty"
    );
    let text = error(GrammarSource::Regex(r"[^\s\S]".to_owned()));
    assert!(
        text.starts_with("the regular expression is not valid: "),
        "{text}"
    );
}

/// Every source that means harm is answered in time, one way or the other.
fn is_answered(name: &str, source: GrammarSource) -> Result<Grammar, GrammarError> {
    let started = Instant::now();
    let result = compiler().compile(&source);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(20), "{name} took {took:?}");
    if let Ok(grammar) = &result {
        let mut state = grammar.start();
        let started = Instant::now();
        for token in sim_tokens(r#"{"a":[[["aaaaaaaaaaaaaaaa"#) {
            match state.allowed() {
                Ok(Allowed::Tokens(mask)) if mask.contains(token) => {
                    if state.accept(token).is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
        let took = started.elapsed();
        assert!(
            took < Duration::from_secs(20),
            "{name}: masks took {took:?}"
        );
    }
    result
}

#[test]
fn schema_bombs_are_answered_in_time() {
    let text = |text: String| GrammarSource::JsonSchema(text);
    let nested = |depth| {
        format!("{}{}", r#"{"items":"#.repeat(depth), "}".repeat(depth)).replace(":}", ":{}}")
    };
    // The reader's own limit.
    let error = is_answered("deep", text(nested(5000))).unwrap_err();
    assert!(error.to_string().contains("recursion limit"), "{error}");
    is_answered("nested", text(nested(100))).unwrap();

    // A chain of references that is followed to its end.
    let chain = |count: usize| {
        let mut defs: Vec<String> = (0..count)
            .map(|n| format!(r##""{n}":{{"items":{{"$ref":"#/$defs/{}"}}}}"##, n + 1))
            .collect();
        defs.push(format!(r#""{count}":{{}}"#));
        text(format!(
            r##"{{"$ref":"#/$defs/0","$defs":{{{}}}}}"##,
            defs.join(",")
        ))
    };
    let _ = is_answered("chain", chain(2400));
    let error = is_answered("long chain", chain(4000)).unwrap_err();
    assert!(
        matches!(error, GrammarError::TooLarge { limit: 5_000, .. }),
        "{error}"
    );

    let values = |count: usize| {
        (0..count)
            .map(|n| format!("\"value-{n}\""))
            .collect::<Vec<_>>()
            .join(",")
    };
    is_answered("enum", text(format!(r#"{{"enum":[{}]}}"#, values(9_000)))).unwrap();
    let error = is_answered(
        "huge enum",
        text(format!(r#"{{"enum":[{}]}}"#, values(20_000))),
    )
    .unwrap_err();
    assert!(
        matches!(error, GrammarError::TooLarge { value: 20_001, .. }),
        "{error}"
    );

    let options = (0..60).map(|n| format!(r#"{{"enum":["{n}",{}]}}"#, values(40)));
    let options = options.collect::<Vec<_>>().join(",");
    let error = is_answered("oneOf", text(format!(r#"{{"oneOf":[{options}]}}"#))).unwrap_err();
    assert!(
        matches!(&error, GrammarError::Schema { keyword: Some(k), .. } if k == "oneOf"),
        "{error}"
    );

    let any = r#"{"anyOf":[{"minLength":1},{"maxLength":9},{"pattern":"a"},{"pattern":"b"}]}"#;
    let all = vec![any; 30].join(",");
    is_answered(
        "allOf of anyOf",
        text(format!(r#"{{"type":"string","allOf":[{all}]}}"#)),
    )
    .unwrap_err();

    let patterns = (0..40)
        .map(|n| format!(r#""^a{n}.*":{{}}"#))
        .collect::<Vec<_>>()
        .join(",");
    let error = is_answered(
        "patterns",
        text(format!(r#"{{"patternProperties":{{{patterns}}}}}"#)),
    )
    .unwrap_err();
    assert!(
        matches!(&error, GrammarError::Schema { keyword: Some(k), .. } if k == "patternProperties"),
        "{error}"
    );

    let loops = r##"{"allOf":[{"$ref":"#"}],"properties":{"a":{"$ref":"#"}}}"##;
    is_answered("reference to itself", text(loops.to_owned())).unwrap_err();
    let too_long = format!(r#"{{"description":"{}"}}"#, "a".repeat(600 * 1024));
    let error = is_answered("long", text(too_long)).unwrap_err();
    assert!(
        matches!(error, GrammarError::TooLarge { limit: 524_288, .. }),
        "{error}"
    );
}

#[test]
fn great_numbers_are_answered_in_time() {
    for case in [
        json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000_000_u64}),
        json!({"type": "array", "maxItems": u64::MAX}),
        json!({"type": "string", "minLength": 1_000_000_000_u64}),
        json!({"type": "string", "maxLength": u64::MAX}),
        json!({"type": "integer", "minimum": -1e300, "maximum": 1e300}),
        json!({"type": "integer", "multipleOf": 1e-300}),
        json!({"type": "number", "multipleOf": 123_456_789_012_345_u64}),
        json!({"allOf": [{"multipleOf": 999_999_999_989_u64}, {"multipleOf": 999_999_999_961_u64},
            {"multipleOf": 999_999_999_937_u64}]}),
        json!({"type": "object", "minProperties": 1_000_000_000_u64}),
        json!({"type": "object", "properties": {"a": {}}, "maxProperties": u64::MAX}),
        json!({"type": "string", "pattern": "((a{1,1000}){1,1000}){1,1000}"}),
        json!({"type": "string", "pattern": "(a|aa|aaa|b?c*){1,500}(x|y|z|[a-z]{2,300})*$"}),
        json!({"type": "string", "pattern": "^(.*a.{200}.*b.{200})$"}),
    ] {
        let _ = is_answered(&case.to_string(), schema(&case));
    }
    for regex in [
        "((a{1,1000}){1,1000}){1,1000}",
        "(.*.*.*.*.*)*x",
        "(a?){5000}a{5000}",
        "[a-z]{1,100000}",
    ] {
        let _ = is_answered(regex, GrammarSource::Regex(regex.to_owned()));
    }
}

#[test]
fn the_deepest_nesting_of_lark_is_answered() {
    for depth in [100, 10_000] {
        let lark = format!("start: {}\"a\"{}", "(".repeat(depth), ")".repeat(depth));
        let _ = is_answered("parentheses", GrammarSource::Lark(lark));
        let regex = format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
        let _ = is_answered("groups", GrammarSource::Regex(regex));
    }
    let rules: Vec<String> = (0..2000)
        .map(|n| format!("r{n}: \"a\" r{}", n + 1))
        .collect();
    let lark = format!("start: r0\n{}\nr2000: \"b\"", rules.join("\n"));
    let _ = is_answered("rules", GrammarSource::Lark(lark));
    let left = "start: start start | \"a\" | start \"a\"";
    let _ = is_answered("ambiguous", GrammarSource::Lark(left.to_owned()));
}

#[test]
fn the_same_source_is_compiled_once() {
    let compiler = compiler();
    let source = schema(&json!({"enum": (0..5000).map(|n| format!("v{n}")).collect::<Vec<_>>()}));
    let started = Instant::now();
    compiler.compile(&source).unwrap();
    let first = started.elapsed();
    let started = Instant::now();
    compiler.compile(&source).unwrap();
    let second = started.elapsed();
    assert!(second * 5 < first, "{second:?} against {first:?}");
}
