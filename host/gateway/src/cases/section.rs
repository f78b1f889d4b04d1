//! Cases that travel inside a component, one custom section each: so that whoever is given it can
//! see what it promises, and try it before it serves.

use gapura_plugin_runtime::{add_custom_section, custom_sections};

use super::file::{Case, CaseError};

/// Holds a line with the case's name, then the text of its file.
const SECTION: &str = "gapura:case";

/// Most cases that are read of one component.
pub const MAX_CASES: usize = 256;

/// Most bytes of a case's name: as file names have.
const MAX_NAME_BYTES: usize = 255;

/// Appends a case's file to the component `wasm`.
pub fn embed(wasm: &mut Vec<u8>, name: &str, text: &str) {
    add_custom_section(wasm, SECTION, format!("{name}\n{text}").as_bytes());
}

/// The cases that the component carries, in order.
///
/// # Errors
/// [`CaseError`] where one cannot be read, or there are more than [`MAX_CASES`].
pub fn embedded(wasm: &[u8]) -> Result<Vec<Case>, CaseError> {
    let invalid = |name: &str, reason: String| CaseError::Invalid {
        name: name.to_owned(),
        reason,
    };
    let sections = custom_sections(wasm, SECTION);
    if sections.len() > MAX_CASES {
        let reason = format!(
            "the component has {}, {MAX_CASES} are allowed",
            sections.len()
        );
        return Err(invalid("cases", reason));
    }
    let read = |data: &[u8]| {
        let text = std::str::from_utf8(data)
            .map_err(|_| invalid(SECTION, "a case is not UTF-8".to_owned()))?;
        let (name, text) = text
            .split_once('\n')
            .ok_or_else(|| invalid(SECTION, "a case has no name".to_owned()))?;
        // Names go to terminals.
        if name.len() > MAX_NAME_BYTES || name.contains(char::is_control) {
            let reason = format!(
                "a case's name is longer than {MAX_NAME_BYTES} bytes or has control characters"
            );
            return Err(invalid(SECTION, reason));
        }
        Case::parse(name, text)
    };
    sections.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn what_is_embedded_is_found_again() {
        let text = "[request]\nmessages = [{ role = 'user', content = 'Halo' }]\n";
        let mut wasm = EMPTY.to_vec();
        embed(&mut wasm, "halo", text);
        embed(&mut wasm, "lagi", text);
        let found = embedded(&wasm).unwrap();
        let names: Vec<&str> = found.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["halo", "lagi"]);
        assert_eq!(found[0].chat.messages[0].content, ["Halo"]);
    }

    #[test]
    fn sections_that_are_no_cases_are_refused() {
        let refusal = |data: &[u8]| {
            let mut wasm = EMPTY.to_vec();
            add_custom_section(&mut wasm, SECTION, data);
            embedded(&wasm).unwrap_err().to_string()
        };
        assert_eq!(refusal(b"\xff"), "gapura:case: a case is not UTF-8");
        assert_eq!(refusal(b"halo"), "gapura:case: a case has no name");
        assert!(refusal(b"halo\n[req").contains("halo: "));
        let odd_name =
            "gapura:case: a case's name is longer than 255 bytes or has control characters";
        assert_eq!(refusal(b"\x1b[2J\n"), odd_name);
        assert_eq!(
            refusal(&[b"a".repeat(256), b"\n".to_vec()].concat()),
            odd_name
        );
        let huge = refusal(&[b"halo\n".to_vec(), b"#".repeat(20 << 20)].concat());
        assert!(huge.contains("halo") && huge.contains("20971520"), "{huge}");
        let mut wasm = EMPTY.to_vec();
        (0..=MAX_CASES).for_each(|_| embed(&mut wasm, "x", ""));
        assert!(embedded(&wasm).unwrap_err().to_string().contains("257"));
    }
}
