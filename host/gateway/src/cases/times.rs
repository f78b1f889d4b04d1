//! How long a plugin's calls take.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use gapura_plugin_runtime::{CallObserver, GuestCall, Plugin, PluginId};

/// What the calls of a plugin took, over many requests.
#[derive(Debug, Clone, Default)]
pub struct CallTimes {
    /// By function, in the order in which they were first called: `instantiate`, `validate`,
    /// `render`, `processor`, `push`, `finish`.
    pub calls: Vec<(&'static str, Percentiles)>,
    /// All calls of a request together, but for those of its deltas.
    pub request: Percentiles,
}

/// Of a set of durations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// How many there are.
    pub count: usize,
    /// Half of them take longer.
    pub p50: Duration,
    /// One in a hundred takes longer.
    pub p99: Duration,
}

impl Percentiles {
    fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |part: usize| {
            let index = (durations.len() * part / 100).min(durations.len().saturating_sub(1));
            durations.get(index).copied().unwrap_or_default()
        };
        Self {
            count: durations.len(),
            p50: at(50),
            p99: at(99),
        }
    }
}

/// Takes down what one plugin's calls take.
pub(super) struct Taken {
    plugin: PluginId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    calls: Vec<(&'static str, Vec<Duration>)>,
    requests: Vec<Duration>,
    /// Of the request under way.
    request: Duration,
}

impl Taken {
    pub(super) fn new(plugin: &Plugin) -> Self {
        Self {
            plugin: plugin.id().clone(),
            state: Mutex::default(),
        }
    }

    pub(super) fn end_request(&self) {
        self.with(|state| state.requests.push(std::mem::take(&mut state.request)));
    }

    pub(super) fn times(&self) -> CallTimes {
        self.with(|state| {
            let State {
                calls, requests, ..
            } = std::mem::take(state);
            CallTimes {
                calls: calls
                    .into_iter()
                    .map(|(function, taken)| (function, Percentiles::of(taken)))
                    .collect(),
                request: Percentiles::of(requests),
            }
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl CallObserver for Taken {
    fn observe(&self, call: &GuestCall<'_>) {
        if *call.plugin != self.plugin {
            return;
        }
        self.with(|state| {
            if call.function != "push" {
                state.request += call.duration;
            }
            match state
                .calls
                .iter_mut()
                .find(|(function, _)| *function == call.function)
            {
                Some((_, taken)) => taken.push(call.duration),
                None => state.calls.push((call.function, vec![call.duration])),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_few_and_of_many() {
        let millis = |range: std::ops::Range<u64>| range.map(Duration::from_millis).collect();
        assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
        let one = Percentiles::of(millis(7..8));
        assert_eq!(
            (one.count, one.p50, one.p99),
            (1, one.p99, Duration::from_millis(7))
        );
        let many = Percentiles::of(millis(0..1000));
        assert_eq!(many.p50, Duration::from_millis(500));
        assert_eq!(many.p99, Duration::from_millis(990));
    }
}
