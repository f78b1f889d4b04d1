//! Who may ask: API keys (kept as SHA-256 only), the routes that each opens, the rate of each,
//! and the administration token.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq as _;

use crate::{
    config::{Config, Digest},
    error::ApiError,
};

/// The tenant of callers where no keys are configured, in the rate limiter only.
const OPEN: &str = "";

/// The API keys and the administration token of one configuration, immutable.
#[derive(Debug)]
pub struct Auth {
    keys: Vec<Key>,
    admin: Option<Digest>,
    default_rate: Option<NonZeroU32>,
}

#[derive(Debug)]
struct Key {
    digest: Digest,
    caller: Arc<Caller>,
}

/// Who a request comes from. The default is nobody in particular, who may use every route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The key's name; `None` where the server asks for no keys.
    pub tenant: Option<String>,
    /// The routes that it may use; `None` is all.
    routes: Option<Vec<String>>,
    /// Requests per minute.
    rate: Option<NonZeroU32>,
    /// Shares computed prefixes with nobody else.
    has_private_cache: bool,
}

impl Caller {
    /// What keeps the caller's computed prefixes apart, where its key or the request's own
    /// `cache_salt` asks for it.
    pub fn cache_salt(&self, asked: Option<&str>) -> Option<Arc<str>> {
        let own = self.tenant.as_deref().filter(|_| self.has_private_cache);
        match (own, asked) {
            (None, None) => None,
            // Neither part can be mistaken for the other: a name has no line end.
            (own, asked) => {
                let (own, asked) = (own.unwrap_or_default(), asked.unwrap_or_default());
                Some(format!("{own}\n{asked}").into())
            }
        }
    }

    /// Whether the caller may use `route`.
    pub fn may_use(&self, route: &str) -> bool {
        self.routes
            .as_ref()
            .is_none_or(|routes| routes.iter().any(|name| name == route))
    }

    /// Refuses a route that the caller's key does not open.
    ///
    /// # Errors
    /// 403, naming the route.
    pub fn check_route(&self, route: &str) -> Result<(), ApiError> {
        if self.may_use(route) {
            return Ok(());
        }
        Err(
            ApiError::forbidden(format!("this API key does not open the route `{route}`"))
                .with_param("model")
                .with_code("route_not_allowed"),
        )
    }
}

impl Auth {
    /// The keys of `config`.
    pub fn new(config: &Config) -> Self {
        let keys = config.keys.iter().map(|key| Key {
            digest: key.digest,
            caller: Arc::new(Caller {
                tenant: Some(key.name.clone()),
                routes: key.routes.clone(),
                rate: key
                    .max_requests_per_minute
                    .or(config.server.max_requests_per_minute),
                has_private_cache: key.private_cache,
            }),
        });
        Self {
            keys: keys.collect(),
            admin: config.admin.token,
            default_rate: config.server.max_requests_per_minute,
        }
    }

    /// Whether everybody is let in.
    pub fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Who sent a request with these headers: `Authorization: Bearer KEY` or `X-API-Key: KEY`.
    ///
    /// # Errors
    /// 401 without a key or with an unknown one; the key itself is never repeated.
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<Caller>, ApiError> {
        if self.is_open() {
            return Ok(Arc::new(Caller {
                tenant: None,
                routes: None,
                rate: self.default_rate,
                has_private_cache: false,
            }));
        }
        let Some(secret) = credential(headers) else {
            return Err(ApiError::unauthorized(
                "no API key was sent; use the header `Authorization: Bearer KEY` or `X-API-Key: KEY`",
            ));
        };
        let digest = Digest::of(secret);
        // Every key is compared, so that the time says nothing about which one came close.
        let mut found = None;
        for key in &self.keys {
            if bool::from(key.digest.0.ct_eq(&digest.0)) {
                found = Some(&key.caller);
            }
        }
        found
            .cloned()
            .ok_or_else(|| ApiError::unauthorized("the API key is not known here"))
    }

    /// The digest of the administration token.
    ///
    /// # Errors
    /// 404 where none is configured.
    pub(crate) fn check_admin(&self) -> Result<Digest, ApiError> {
        self.admin.ok_or_else(|| {
            ApiError::not_found(
                "the administration API is off; set GAPURA_ADMIN_TOKEN or [admin] token_sha256",
            )
            .with_code("admin_disabled")
        })
    }

    /// Lets the administrator through.
    ///
    /// # Errors
    /// 404 where no token is configured, 401 for a missing or wrong one.
    pub fn authenticate_admin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let expected = self.check_admin()?;
        let token = credential(headers).ok_or_else(|| {
            ApiError::unauthorized(
                "no administration token was sent; use `Authorization: Bearer TOKEN`",
            )
        })?;
        if bool::from(expected.0.ct_eq(&Digest::of(token).0)) {
            return Ok(());
        }
        Err(ApiError::unauthorized("the administration token is wrong"))
    }
}

/// The secret that a request carries.
fn credential(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, rest) = value.as_bytes().split_at_checked(7)?;
        scheme
            .eq_ignore_ascii_case(b"bearer ")
            .then(|| rest.trim_ascii())
    });
    let secret = bearer.or_else(|| Some(headers.get("x-api-key")?.as_bytes().trim_ascii()))?;
    (!secret.is_empty()).then_some(secret)
}

/// A token bucket for each key. It outlives configuration reloads, so that a reload does not
/// refill the buckets.
#[derive(Debug, Default)]
pub struct RateLimiter {
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    updated: Instant,
}

impl RateLimiter {
    /// Counts one request of `caller` at `now`.
    ///
    /// # Errors
    /// 429 with the time until the next request is due.
    pub fn admit(&self, caller: &Caller, now: Instant) -> Result<(), ApiError> {
        let Some(rate) = caller.rate else {
            return Ok(());
        };
        let capacity = f64::from(rate.get());
        let per_second = capacity / 60.0;
        let name = caller.tenant.as_deref().unwrap_or(OPEN);
        // The guarded code cannot leave a bucket half changed.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = match buckets.get_mut(name) {
            Some(bucket) => bucket,
            None => buckets.entry(name.to_owned()).or_insert(Bucket {
                tokens: capacity,
                updated: now,
            }),
        };
        let elapsed = now.saturating_duration_since(bucket.updated).as_secs_f64();
        bucket.tokens = (bucket.tokens + elapsed * per_second).min(capacity);
        bucket.updated = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        let wait = Duration::from_secs_f64((1.0 - bucket.tokens) / per_second);
        Err(ApiError::too_many_requests(
            format!("more than {rate} requests per minute with this key"),
            wait,
        )
        .with_code("rate_limit_exceeded"))
    }
}

#[cfg(test)]
mod tests;
