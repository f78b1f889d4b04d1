//! The numbers that plugins count and measure themselves. Names are the plugins' own, so they are
//! bounded here: a scrape must not grow with what a guest makes up.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use gapura_plugin_runtime::{PluginId, PluginValues};
use prometheus::{HistogramVec, IntCounterVec, Registry};

use super::metrics::{Metrics, counters, histograms};
use super::names;

/// Most names of one plugin.
const MAX_NAMES: usize = 32;
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 64;
const LABELS: [&str; 3] = ["plugin", "route", "name"];

/// The series of plugins.
#[derive(Debug)]
pub(super) struct Values {
    totals: IntCounterVec,
    histograms: HistogramVec,
    dropped: IntCounterVec,
    /// The names of each plugin so far.
    names: Mutex<HashMap<String, BTreeSet<String>>>,
}

impl Values {
    pub(super) fn new(registry: &Registry) -> Self {
        let buckets = names::VALUE_BUCKETS;
        Self {
            totals: counters(registry, names::PLUGIN_VALUES, &LABELS),
            histograms: histograms(registry, names::PLUGIN_VALUE, buckets, &LABELS),
            dropped: counters(registry, names::PLUGIN_VALUES_DROPPED, &LABELS[..2]),
            names: Mutex::default(),
        }
    }

    /// Whether `plugin` may use `name`; counts it where not.
    fn admits(&self, plugin: &PluginId, route: &str, name: &str) -> bool {
        let admitted = is_name(name) && {
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let known = names.entry(plugin.name.clone()).or_default();
            known.contains(name) || (known.len() < MAX_NAMES && known.insert(name.to_owned()))
        };
        if !admitted {
            self.drop(plugin, route);
        }
        admitted
    }

    fn drop(&self, plugin: &PluginId, route: &str) {
        let labels = [plugin.name.as_str(), route];
        self.dropped.with_label_values(&labels).inc();
    }
}

impl PluginValues for Metrics {
    fn add(&self, plugin: &PluginId, route: &str, name: &str, by: u64) {
        if self.values.admits(plugin, route, name) {
            let labels = [plugin.name.as_str(), route, name];
            self.values.totals.with_label_values(&labels).inc_by(by);
        }
    }

    /// An infinite value would make the sum of its series one for ever.
    fn observe(&self, plugin: &PluginId, route: &str, name: &str, value: f64) {
        if !value.is_finite() {
            self.values.drop(plugin, route);
        } else if self.values.admits(plugin, route, name) {
            let labels = [plugin.name.as_str(), route, name];
            let histogram = self.values.histograms.with_label_values(&labels);
            histogram.observe(value);
        }
    }
}

/// Lower-case letters, digits and `_`, a letter first.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    name.len() <= MAX_NAME_BYTES
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::EngineGauges;

    fn plugin(name: &str) -> PluginId {
        PluginId {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            digest: "ab".repeat(32),
        }
    }

    fn scrape(metrics: &Metrics) -> String {
        metrics.scrape(&EngineGauges::default())
    }

    #[test]
    fn a_plugins_numbers_are_series_of_its_route() {
        let (metrics, judge) = (Metrics::new(), plugin("judge"));
        metrics.add(&judge, "support", "passed", 2);
        metrics.add(&judge, "support", "passed", 3);
        metrics.add(&judge, "sales", "passed", 1);
        metrics.observe(&judge, "support", "score", 0.5);
        metrics.observe(&judge, "support", "score", 70.0);
        let text = scrape(&metrics);
        for line in [
            "gapura_plugin_values_total{name=\"passed\",plugin=\"judge\",route=\"support\"} 5",
            "gapura_plugin_values_total{name=\"passed\",plugin=\"judge\",route=\"sales\"} 1",
            "gapura_plugin_value_sum{name=\"score\",plugin=\"judge\",route=\"support\"} 70.5",
            "gapura_plugin_value_bucket{name=\"score\",plugin=\"judge\",route=\"support\",le=\"0.5\"} 1",
            "gapura_plugin_value_bucket{name=\"score\",plugin=\"judge\",route=\"support\",le=\"100\"} 2",
        ] {
            assert!(text.contains(line), "{line} is missing of {text}");
        }
        assert!(!text.contains("gapura_plugin_values_dropped_total{"));
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (metrics, judge) = (Metrics::new(), plugin("judge"));
        let long = "a".repeat(MAX_NAME_BYTES + 1);
        for name in ["", "Upper", "9th", "_a", "a-b", "a\"b", "a\n", "é", &long] {
            metrics.add(&judge, "support", name, 1);
        }
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            metrics.observe(&judge, "support", "score", value);
        }
        let dropped = "dropped_total{plugin=\"judge\",route=\"support\"} 12";
        assert!(scrape(&metrics).contains(dropped), "{}", scrape(&metrics));
        assert!(!scrape(&metrics).contains("gapura_plugin_value_sum"));
        metrics.add(&judge, "support", &"a".repeat(MAX_NAME_BYTES), 1);
        assert!(
            scrape(&metrics).contains(dropped),
            "the longest there may be"
        );
    }

    #[test]
    fn ten_thousand_names_are_thirty_two() {
        let (metrics, judge) = (Metrics::new(), plugin("judge"));
        for index in 0..10_000 {
            metrics.add(&judge, "support", &format!("n{index}"), 1);
        }
        metrics.observe(&judge, "support", "n7", 1.0);
        metrics.add(&plugin("other"), "support", "mine", 1);
        let text = scrape(&metrics);
        let series = text.lines().filter(|line| {
            line.starts_with("gapura_plugin_values_total{") && line.contains("\"judge\"")
        });
        assert_eq!(series.count(), MAX_NAMES);
        assert!(text.contains("dropped_total{plugin=\"judge\",route=\"support\"} 9968"));
        assert!(text.contains("name=\"mine\",plugin=\"other\""));
        assert!(
            text.contains("gapura_plugin_value_count{name=\"n7\""),
            "a known name"
        );
    }
}
