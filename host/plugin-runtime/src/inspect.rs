//! Reads a component's bytes without compiling them: is it one, is it whole, what does its author
//! say about it.

use wasm_encoder::ComponentSection as _;
use wasmparser::{Chunk, Encoding, Parser, Payload};

use crate::error::LoadError;

/// The custom section that holds `name@version`, in the component or a core module inside of it.
const SECTION: &str = "gapura:plugin";

/// Checks that `wasm` is a whole component and answers the version that its author wrote.
///
/// # Errors
/// [`LoadError::NotWasm`], [`LoadError::CoreModule`], [`LoadError::Truncated`] or
/// [`LoadError::Invalid`].
pub(crate) fn inspect(wasm: &[u8]) -> Result<Option<String>, LoadError> {
    if !wasm.starts_with(b"\0asm") {
        return Err(LoadError::NotWasm {
            found: first_bytes(wasm),
        });
    }
    let truncated = || LoadError::Truncated {
        bytes: wasm.len() as u64,
    };
    let mut version = None;
    let mut parsers = Vec::new();
    let mut parser = Parser::new(0);
    let mut rest = wasm;
    loop {
        // Told that more may come, the parser says when it would need it.
        let payload = match parser.parse(rest, false) {
            Ok(Chunk::NeedMoreData(_)) if rest.is_empty() && parsers.is_empty() => break,
            Ok(Chunk::NeedMoreData(_)) => return Err(truncated()),
            Ok(Chunk::Parsed { consumed, payload }) => {
                rest = &rest[consumed..];
                payload
            }
            Err(error) => {
                return Err(LoadError::Invalid {
                    message: error.to_string(),
                });
            }
        };
        match payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } if parsers.is_empty() => {
                return Err(LoadError::CoreModule);
            }
            Payload::ModuleSection { parser: inner, .. }
            | Payload::ComponentSection { parser: inner, .. } => {
                parsers.push(std::mem::replace(&mut parser, inner));
            }
            Payload::CustomSection(section) if section.name() == SECTION => {
                version = version.or_else(|| version_of(section.data()));
            }
            // The end of a nested module or component; the outermost has none before the bytes
            // run out, since more was promised.
            Payload::End(_) => match parsers.pop() {
                Some(outer) => parser = outer,
                None => break,
            },
            _ => {}
        }
    }
    Ok(version)
}

/// The contents of the custom sections `name` of the component itself, in order.
pub fn custom_sections<'a>(wasm: &'a [u8], name: &str) -> Vec<&'a [u8]> {
    let mut depth = 0_usize;
    let mut found = Vec::new();
    // What is no component has none; whoever loads it learns why.
    for payload in Parser::new(0).parse_all(wasm).map_while(Result::ok) {
        match payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CustomSection(section) if depth == 0 && section.name() == name => {
                found.push(section.data());
            }
            _ => {}
        }
    }
    found
}

/// Appends a custom section to a component.
pub fn add_custom_section(wasm: &mut Vec<u8>, name: &str, data: &[u8]) {
    let section = wasm_encoder::CustomSection {
        name: name.into(),
        data: data.into(),
    };
    section.append_to_component(wasm);
}

/// The part of `name@version` after the `@`, if it is one that labels and headers can carry.
fn version_of(section: &[u8]) -> Option<String> {
    let (_, version) = std::str::from_utf8(section).ok()?.trim().split_once('@')?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let fits = !version.is_empty() && version.len() <= 64 && version.chars().all(plain);
    fits.then(|| version.to_owned())
}

fn first_bytes(wasm: &[u8]) -> String {
    if wasm.is_empty() {
        return "nothing".to_owned();
    }
    wasm.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_fit_a_header_are_taken() {
        assert_eq!(version_of(b"guard@1.2.0").as_deref(), Some("1.2.0"));
        assert_eq!(
            version_of(b"guard@1.2.0-rc.1\n").as_deref(),
            Some("1.2.0-rc.1")
        );
        for odd in [
            &b"guard"[..],
            b"guard@",
            b"guard@1, evil@2",
            b"g@\xff",
            b"g@1\r\nx: y",
        ] {
            assert_eq!(version_of(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn sections_that_are_added_are_found() {
        let mut wasm = b"\0asm\x0d\0\x01\0".to_vec();
        for data in ["one", "two"] {
            add_custom_section(&mut wasm, "gapura:case", data.as_bytes());
        }
        add_custom_section(&mut wasm, "other", b"three");
        assert_eq!(custom_sections(&wasm, "gapura:case"), [b"one", b"two"]);
        inspect(&wasm).expect("a component");
    }

    #[test]
    fn what_is_not_wasm_is_shown() {
        let not_wasm = |bytes: &[u8]| inspect(bytes).expect_err("not wasm").to_string();
        assert_eq!(
            not_wasm(b""),
            "not a WebAssembly file: it begins with nothing"
        );
        assert_eq!(
            not_wasm(b"#!/bin/sh"),
            "not a WebAssembly file: it begins with 23 21 2f 62 69 6e 2f 73"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(tail in proptest::collection::vec(0_u8.., 0..200)) {
            let _ = inspect(&tail);
            let component = [&b"\0asm\x0d\0\x01\0"[..], &tail].concat();
            let _ = inspect(&component);
        }
    }
}
