//! The settings of a plugin's binding, as a type.

use serde::de::DeserializeOwned;

use crate::Failure;
use crate::host;

/// The binding's settings (the `settings` table of the route's plugin entry).
///
/// Derive `Deserialize` with `#[serde(deny_unknown_fields, default)]`, so that a misspelt
/// name is an error that lists the right ones. A binding without settings reads as `{}`.
///
/// # Errors
/// A [`Failure`] that names the field and says what was expected.
pub fn try_settings<T: DeserializeOwned>() -> Result<T, Failure> {
    serde_json::from_str(&host::settings_json()).map_err(|error| {
        // The settings were TOML to whoever wrote them: a place in the JSON says nothing.
        let message = error.to_string();
        let message = message
            .rsplit_once(" at line ")
            .map_or(message.as_str(), |(text, _)| text);
        Failure::new(format!("settings: {message}"))
    })
}

/// [`try_settings`] for the stages that have no failure to return: rendering and answers.
///
/// # Panics
/// With the failure's message, where the settings do not fit `T`: the host logs it and
/// applies the failure policy.
pub fn settings<T: DeserializeOwned>() -> T {
    try_settings().unwrap_or_else(|failure| panic!("{}", failure.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[derive(Debug, PartialEq, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Limits {
        max_messages: u32,
    }

    impl Default for Limits {
        fn default() -> Self {
            Self { max_messages: 7 }
        }
    }

    #[test]
    fn absent_settings_are_the_defaults() {
        testing::set_settings("{}");
        assert_eq!(try_settings(), Ok(Limits { max_messages: 7 }));
    }

    #[test]
    fn a_misspelt_setting_is_named_with_the_right_one() {
        testing::set_settings(r#"{"max_message": 3}"#);
        let failure = try_settings::<Limits>().unwrap_err();
        assert_eq!(
            failure.message,
            "settings: unknown field `max_message`, expected `max_messages`"
        );
    }

    #[test]
    #[should_panic(expected = "settings: invalid type: string \"many\", expected u32")]
    fn settings_of_a_wrong_kind_end_the_call() {
        testing::set_settings(r#"{"max_messages": "many"}"#);
        settings::<Limits>();
    }
}
