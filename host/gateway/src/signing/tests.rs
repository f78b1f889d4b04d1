//! Formats word for word, and every way in which a signature can be wrong.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::Signer as _;

use super::*;

/// RFC 8032, section 7.1, test 1: a key that everybody has.
const PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
    -----END PRIVATE KEY-----\n";
const PUBLIC: &str = "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

fn key() -> SigningKey {
    SigningKey::from_pem(PEM).expect("a key")
}

fn component() -> Digest {
    Digest::of(b"a component")
}

fn reason(text: &str) -> String {
    let error = Signature::parse(text).expect_err(text);
    assert_eq!(error.code(), "signature_invalid");
    error.to_string()
}

#[test]
fn keys_are_read_as_openssl_writes_them() {
    assert_eq!(key().public().to_string(), PUBLIC);
    assert_eq!(key().to_pem(), PEM);
    assert_eq!(PUBLIC.parse(), Ok(key().public()));
    let made = SigningKey::generate().unwrap();
    let read = SigningKey::from_pem(&made.to_pem()).unwrap();
    assert_eq!(read.public(), made.public());
    assert_ne!(read.public(), SigningKey::generate().unwrap().public());
    assert!(SigningKey::from_pem(&PEM.replace('\n', "\r\n")).is_ok());
}

#[test]
fn no_output_shows_a_private_key() {
    let debug = format!("{:?}", key());
    assert_eq!(debug, format!("SigningKey({PUBLIC})"));
    let error = SigningKey::from_pem(&PEM.replace("MC4C", "MC4D")).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("EIJ1h"));
}

#[test]
fn what_is_no_key_is_refused() {
    let body = PEM.lines().nth(1).unwrap();
    for text in [
        "",
        body,
        &PEM.replace("PRIVATE", "PUBLIC"),
        &PEM.replace("BCIE", "BCIF"),
        &PEM.replace("rn9g", "rn9"),
        &PEM.replace(body, &format!("{body}AAAA")),
        &format!("{PEM}{PEM}"),
    ] {
        assert_eq!(SigningKey::from_pem(text).unwrap_err(), KeyError::Private);
    }
    let public = |text: &str| text.parse::<PublicKey>().unwrap_err();
    for text in [
        "",
        "ed25519:",
        &PUBLIC[8..],
        &PUBLIC.replace("ed25519", "ED25519"),
        &PUBLIC[..PUBLIC.len() - 1],
        &format!(" {PUBLIC}"),
        &format!("{PUBLIC}\n"),
        // The last letter holds bits that no byte has.
        &PUBLIC.replace("URo=", "URp="),
        // No point of the curve.
        "ed25519:AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ] {
        assert_eq!(public(text), KeyError::Public, "{text}");
    }
    assert_eq!(public(PEM), KeyError::PrivateForPublic);
    // Of order 4 and 1.
    for text in [
        "ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "ed25519:AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    ] {
        assert_eq!(public(text), KeyError::Weak);
    }
}

/// Made by another implementation (`openssl pkeyutl -sign -rawin`) over the text that
/// `docs/signatures.md` names.
const BY_OPENSSL: &str =
    "v+NM8O/e+btQF1CsCGOAGos2muDpfQHyudF3HVcY9JPZXTVlc/cDU6+WpTKWrBBMpvac6iLUWiJ//ugLqFj1Dw==";

#[test]
fn a_signature_is_one_line_that_other_tools_make_too() {
    let signature = key().sign(component());
    let text = signature.to_string();
    assert_eq!(text, format!("gapura-signature-v1 {PUBLIC} {BY_OPENSSL}"));
    for ending in ["", "\n", "\r\n"] {
        let read = Signature::parse(&format!("{text}{ending}")).unwrap();
        assert_eq!(read, signature);
        assert_eq!(read.check(component()), Ok(()));
    }
    let json = serde_json::to_string(&signature).unwrap();
    assert_eq!(serde_json::from_str::<Signature>(&json).unwrap(), signature);
}

