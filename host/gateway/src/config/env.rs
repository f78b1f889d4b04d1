//! The environment variables that are read, all of them, and what they mean.

use std::{collections::HashMap, fmt, num::NonZeroU32, str::FromStr};

use super::{ConfigError, Device, Digest, KeyConfig, Overrides, Quantize, Secret};

/// A snapshot of the environment. Holds secrets, hence shows nothing.
#[derive(Clone, Default)]
pub struct Environment(HashMap<String, String>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.0.len())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

impl Environment {
    /// That of this process. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// What the variables ask for.
    ///
    /// # Errors
    /// [`ConfigError::Environment`] for a value of the wrong kind, and for a feature that is
    /// asked for and not there; [`ConfigError::Conflict`] for two that exclude each other.
    pub fn overrides(&self) -> Result<Overrides, ConfigError> {
        let mut overrides = Overrides {
            host: self.host()?,
            port: self.value("PORT", "a port number, 1 to 65535")?,
            model: self.text("MODEL_NAME").map(str::to_owned),
            device: self.device()?,
            quantize: self.quantize()?,
            flash_attention: self.flag("USE_FLASH_ATTENTION")?,
            context_length: self.value("MODEL_MAX_LENGTH", "a number of tokens above 0")?,
            log_level: self.text("LOG_LEVEL").map(str::to_lowercase),
            max_requests_per_minute: self.value("MAX_REQUESTS_PER_MINUTE", "a number above 0")?,
            admin_token: self
                .text("GAPURA_ADMIN_TOKEN")
                .map(|token| Digest::of(token.as_bytes())),
            keys: self.keys(),
            hub_token: self
                .text("HUGGINGFACE_TOKEN")
                .or(self.text("HF_TOKEN"))
                .map(Secret::new),
            ..Overrides::default()
        };
        let sampling = &mut overrides.sampling;
        sampling.max_tokens = self
            .value::<NonZeroU32>("DEFAULT_MAX_NEW_TOKENS", "a number of tokens above 0")?
            .map(NonZeroU32::get);
        sampling.temperature = self.ranged("DEFAULT_TEMPERATURE", "0 to 2", |t| {
            (0.0..=2.0).contains(&t)
        })?;
        sampling.top_p = self.ranged("DEFAULT_TOP_P", "above 0 and up to 1", |p| {
            p > 0.0 && p <= 1.0
        })?;
        sampling.top_k = match self.text("DEFAULT_TOP_K") {
            Some("-1") => Some(0),
            _ => self.value("DEFAULT_TOP_K", "a number, 0 or -1 for all tokens")?,
        };
        Ok(overrides)
    }

    /// A variable that is set and not empty.
    pub fn text(&self, variable: &str) -> Option<&str> {
        self.0
            .get(variable)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    fn value<T: FromStr>(
        &self,
        variable: &'static str,
        expected: &str,
    ) -> Result<Option<T>, ConfigError> {
        self.text(variable)
            .map(|text| text.parse().map_err(|_| wrong(variable, text, expected)))
            .transpose()
    }

    fn ranged(
        &self,
        variable: &'static str,
        expected: &str,
        fits: impl Fn(f32) -> bool,
    ) -> Result<Option<f32>, ConfigError> {
        match self.value::<f32>(variable, expected)? {
            Some(value) if !fits(value) => Err(wrong(variable, &value.to_string(), expected)),
            value => Ok(value),
        }
    }

    /// `None` where it is not set.
    fn flag(&self, variable: &'static str) -> Result<Option<bool>, ConfigError> {
        match self.text(variable).map(str::to_lowercase).as_deref() {
            None => Ok(None),
            Some("false" | "0" | "no" | "off") => Ok(Some(false)),
            Some("true" | "1" | "yes" | "on") => Ok(Some(true)),
            Some(other) => Err(wrong(variable, other, "true or false")),
        }
    }

    fn host(&self) -> Result<Option<std::net::IpAddr>, ConfigError> {
        match self.text("HOST") {
            Some("localhost") => Ok(Some(std::net::Ipv4Addr::LOCALHOST.into())),
            _ => self.value("HOST", "an IP address or localhost"),
        }
    }

    fn device(&self) -> Result<Option<Device>, ConfigError> {
        match self.text("DEVICE").map(str::to_lowercase).as_deref() {
            None => Ok(None),
            Some("auto") => Ok(Some(Device::Auto)),
            Some("cpu") => Ok(Some(Device::Cpu)),
            Some("cuda" | "cuda:0" | "gpu") => Ok(Some(Device::Cuda)),
            Some(other) => Err(wrong("DEVICE", other, "auto, cpu or cuda")),
        }
    }

    /// A variable that says false leaves the file's word alone: the files that set these
    /// variables list them all.
    fn quantize(&self) -> Result<Option<Quantize>, ConfigError> {
        let is_set = |flag: Option<bool>| flag.unwrap_or(false);
        let eight_bit = is_set(self.flag("LOAD_IN_8BIT")?);
        match (eight_bit, is_set(self.flag("LOAD_IN_4BIT")?)) {
            (true, true) => Err(ConfigError::Conflict(
                "LOAD_IN_8BIT and LOAD_IN_4BIT are both true; set one of them to false".to_owned(),
            )),
            (true, false) => Ok(Some(Quantize::EightBit)),
            (false, true) => Ok(Some(Quantize::FourBit)),
            (false, false) => Ok(None),
        }
    }

    fn keys(&self) -> Vec<KeyConfig> {
        let list = self.text("API_KEYS").unwrap_or_default();
        list.split(',')
            .map(str::trim)
            .filter(|key| !key.is_empty())
            .enumerate()
            .map(|(index, key)| KeyConfig {
                private_cache: false,
                name: format!("env-{}", index + 1),
                digest: Digest::of(key.as_bytes()),
                routes: None,
                max_requests_per_minute: None,
            })
            .collect()
    }
}

fn wrong(variable: &'static str, value: &str, expected: &str) -> ConfigError {
    ConfigError::Environment {
        variable,
        message: format!("`{value}` is not {expected}"),
    }
}
