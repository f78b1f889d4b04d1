//! Keys, routes and rates.

use axum::http::HeaderValue;

use super::*;
use crate::config::{Environment, Overrides};

fn config(toml: &str) -> Config {
    Config::parse(None, toml, &Environment::default(), &Overrides::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn auth() -> Auth {
    let toml = format!(
        "[admin]\ntoken_sha256 = '{}'\n\
         [[routes]]\nname = 'a'\nplugins = [{{ plugin = 'chatml' }}]\n\
         [[keys]]\nname = 'team'\nsha256 = '{}'\nroutes = ['a']\nmax_requests_per_minute = 2\n",
        Digest::of(b"admin-token"),
        Digest::of(b"sk-team"),
    );
    Auth::new(&config(&toml))
}

fn with(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(
        axum::http::HeaderName::from_static(name),
        HeaderValue::from_str(value).unwrap(),
    )])
}

#[test]
fn either_header_carries_a_key() {
    let auth = auth();
    for headers in [
        with("authorization", "Bearer sk-team"),
        with("authorization", "bearer  sk-team "),
        with("x-api-key", "sk-team"),
    ] {
        let caller = auth.authenticate(&headers).unwrap();
        assert_eq!(caller.tenant.as_deref(), Some("team"));
        assert!(caller.may_use("a"));
        assert_eq!(caller.check_route("b").unwrap_err().status().as_u16(), 403);
    }
}

#[test]
fn wrong_and_missing_keys_are_401_and_not_repeated() {
    let auth = auth();
    for headers in [
        HeaderMap::new(),
        with("authorization", "Bearer "),
        with("authorization", "Basic sk-team"),
        with("authorization", "Bearer sk-secret-typo"),
    ] {
        let error = auth.authenticate(&headers).unwrap_err();
        assert_eq!(error.status().as_u16(), 401);
        assert!(!error.message().contains("typo"), "{}", error.message());
    }
}

#[test]
fn no_secret_shows_in_debug_output() {
    let secret = crate::config::Secret::new("hf_token");
    assert_eq!(format!("{secret:?}"), "[hidden]");
    let shown = format!("{:?}", auth());
    assert!(!shown.contains(&Digest::of(b"sk-team").to_hex()), "{shown}");
}

#[test]
fn the_administration_wants_its_own_token() {
    let auth = auth();
    assert!(
        auth.authenticate_admin(&with("authorization", "Bearer admin-token"))
            .is_ok()
    );
    let wrong = auth
        .authenticate_admin(&with("authorization", "Bearer sk-team"))
        .unwrap_err();
    assert_eq!(wrong.status().as_u16(), 401);
    let off = Auth::new(&config(""))
        .authenticate_admin(&HeaderMap::new())
        .unwrap_err();
    assert_eq!(
        (off.status().as_u16(), off.code()),
        (404, Some("admin_disabled"))
    );
}

#[test]
fn a_bucket_empties_refuses_and_refills() {
    let auth = auth();
    let caller = auth.authenticate(&with("x-api-key", "sk-team")).unwrap();
    let limiter = RateLimiter::default();
    let start = Instant::now();
    assert!(limiter.admit(&caller, start).is_ok());
    assert!(limiter.admit(&caller, start).is_ok());
    let refused = limiter.admit(&caller, start).unwrap_err();
    assert_eq!(
        (refused.status().as_u16(), refused.code()),
        (429, Some("rate_limit_exceeded"))
    );
    assert!(
        limiter
            .admit(&caller, start + Duration::from_secs(29))
            .is_err()
    );
    assert!(
        limiter
            .admit(&caller, start + Duration::from_secs(31))
            .is_ok()
    );
}

#[test]
fn without_keys_everybody_shares_the_servers_rate() {
    let auth = Auth::new(&config("[server]\nmax_requests_per_minute = 1\n"));
    let caller = auth.authenticate(&HeaderMap::new()).unwrap();
    assert_eq!(caller.tenant, None);
    let (limiter, now) = (RateLimiter::default(), Instant::now());
    assert!(limiter.admit(&caller, now).is_ok());
    assert!(limiter.admit(&caller, now).is_err());
}
