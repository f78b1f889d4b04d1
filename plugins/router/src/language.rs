//! Which of four languages a text is in, by the small and everyday words that sentences need.
//!
//! No model and no table of letters: whoever wonders why a chat went where it went counts the
//! words below. A word that two languages share counts for both.

use serde::Deserialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Language {
    /// Indonesian.
    Id,
    /// Javanese.
    Jv,
    /// Sundanese.
    Su,
    /// English.
    En,
}

/// As many words of a text are looked at: a language shows in fewer.
const MAX_WORDS: usize = 200;

/// In the order of their bytes, so that they can be searched.
#[rustfmt::skip]
const WORDS: [(Language, &[&str]); 4] = [
    (Language::Id, &[
        "ada", "adalah", "agar", "akan", "aku", "anda", "apa", "apakah", "atau", "bagaimana",
        "bagi", "bahwa", "banyak", "belum", "berapa", "bisa", "bukan", "cara", "dalam", "dan",
        "dapat", "dari", "dengan", "di", "dia", "hari", "harus", "ini", "itu", "jangan", "jika",
        "juga", "kalau", "kami", "kamu", "kapan", "karena", "ke", "kenapa", "kita", "kota",
        "lebih", "mana", "mengapa", "mereka", "mohon", "oleh", "orang", "pada", "saja", "sangat",
        "saya", "sebuah", "secara", "seperti", "siapa", "sudah", "tahun", "tapi", "telah",
        "tentang", "tetapi", "tidak", "tolong", "untuk", "yang",
    ]),
    (Language::Jv, &[
        "ajeng", "aku", "amarga", "ana", "apa", "arep", "badhe", "bisa", "boten", "dhewe", "dina",
        "dudu", "durung", "iki", "iku", "ing", "inggih", "ingkang", "isih", "kabeh", "kados",
        "kae", "kalih", "kanggo", "karo", "kepiye", "kowe", "kula", "lagi", "lan", "luwih",
        "marang", "menika", "mung", "nalika", "nang", "nanging", "neng", "nggih", "ngono", "ning",
        "ora", "panjenengan", "pira", "piye", "punapa", "pundi", "saka", "sampun", "sapa", "siji",
        "sing", "supaya", "tansah", "uga", "utawa", "wae", "wis", "wong", "yaiku", "yen",
    ]),
    (Language::Su, &[
        "abdi", "anjeun", "anu", "atanapi", "atawa", "aya", "bakal", "bari", "bisa", "caket",
        "ceuk", "di", "dina", "dugi", "euy", "geus", "hayang", "henteu", "ieu", "iraha", "jadi",
        "jalma", "jeung", "kaayaan", "kana", "ku", "kudu", "kumaha", "kuring", "lain", "lamun",
        "loba", "mah", "mana", "maneh", "mangga", "naha", "naon", "nu", "nya", "nyaeta", "oge",
        "ogé", "pikeun", "pisan", "sabab", "sababaraha", "saha", "sanes", "sareng", "sok", "teh",
        "teu", "ti", "tiasa", "tina", "téh", "urang", "wae",
    ]),
    (Language::En, &[
        "a", "about", "an", "and", "are", "as", "at", "be", "but", "by", "can", "could", "did",
        "do", "does", "for", "from", "had", "has", "have", "he", "her", "his", "how", "i", "if",
        "in", "is", "it", "me", "my", "no", "not", "of", "on", "or", "our", "please", "she",
        "should", "so", "that", "the", "their", "them", "there", "they", "this", "to", "was",
        "we", "were", "what", "when", "where", "which", "who", "why", "will", "with", "would",
        "you", "your",
    ]),
];

/// The language of which `words` (lower-case, between spaces) has the most words; none where it
/// has none of any, or as many of two.
pub(crate) fn of(words: &str) -> Option<Language> {
    let mut counts = [0_usize; WORDS.len()];
    for word in words.split_ascii_whitespace().take(MAX_WORDS) {
        for (count, (_, small)) in counts.iter_mut().zip(WORDS) {
            *count += usize::from(small.binary_search(&word).is_ok());
        }
    }
    let most = counts.into_iter().max().filter(|&most| most > 0)?;
    let mut with_most = (0..counts.len()).filter(|&at| counts[at] == most);
    let first = with_most.next()?;
    with_most.next().is_none().then_some(WORDS[first].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_in_order() {
        for (language, words) in WORDS {
            assert!(words.is_sorted(), "{language:?}");
        }
    }
}