#[test]
fn a_damaged_line_is_no_signature() {
    let text = key().sign(component()).to_string();
    let shown = |reason: &str| {
        format!("its signature is not a line `gapura-signature-v1 KEY SIGNATURE`: {reason}")
    };
    let word = shown("it begins with another word");
    for wrong in [
        "",
        "\n",
        &format!(" {text}"),
        &format!("\u{feff}{text}"),
        &text.to_uppercase(),
        &text.to_lowercase().replace("gapura", "Gapura"),
        &text.replace("-v1", "-v2"),
    ] {
        assert_eq!(reason(wrong), word, "{wrong}");
    }
    let three = shown("it has not three words");
    for wrong in [
        "gapura-signature-v1",
        &format!("gapura-signature-v1 {PUBLIC}"),
        &format!("{text} "),
        &format!("{text} by me"),
        &text.replace(' ', "  "),
        &format!("{text}\n{text}"),
    ] {
        assert_eq!(reason(wrong), three, "{wrong}");
    }
    let key = shown("the second word is not a public key `ed25519:…`");
    assert_eq!(reason(&text.replace("ed25519:", "ed25519;")), key);
    assert_eq!(reason(&text.replace("URo=", "UR")), key);
    let proof = shown("the third word is not 64 bytes in base64");
    for wrong in [
        text.strip_suffix('=').unwrap(),
        &text[..text.len() - 4],
        &text[..text.len() - 40],
        &format!("{text}\n\n"),
        &format!("{text}\t"),
        &format!("{text}AAAA"),
        &text.replace(BY_OPENSSL, &BY_OPENSSL.replace('A', "*")),
    ] {
        assert_eq!(reason(wrong), proof, "{wrong}");
    }
    let long = format!("{text}{}", "A".repeat(MAX_TEXT_BYTES));
    assert_eq!(reason(&long), shown("it is too long"));
}

#[test]
fn a_signature_fits_one_component_and_one_key() {
    let signature = key().sign(component());
    let other = SigningKey::generate().unwrap();
    let invalid = |text: &str, digest| {
        let signature = Signature::parse(text).unwrap();
        signature.check(digest).unwrap_err().code()
    };
    let text = signature.to_string();
    assert_eq!(
        invalid(&text, Digest::of(b"another component")),
        "signature_invalid"
    );
    // Somebody else's name on it.
    let stolen = text.replace(PUBLIC, &other.public().to_string());
    assert_eq!(invalid(&stolen, component()), "signature_invalid");
    // Letters in the other case are other letters.
    let (front, back) = BY_OPENSSL.split_at(80);
    for front in [front.to_uppercase(), front.to_lowercase()] {
        let swapped = text.replace(BY_OPENSSL, &format!("{front}{back}"));
        assert_eq!(invalid(&swapped, component()), "signature_invalid");
    }
}

#[test]
fn a_signature_of_the_bare_digest_was_made_for_something_else() {
    let raw = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let public = format!("ed25519:{}", BASE64.encode(raw.verifying_key().as_bytes()));
    let check = |message: &[u8]| {
        let signature = Signature::new(public.parse().unwrap(), raw.sign(message));
        signature.check(component())
    };
    assert_eq!(check(&message(component())), Ok(()));
    assert!(check(component().to_string().as_bytes()).is_err());
    assert!(check(&component().0).is_err());
}

#[test]
fn every_bit_counts() {
    let bytes: [u8; 64] = BASE64.decode(BY_OPENSSL).unwrap().try_into().unwrap();
    for bit in 0..512 {
        let mut damaged = bytes;
        damaged[bit / 8] ^= 1 << (bit % 8);
        let damaged = ed25519_dalek::Signature::from_bytes(&damaged);
        let damaged = Signature::new(key().public(), damaged);
        assert!(damaged.check(component()).is_err(), "bit {bit}");
    }
}

#[test]
fn any_trusted_key_is_enough_and_no_other() {
    let (old, new, foreign) = (
        SigningKey::generate().unwrap(),
        SigningKey::generate().unwrap(),
        SigningKey::generate().unwrap(),
    );
    let named = |name: &str, key: &SigningKey| (name.to_owned(), key.public());
    let both: TrustedKeys = [named("old", &old), named("new", &new)]
        .into_iter()
        .collect();
    assert_eq!(both.to_string(), "old or new");
    let by = |key: &SigningKey| key.sign(component());
    assert_eq!(both.verify(component(), &by(&old)), Ok("old"));
    assert_eq!(both.verify(component(), &by(&new)), Ok("new"));
    let untrusted = both.verify(component(), &by(&foreign)).unwrap_err();
    assert_eq!(untrusted.code(), "signature_untrusted");
    // Not his, and not of this component either: the latter is what is wrong.
    let error = both.verify(Digest::of(b"x"), &by(&foreign)).unwrap_err();
    assert_eq!(error.code(), "signature_invalid");

    let any = |signatures: &[Signature]| both.verify_any(component(), signatures);
    assert_eq!(any(&[]), Err(SignatureError::Missing));
    assert_eq!(any(&[by(&foreign), by(&new)]), Ok("new"));
    assert_eq!(any(&[by(&new), by(&foreign)]), Ok("new"));

    let only_new = both.only(&["new".to_owned()]);
    let revoked = only_new.verify(component(), &by(&old)).unwrap_err();
    assert_eq!(revoked.code(), "signature_untrusted");
}
