//! What the answer must match: the client may ask for a grammar, and the template may impose
//! one.

use gapura_engine::{Grammar, GrammarError, GrammarSource};
use gapura_plugin_runtime as plugin;

use crate::error::ApiError;
use crate::openai::grammar::AskedGrammar;
use crate::state::LoadedModel;

/// A grammar that a template imposes.
pub(super) struct Imposed {
    pub(super) grammar: plugin::Grammar,
    /// The template, for errors.
    pub(super) plugin: String,
}

/// The grammar of an answer, compiled. Two different ones cannot both be kept, so that is an
/// error, unless the client asked for any JSON object and the template's is one.
///
/// # Errors
/// 400 for a grammar of the client's that cannot be used, or that the template's excludes; 500
/// that names the template for one of its own.
pub(super) async fn compiled(
    model: &LoadedModel,
    asked: Option<&AskedGrammar>,
    imposed: Option<Imposed>,
) -> Result<Option<Grammar>, ApiError> {
    let imposed = imposed.map(|imposed| (source(imposed.grammar), imposed.plugin));
    if let (Some(asked), Some((imposed, _))) = (asked, &imposed)
        && !satisfies(imposed, &asked.source)
    {
        let message = format!(
            "{}: this route's template imposes a grammar of its own; leave the field out",
            asked.param
        );
        return Err(ApiError::invalid(&asked.param, message).with_code("grammar_conflict"));
    }
    if let Some((source, plugin)) = imposed {
        let grammar = compile(model, source).await?;
        return grammar.map(Some).map_err(|error| match error {
            GrammarError::Busy => busy(&error),
            error => {
                let problem = format!("imposed a grammar that cannot be used: {error}");
                ApiError::plugin(&plugin, &problem, "plugin_grammar")
            }
        });
    }
    let Some(asked) = asked else {
        return Ok(None);
    };
    let grammar = compile(model, asked.source.clone()).await?;
    grammar.map(Some).map_err(|error| asked.refused(&error))
}

fn busy(error: &GrammarError) -> ApiError {
    ApiError::unavailable(error.to_string(), std::time::Duration::from_secs(1))
        .with_code("overloaded")
}

pub(super) fn source(grammar: plugin::Grammar) -> GrammarSource {
    match grammar {
        plugin::Grammar::JsonSchema(text) => GrammarSource::JsonSchema(text),
        plugin::Grammar::Regex(text) => GrammarSource::Regex(text),
        plugin::Grammar::Lark(text) => GrammarSource::Lark(text),
    }
}

/// Whether an answer that matches `imposed` is what a client wants who asked for `asked`.
fn satisfies(imposed: &GrammarSource, asked: &GrammarSource) -> bool {
    match (imposed, asked) {
        (GrammarSource::JsonSchema(imposed), GrammarSource::JsonObject) => {
            let schema = serde_json::from_str::<serde_json::Value>(imposed);
            schema.is_ok_and(|schema| schema["type"] == "object")
        }
        (GrammarSource::JsonSchema(imposed), GrammarSource::JsonSchema(asked)) => {
            let parse = |text| serde_json::from_str::<serde_json::Value>(text).ok();
            let imposed = parse(imposed);
            imposed.is_some() && imposed == parse(asked)
        }
        (imposed, asked) => imposed == asked,
    }
}

/// # Errors
/// 500 where the compiler has a defect.
pub(super) async fn compile(
    model: &LoadedModel,
    source: GrammarSource,
) -> Result<Result<Grammar, GrammarError>, ApiError> {
    let grammars = model.grammars.clone();
    let work = tokio::task::spawn_blocking(move || grammars.compile(&source));
    work.await.map_err(|error| {
        tracing::error!(%error, "compiling a grammar panicked");
        ApiError::internal()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_may_only_narrow_what_the_client_asked() {
        let schema = |text: &str| GrammarSource::JsonSchema(text.to_owned());
        let object = schema(r#"{"type": "object", "required": ["a"]}"#);
        assert!(satisfies(&object, &GrammarSource::JsonObject));
        assert!(satisfies(
            &object,
            &schema(r#"{"type":"object","required":["a"]}"#)
        ));
        assert!(!satisfies(&object, &schema(r#"{"type":"object"}"#)));
        assert!(!satisfies(
            &schema(r#"{"type":"array"}"#),
            &GrammarSource::JsonObject
        ));
        assert!(!satisfies(&GrammarSource::Regex("a".to_owned()), &object));
        assert!(!satisfies(&schema("{"), &schema("{}")));
    }
}
