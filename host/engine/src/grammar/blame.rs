//! Which keyword of a schema is at fault. llguidance says what is wrong, seldom where; so parts
//! of the schema are replaced by `true`, one after the other, until what is left compiles: the
//! last part replaced is to blame, and the search goes on inside it.

use std::time::{Duration, Instant};

use llguidance::api::{GrammarInit, TopLevelGrammar};
use serde_json::Value;

use super::{GrammarError, schema, vocabulary};

/// Longest search; after that the innermost part known is named.
pub(super) const MAX_TIME: Duration = Duration::from_secs(1);

/// Longest reason that is passed on.
const MAX_REASON_CHARS: usize = 300;

/// The error of a prepared schema that does not compile because of `error`. `None` if the
/// schema is sound and only too complex.
pub(super) fn find(root: &Value, error: &str, may_search: bool) -> Option<GrammarError> {
    let mut search = Search {
        until: Instant::now() + if may_search { MAX_TIME } else { Duration::ZERO },
    };
    if may_search && search.compiles(root) {
        return None;
    }
    let (pointer, keyword) = search.descend(root.clone(), String::new());
    Some(GrammarError::Schema {
        path: schema::path(&pointer),
        keyword,
        reason: in_our_words(error),
    })
}

struct Search {
    until: Instant,
}

impl Search {
    /// Whether what is at fault is gone; false once the time is up, which ends the search.
    fn compiles(&mut self, schema: &Value) -> bool {
        if Instant::now() > self.until {
            return false;
        }
        let grammar = TopLevelGrammar::from_json_schema(schema.clone());
        let compiled = GrammarInit::Serialized(grammar).to_internal(None, vocabulary::limits());
        compiled.is_ok()
    }

    /// The innermost schema at fault within the one at `pointer`, and its keyword. Everything
    /// else that is at fault has been replaced in `root`.
    fn descend(&mut self, root: Value, pointer: String) -> (String, Option<String>) {
        let mut healed = root;
        let Some(here) = healed.pointer(&pointer) else {
            return (pointer, None);
        };
        for child in schema::children(here) {
            let at = format!("{pointer}{child}");
            let Some(part) = healed.pointer_mut(&at) else {
                continue;
            };
            let original = std::mem::replace(part, Value::Bool(true));
            if self.compiles(&healed) {
                if let Some(part) = healed.pointer_mut(&at) {
                    *part = original;
                }
                return self.descend(healed, at);
            }
        }
        let keyword = self.keyword(healed, &pointer);
        (pointer, keyword)
    }

    /// The keyword without which the schema at `pointer` compiles.
    fn keyword(&mut self, mut root: Value, pointer: &str) -> Option<String> {
        let mut keywords: Vec<String> = root
            .pointer(pointer)?
            .as_object()?
            .keys()
            .cloned()
            .collect();
        // Without its type a schema allows other types, so that goes last.
        keywords.sort_by_key(|keyword| keyword == "type");
        for keyword in keywords {
            root.pointer_mut(pointer)?
                .as_object_mut()?
                .shift_remove(&keyword);
            if self.compiles(&root) {
                return Some(keyword);
            }
        }
        None
    }
}

/// The first line of an error and its causes.
pub(super) fn reason(error: &impl std::fmt::Display) -> String {
    let text = format!("{error:#}");
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(MAX_REASON_CHARS).collect()
}

/// llguidance's words for what clients meet most, in ours.
fn in_our_words(error: &str) -> String {
    if error.contains("oneOf constraints are not supported") {
        return "is supported only where its options exclude each other by a type or a constant; \
                use `anyOf`"
            .to_owned();
    }
    match error.rsplit_once("Unsatisfiable schema: ") {
        Some((_, cause)) => format!("cannot be satisfied: {cause}"),
        None => error.to_owned(),
    }
}
