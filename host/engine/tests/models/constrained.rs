//! Grammars over real vocabularies: answers match, end by themselves, and do not depend on what
//! runs beside them; both kinds of vocabulary, from both kinds of file.

use std::path::Path;

use gapura_engine::{
    CpuRunner, Engine, EngineConfig, FinishReason, GenerateRequest, Grammar, GrammarCompiler,
    GrammarSource, Quantization, SamplingParams, TokenId, Tokenizer,
};
use serde_json::Value;

use crate::support::{Answer, FIXTURES, fixture, greedy, options, run_together};

/// Bounded on all sides, so that models without a mind come to its end too.
const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "kota": {"type": "string", "maxLength": 12},
        "penduduk": {"type": "integer", "minimum": 0, "maximum": 999999},
        "jenis": {"enum": ["desa", "kota", "kabupaten"]},
        "tanda": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}
    },
    "required": ["kota", "penduduk", "jenis", "tanda"],
    "additionalProperties": false
}"#;

struct Model {
    engine: Engine,
    tokenizer: Tokenizer,
    grammar: Grammar,
}

impl Model {
    fn load(path: &Path, config: EngineConfig) -> Self {
        let model = CpuRunner::load(path, options(Quantization::None)).unwrap();
        let engine = Engine::start(Box::new(model.runner), config).unwrap();
        let compiler = GrammarCompiler::new(&model.tokenizer, &engine.model().eos_token_ids);
        let grammar = compiler
            .compile(&GrammarSource::JsonSchema(SCHEMA.to_owned()))
            .unwrap();
        Self {
            engine,
            tokenizer: model.tokenizer,
            grammar,
        }
    }

    fn requests(&self) -> Vec<GenerateRequest> {
        let constrained = (0..8_u32).map(|n| {
            let prompt: Vec<u32> = (0..3 + 9 * n).map(|i| (i * 7 + n) % 200 + 6).collect();
            let sampling = SamplingParams {
                temperature: if n % 2 == 0 { 0.0 } else { 1.0 },
                seed: Some(u64::from(n)),
                ..SamplingParams::default()
            };
            GenerateRequest {
                sampling,
                grammar: (n != 3).then(|| self.grammar.clone()),
                ..greedy(&prompt, 400)
            }
        });
        constrained.collect()
    }

    fn check(&self, answer: &Answer, what: &str) {
        let ids: Vec<TokenId> = answer.tokens.iter().map(|token| token.id).collect();
        assert!(
            ids.iter()
                .all(|id| !self.tokenizer.is_special(*id) || Some(id) == ids.last())
        );
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|id| self.tokenizer.token_bytes(*id))
            .copied()
            .collect();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(answer.reason, Some(FinishReason::Stop), "{what}: {text}");
        let json: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{what}: {error}: {text}"));
        assert!(
            json["kota"].as_str().unwrap().chars().count() <= 12,
            "{what}: {text}"
        );
        assert!(
            json["penduduk"].as_u64().unwrap() <= 999_999,
            "{what}: {text}"
        );
        assert!(
            ["desa", "kota", "kabupaten"].contains(&json["jenis"].as_str().unwrap()),
            "{what}: {text}"
        );
        assert!(
            json["tanda"]
                .as_array()
                .unwrap()
                .iter()
                .all(Value::is_boolean),
            "{what}: {text}"
        );
        assert_eq!(json.as_object().unwrap().len(), 4, "{what}: {text}");
    }
}

#[test]
fn constrained_answers_match_and_equal_those_alone() {
    for name in FIXTURES {
        let model = Model::load(&fixture(name), EngineConfig::default());
        let alone: Vec<Answer> = model
            .requests()
            .into_iter()
            .flat_map(|request| run_together(&model.engine, vec![request]))
            .collect();
        for (index, answer) in alone.iter().enumerate().filter(|(index, _)| *index != 3) {
            model.check(answer, &format!("{name} {index}"));
        }
        assert_eq!(
            run_together(&model.engine, model.requests()),
            alone,
            "{name} batched"
        );

        let layout = model.engine.model().kv;
        let config = EngineConfig {
            kv_bytes: 48 * (layout.full_block_bytes + layout.windowed_block_bytes),
            max_batched_tokens: 40,
            context_length: Some(512),
            ..EngineConfig::default()
        };
        let short = Model::load(&fixture(name), config);
        assert_eq!(
            run_together(&short.engine, short.requests()),
            alone,
            "{name} preempted"
        );
        assert!(
            short.engine.stats().preemptions > 0,
            "{name} was never short of blocks"
        );
    }
}

/// The vocabularies of GGUF files: byte-level, and SentencePiece with byte tokens.
#[test]
fn vocabularies_of_gguf_files_are_constrained_too() {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
        Into::into,
    );
    for file in [
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "gemma-3-270m-Q4_K_M.gguf",
    ] {
        let path = cache.join("gapura/models").join(file);
        assert!(
            path.exists(),
            "{} is missing: run `make models` first",
            path.display()
        );
        let model = Model::load(
            &path,
            EngineConfig {
                kv_bytes: 64 << 20,
                ..EngineConfig::default()
            },
        );
        let prompt = model
            .tokenizer
            .encode("Kota terbesar di Jawa Tengah, sebagai JSON:\n");
        let request = |temperature: f32| {
            let mut request = GenerateRequest::new(file, prompt.clone(), 200);
            request.sampling.temperature = temperature;
            request.sampling.seed = Some(1);
            request.grammar = Some(model.grammar.clone());
            request
        };
        for answer in run_together(&model.engine, vec![request(0.0), request(1.5)]) {
            model.check(&answer, file);
        }
    }
}
