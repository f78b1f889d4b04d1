//! The contract in five languages: the same cases for the same plugin in each. `README.md` says
//! what the plugin does.

mod cases;
mod describe;
mod host;
mod prices;
mod values;

use host::{Guest, LANGUAGES};

/// A test for each language, so that one that fails does not hide another.
macro_rules! conforms {
    ($($language:ident),+) => {
        $(
            #[tokio::test]
            async fn $language() {
                let guest = Guest::load(stringify!($language));
                cases::validate(&guest).await;
                cases::imports(&guest).await;
                cases::render(&guest).await;
                cases::respond(&guest).await;
                cases::answer_at_length(&guest).await;
                cases::observe(&guest).await;
            }
        )+

        #[test]
        fn every_language_is_tested() {
            assert_eq!(LANGUAGES, [$(stringify!($language)),+]);
        }
    };
}

conforms!(rust, python, javascript, go, c);
